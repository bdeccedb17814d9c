"""The administration API over a real database, reached as a server would reach it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from starlette.applications import Starlette

from gateway import plugins
from gateway.admin import House
from gateway.control import control_plane
from gateway.core.limits import Limit
from gateway.core.records import OutcomeRecord
from gateway.identity.directory import Directory
from gateway.quotas.memory import MemoryStore
from gateway.quotas.windows import Calendar
from gateway.storage import ledger, quotas, users
from gateway.storage.engine import Database
from gateway.storage.migrate import migrate
from gateway.world import World
from tests.ledger.support import outcome
from tests.support.calls import CHAT, COMPLETIONS, EMBEDDINGS, a_model, a_route, a_target, priced
from tests.support.database import PEPPER, database_url, issue_key

UTC = ZoneInfo("UTC")
ROOT, ADA, EVE = "root@example.com", "ada@example.com", "eve@example.com"


@dataclass(frozen=True)
class _Snapshot:
    routes: dict[str, Any]


class Office:
    """Three callers: an administrator, and Ada and Eve, who are none. `keys` are theirs by e-mail."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.directory = Directory(database, PEPPER, lambda: ())
        self.counters = MemoryStore(Calendar(UTC))
        self.keys: dict[str, str] = {}
        route = a_route(a_target(a_model(prices=priced(1_000_000, 1_000_000))))
        chain = tuple(plugins.policy(name, {}) for name in ("model_access", "rate_limit", "concurrency", "quota"))
        snapshot: Any = _Snapshot({"m": route, "other": route})
        world = World(snapshot, chain, {})
        endpoints = {each.name: each for each in (CHAT, COMPLETIONS, EMBEDDINGS)}
        self.house = House(database, self.directory, self.counters, lambda: world, endpoints)
        self.app: Starlette = control_plane(lambda path: [], self.house)

    async def open(self) -> None:
        for user in (ROOT, ADA, EVE):
            self.keys[user] = await issue_key(self.database, user=user)
        async with self.database.write() as session:
            await users.update(session, ROOT, role="admin")
        await self.directory.refresh()

    async def limit(self, *limits: Limit) -> None:
        async with self.database.write() as session:
            for limit in limits:
                await quotas.put(session, limit)
        await self.directory.refresh()

    async def write(self, *rows: OutcomeRecord) -> None:
        async with self.database.write() as session:
            await ledger.insert_rows(session, rows, UTC)

    async def ask(
        self, path: str, body: Any = None, *, user: str | None = ADA, method: str | None = None, **headers: str
    ) -> httpx.Response:
        """As a user, or without a key (None); a POST when there is a body, which is JSON or bytes as given."""
        if user is not None:
            headers["authorization"] = f"Bearer {self.keys[user]}"
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", trust_env=False) as client:
            method = method or ("GET" if body is None else "POST")
            return await client.request(method, f"/api/v1{path}", content=content, headers=headers)


def a_row(request_id: str, user: str = ADA, **changes: Any) -> OutcomeRecord:
    return outcome(request_id, user=user, created_at=time.time(), **changes)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, made once."""
    directory = tmp_path_factory.mktemp("template")
    migrate(database_url(directory))
    return directory / "aidock.db"


@pytest.fixture
async def office(tmp_path: Path, template: Path) -> AsyncIterator[Office]:
    shutil.copy(template, tmp_path / "aidock.db")
    database = Database.open(database_url(tmp_path), tmp_path)
    made = Office(database)
    await made.open()
    yield made
    await made.directory.close()
    await database.close()

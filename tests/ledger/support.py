"""Records, sinks and small helpers for the stories of this room."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.core.records import IntentRecord, OutcomeRecord
from gateway.ledger.delivery import PoisonRow, SinkUnavailable
from gateway.ledger.journal import FileJournal

CREATED_AT = 1_790_000_000.0
_CALL: dict[str, Any] = {
    "created_at": CREATED_AT,
    "user": "alice@example.com",
    "department": "research",
    "key_id": "k1",
    "endpoint": "chat",
    "model_id": "gpt-4o-mini",
    "provider": "openai",
    "upstream_model": "gpt-4o-mini",
    "streamed": True,
    "price_version": "2026-01",
}


def intent(request_id: str, **changes: Any) -> IntentRecord:
    record = IntentRecord(request_id=request_id, **_CALL, reserved_tokens=1000, reserved_cost=200)
    return record._replace(**changes)


def outcome(request_id: str, **changes: Any) -> OutcomeRecord:
    record = OutcomeRecord(
        request_id=request_id,
        **_CALL,
        kind="charge",
        status=200,
        outcome="ok",
        prompt_tokens=12,
        completion_tokens=34,
        cached_tokens=None,
        reasoning_tokens=None,
        usage_source="upstream",
        cost_microusd=56,
        latency_ms=789,
        first_token_ms=90,
    )
    return record._replace(**changes)


def serve(journal: FileJournal, count: int, start: int = 0) -> list[str]:
    """Calls that begin and end at once; their ids sort in the order of the calls."""
    ids = [f"r{n:05d}" for n in range(start, start + count)]
    for request_id in ids:
        journal.intent(intent(request_id))
        journal.outcome(outcome(request_id))
    return ids


def names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


async def abandon(journal: FileJournal) -> None:
    """As a killed process leaves it: nothing is tidied up, and the lock goes with the process."""
    await journal._log.close()
    journal.home.release()


class ListSink:
    """A ledger table in memory, keyed as the real one. `down` makes it refuse; ids in `poison` can never be stored."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, str], OutcomeRecord] = {}
        self.batches: list[int] = []
        self.attempts = 0
        self.down = False
        self.lose_replies = 0
        self.poison: set[str] = set()
        self.defect: Exception | None = None

    async def insert(self, rows: Sequence[OutcomeRecord]) -> int:
        self.attempts += 1
        if self.down:
            raise SinkUnavailable("the database is away")
        if self.defect is not None:
            raise self.defect
        if any(row.request_id in self.poison for row in rows):
            raise PoisonRow("a value that cannot be stored")
        new = [row for row in rows if (row.request_id, row.kind) not in self.stored]
        self.stored.update({(row.request_id, row.kind): row for row in rows if row in new})
        self.batches.append(len(rows))
        if self.lose_replies:
            self.lose_replies -= 1
            raise SinkUnavailable("the connection broke after COMMIT")
        return len(new)

    @property
    def ids(self) -> list[str]:
        return [request_id for request_id, _ in self.stored]

    def of_kind(self, kind: str) -> set[str]:
        return {request_id for request_id, stored in self.stored if stored == kind}


class SqliteSink:
    """A ledger table in a real database, for processes that share one."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        columns = ", ".join(f'"{name}"' for name in OutcomeRecord._fields)
        key = "PRIMARY KEY (request_id, kind, number)"
        self._connection.execute(f"CREATE TABLE IF NOT EXISTS ledger ({columns}, {key})")
        self._insert = (
            f"INSERT INTO ledger VALUES ({','.join('?' * len(OutcomeRecord._fields))}) ON CONFLICT DO NOTHING"
        )

    async def insert(self, rows: Sequence[OutcomeRecord]) -> int:
        before = self._connection.total_changes
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(self._insert, [row._replace(decisions=None) for row in rows])
        self._connection.execute("COMMIT")
        return self._connection.total_changes - before

    def keys(self) -> list[tuple[str, str]]:
        return self._connection.execute("SELECT request_id, kind FROM ledger").fetchall()

    def close(self) -> None:
        self._connection.close()

"""The counting half of gateways: a ledger, a counter store, and gateways on them that run calls when told."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from zoneinfo import ZoneInfo

from gateway.core.call import Call
from gateway.core.limits import Actual, Claim, Granted, Limit
from gateway.core.ports import RecountableStore, StoreUnavailable
from gateway.core.records import OutcomeRecord
from gateway.quotas.memory import MemoryStore
from gateway.quotas.redis import RedisStore
from gateway.quotas.windows import Calendar
from gateway.recount import Pace, Recount
from gateway.roll import Roll
from gateway.storage import ledger
from gateway.storage.engine import Database
from tests.ledger.support import outcome
from tests.support.calls import ADA, a_call, a_limit
from tests.support.redis_server import RedisServer
from tests.support.until import until

UTC = ZoneInfo("UTC")
PACE = Pace(ahead=0.3, clocks_apart=0.1, pulse=0.02, quick=0.05, slow=0.3, fresh=2.0, landing=0.1, ask=0.02)
TOKENS = a_limit("tokens", 100_000)
USED = Actual(1, 46, 56)
"""What a row of `outcome` amounts to."""


class CountingGateway:
    """The counting half of a gateway: its calls, its recount, and rows that land when told, or when they are asked for
    while `landing` is set."""

    def __init__(
        self,
        database: Database,
        store: RecountableStore,
        pace: Pace = PACE,
        adopt: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.store = store
        self.landing = asyncio.Event()
        self.landing.set()
        self.name = uuid.uuid4().hex
        self.roll = None if isinstance(store, MemoryStore) else Roll(database, self.name)
        self.calls: dict[str, Call] = {}
        self._database = database
        self._rows: list[OutcomeRecord] = []
        self.recount = Recount(
            store,
            database,
            UTC,
            running=lambda: list(self.calls.values()),
            flush=self._flush,
            alone=isinstance(store, MemoryStore),
            pace=pace,
            roll=self.roll,
            adopt=adopt,
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self, *limits: Limit) -> None:
        await self.store.start("here")
        await self.recount.prepare("file", limits)
        await self.recount.begin()
        self._task = asyncio.create_task(self.recount.run())

    async def stop(self) -> None:
        await self.die()
        if self.roll is not None:
            await self.roll.leave()

    async def die(self) -> None:
        """Stop, and tell nobody."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        await self.store.close()

    async def begin(self, request_id: str, *limits: Limit) -> None:
        call = a_call(request_id=request_id)
        call.created_at = self.store.now()
        call.claims = [Claim(limit, 1 if limit.metric in ("requests", "parallel") else 60) for limit in limits]
        verdict = await self.store.reserve(request_id, call.claims, 60, call.created_at)
        assert isinstance(verdict, Granted)
        call.created_at = verdict.at
        self.calls[request_id] = call

    def end(self, request_id: str) -> None:
        """The call settles; its row is under way to the ledger."""
        call = self.calls.pop(request_id)
        self.store.settle(request_id, call.claims, call.created_at, USED)
        self._rows.append(outcome(request_id, created_at=call.created_at, user=ADA.user))

    async def _flush(self) -> None:
        await self.landing.wait()
        await self.land()

    async def land(self) -> None:
        rows, self._rows = self._rows, []
        async with self._database.write() as session:
            await ledger.insert_rows(session, rows, UTC)

    async def settled(self, limit: Limit) -> int:
        return next((count.settled for count in await self.store.audit([limit])), 0)

    async def reserved(self, limit: Limit) -> int:
        return sum([count.reserved for count in await self.store.audit([limit])])


class Scene:
    """A ledger, a counter store of one kind, and any number of gateways on them."""

    def __init__(self, database: Database, redis: RedisServer | None) -> None:
        self.database = database
        self.redis = redis
        self._memory = MemoryStore(Calendar(UTC))
        self._gateways: list[CountingGateway] = []

    def gateway(self, pace: Pace = PACE, adopt: Callable[[], Awaitable[None]] | None = None) -> CountingGateway:
        store: RecountableStore = self._memory if self.redis is None else RedisStore(self.redis.url, Calendar(UTC))
        made = CountingGateway(self.database, store, pace, adopt)
        self._gateways.append(made)
        return made

    async def past(self, *request_ids: str, **changes: Any) -> None:
        """Rows that are in the ledger already."""
        now = self._memory.now()
        changes = {"created_at": now, "user": ADA.user, **changes}
        async with self.database.write() as session:
            await ledger.insert_rows(session, [outcome(name, **changes) for name in request_ids], UTC)

    async def close(self) -> None:
        for gateway in self._gateways:
            await gateway.stop()
        await self.database.close()


async def becomes(read: Callable[[], Any], wanted: int) -> None:
    async def is_so() -> bool:
        return bool(await read() == wanted)

    await until(is_so)


async def granted(gateway: CountingGateway) -> bool:
    try:
        await gateway.store.reserve("probe", [Claim(TOKENS, 0)], 60, gateway.store.now())
    except StoreUnavailable:
        return False
    gateway.store.settle("probe", (), gateway.store.now(), Actual())
    return True

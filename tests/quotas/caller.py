"""A gateway's calls as a counter store sees them: each settles with the claims and the moment it reserved with."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from zoneinfo import ZoneInfo

from gateway.core.limits import Actual, Claim, Denied, Granted, Level, Limit
from gateway.core.ports import RecountableStore, StoreUnavailable
from gateway.quotas.redis import RedisStore
from gateway.quotas.windows import Calendar
from tests.support.until import until

UTC = ZoneInfo("UTC")
INSTALLATION = "here"
LEASE_S = 60.0
TOKENS = Limit("user", "ada", "tokens", "month", 10**9)
CALLS = Limit("user", "ada", "parallel", "none", 1000)


async def opened(store: RecountableStore, installation: str = INSTALLATION) -> RecountableStore:
    """A store that has been started and is open, rebuilt with nothing where it was empty."""
    await store.start(installation)
    if await store.pulse() == "lost":
        assert await store.begin_rebuild()
        assert await store.end_rebuild()
    return store


@asynccontextmanager
async def redis_caller(
    url: str,
    prefix: str = "",
    clock: Callable[[], float] = time.monotonic,
    decision_s: float = 5.0,
    installation: str = INSTALLATION,
) -> AsyncIterator[Caller]:
    """A store in Redis, patient unless the test is about time: a busy machine is not a store that is down."""
    store = RedisStore(url, Calendar(UTC), prefix=prefix or uuid.uuid4().hex, clock=clock, decision_s=decision_s)
    try:
        yield Caller(await opened(store, installation))
    finally:
        await store.close()


async def back(store: Caller) -> None:
    """Wait until the store answers again."""

    async def answers() -> bool:
        try:
            await store.store.late()
        except StoreUnavailable:
            return False
        return True

    await until(answers)


class Caller:
    """Makes calls on a store."""

    def __init__(self, store: RecountableStore) -> None:
        self.store = store
        self._made: dict[str, tuple[Sequence[Claim], float]] = {}

    async def reserve(
        self, rid: str, claims: Sequence[Claim], lease_s: float = 60.0, at: float | None = None
    ) -> Granted | Denied:
        at = self.store.now() if at is None else at
        self._made.setdefault(rid, (claims, at))
        answer = await self.store.reserve(rid, claims, lease_s, at)
        if isinstance(answer, Granted):
            self._made[rid] = (claims, answer.at)
        return answer

    def settle(self, rid: str, actual: Actual) -> None:
        claims, at = self._made.get(rid, ((), self.store.now()))
        self.store.settle(rid, claims, at, actual)

    async def peek(self, limits: Sequence[Limit]) -> Sequence[Level]:
        return await self.store.peek(limits)

    async def used(self, *limits: Limit) -> list[int]:
        return [level.used for level in await self.store.peek(limits)]

    async def settled(self, *limits: Limit) -> list[int]:
        return [count.settled for count in await self.store.audit(limits)]

    async def reserved(self, *limits: Limit) -> list[int]:
        return [count.reserved for count in await self.store.audit(limits)]

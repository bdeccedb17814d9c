"""The rules of tests/quotas/machine.py, happening to the pure state machine, to the memory store, and to Redis.

More than ten thousand steps together; AIDOCK_SOAK=1 makes it fifteen times as many.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from redis import Redis

from gateway.core.limits import Actual, Base, Claim, Count, Denied, Granted, Level, Limit
from gateway.quotas.memory import MemoryStore
from gateway.quotas.redis import RedisStore
from gateway.quotas.reservation import Counter, Reservations
from gateway.quotas.windows import Calendar, bucket_at
from tests.quotas.machine import LEASE_S, LIMITS, Rules
from tests.quotas.oracle import ZONE, CounterId
from tests.support.redis_server import RedisServer, redis_server

T = TypeVar("T")

MORE = 15 if os.environ.get("AIDOCK_SOAK") == "1" else 1
STEPS = 50
MONTHS_END = datetime(2026, 11, 30, 23, 59, 30, tzinfo=UTC).timestamp()
STRIDE_S = 2.0
"""A pulse at least so often: leases run on watched time."""


def at_once(work: Awaitable[T]) -> T:
    """Run a coroutine that must not suspend."""
    try:
        work.send(None)  # type: ignore[attr-defined]
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]
    raise AssertionError("a store in memory has awaited something")


class PureStore:
    """The least that makes the pure state machine a store."""

    def __init__(self, reservations: Reservations) -> None:
        self.reservations = reservations
        self.time = MONTHS_END
        self.turns = 0
        self.counters: dict[CounterId, Counter] = {}

    def now(self) -> float:
        return round(self.time, 3)

    def counter(self, limit: Limit, at: float) -> Counter:
        bucket = bucket_at(limit.window, at, ZONE)
        key = (LIMITS.index(next(each for each in LIMITS if _same(each, limit))), bucket.starts_at)
        if key not in self.counters:
            self.counters[key] = Counter(limit.metric, bucket.starts_at, bucket.ends_at)
        return self.counters[key]

    async def reserve(
        self, rid: str, claims: Sequence[Claim], lease_s: float, at: float, by: float | None = None
    ) -> Granted | Denied:
        self.reservations.expire(self.time)
        counters = [self.counter(claim.limit, at) for claim in claims]
        refused = None
        if not self.reservations.knows(rid):
            refused = self.reservations.hold(rid, claims, counters, at, self.time + lease_s)
        levels = [
            Level(claim.limit, counter.settled + counter.reserved, None)
            for claim, counter in zip(claims, counters, strict=True)
        ]
        if refused is not None:
            return Denied(levels[refused])
        over = [i for i, level in enumerate(levels) if level.used > level.limit.amount and level.limit.action != "deny"]
        return Granted(tuple(levels), tuple(over), at)

    def settle(self, rid: str, claims: Sequence[Claim], at: float, actual: Actual) -> None:
        counters = dict.fromkeys(self.counter(claim.limit, at) for claim in claims)
        self.reservations.settle(rid, counters, at, actual, self.time)

    async def renew(self, rids: Sequence[str], lease_s: float) -> Sequence[str]:
        return [rid for rid in rids if not self.reservations.renew(rid, self.time + lease_s)]

    async def hold(self, rid: str, claims: Sequence[Claim], lease_s: float, at: float) -> None:
        if not self.reservations.renew(rid, self.time + lease_s):
            counters = [self.counter(claim.limit, at) for claim in claims]
            self.reservations.hold(rid, claims, counters, at, self.time + lease_s, asking=False)

    async def peek(self, limits: Sequence[Limit]) -> Sequence[Level]:
        self.reservations.expire(self.time)
        counters = [self.counter(limit, self.time) for limit in limits]
        return [
            Level(limit, counter.settled + counter.reserved, None)
            for limit, counter in zip(limits, counters, strict=True)
        ]

    async def pulse(self) -> str:
        self.reservations.expire(self.time)
        return "open"

    async def cut(self, limits: Sequence[Limit], ahead_s: float) -> None:
        since = round(self.now() + ahead_s + 0.001, 3)
        for limit in limits:
            if limit.metric != "parallel":
                counter = self.counter(limit, self.time)
                counter.cut(since)
                if counter.until < since:
                    self.counter(limit, counter.until).cut(since)

    async def audit(self, limits: Sequence[Limit]) -> Sequence[Count]:
        counters = [(limit, self.counter(limit, self.time)) for limit in limits if limit.metric != "parallel"]
        return [Count(limit, c.starts_at, c.ends_at, c.since, c.based, c.settled, c.reserved) for limit, c in counters]

    async def held(self) -> Sequence[str]:
        return list(self.reservations.live)

    async def late(self) -> Sequence[str]:
        return list(self.reservations.late)

    async def turn(self) -> int:
        return self.turns

    async def rebase(self, bases: Sequence[Base], landed: Sequence[str], turn: int, *, raising: bool = False) -> bool:
        if turn != self.turns:
            return False
        self.turns += 1
        found = [(self.counter(count.limit, count.starts_at), count.since, used) for count, used in bases]
        sums = [(counter, used) for counter, since, used in found if counter.since == since]
        self.reservations.rebase(sums, landed, self.time, raising=raising)
        return True


def _same(one: Limit, other: Limit) -> bool:
    return (one.scope, one.subject, one.metric, one.window) == (other.scope, other.subject, other.metric, other.window)


class InMemory(Rules):
    """Time is the test's own, and it passes over the edges of windows. A store that loses everything is one whose
    process starts anew."""

    reservations: ClassVar[type[Reservations]] = Reservations

    def run(self, work: Awaitable[T]) -> T:
        return at_once(work)

    def advance(self, seconds: float) -> None:
        raise NotImplementedError

    @rule(seconds=st.sampled_from([0.001, 0.5, 5.0, 15.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        while seconds > 0:
            self.advance(min(seconds, STRIDE_S))
            seconds -= STRIDE_S
            self.run(self.store.pulse())
        for call in self.oracle.calls.values():
            if call.stored == "held" and call.deadline <= self.store.now():
                call.stored = "lapsed"

    def lapse(self, rids: Sequence[str]) -> None:
        for _ in range(int(LEASE_S / 10) + 1):
            self.renew(0)
            self.renew(1)
            self.time_passes(10.0)

    def after_the_loss(self) -> None:
        """A store in memory is open from its start; whoever starts it counts up before anybody is served."""
        for rid, call in self.oracle.calls.items():
            if call.running:
                self.hold(rid)
        self.oracle.step += 1
        self.cut_now(range(len(LIMITS)), 0.0)
        self.recount()


class PureRules(InMemory):
    def __init__(self) -> None:
        super().__init__()
        self.pure = PureStore(self.reservations(MONTHS_END))
        self.store = self.pure  # type: ignore[assignment]

    def advance(self, seconds: float) -> None:
        self.pure.time += seconds

    def stands(self, counters: Sequence[CounterId]) -> list[tuple[int, int]]:
        self.pure.reservations.expire(self.pure.time)
        found = [self.pure.counters.get(counter) for counter in counters]
        return [(0, 0) if counter is None else (counter.settled, counter.reserved) for counter in found]

    def empty(self) -> None:
        now = self.pure.time
        self.pure = PureStore(self.reservations(now))
        self.pure.time = now
        self.store = self.pure  # type: ignore[assignment]


class MemoryRules(InMemory):
    def __init__(self) -> None:
        super().__init__()
        self.time = MONTHS_END
        self.memory = self.make()
        self.store = self.memory

    def make(self) -> MemoryStore:
        store = MemoryStore(Calendar(ZONE), clock=lambda: self.time, monotonic=lambda: self.time)
        store._reservations = self.reservations(self.time)
        return store

    def advance(self, seconds: float) -> None:
        self.time += seconds

    def stands(self, counters: Sequence[CounterId]) -> list[tuple[int, int]]:
        found = [self.memory._known(LIMITS[index], starts_at) for index, starts_at in counters]
        return [(0, 0) if counter is None else (counter.settled, counter.reserved) for counter in found]

    def empty(self) -> None:
        self.memory = self.store = self.make()


class RedisRules(Rules):
    """Time is the server's own: a lease is made to run out by renewing it for a millisecond, and calls that began up
    to a minute ago reach over the edges of windows."""

    server: ClassVar[RedisServer]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.prefix = uuid.uuid4().hex
        self.redis = RedisStore(self.server.url, Calendar(ZONE), prefix=self.prefix, decision_s=10.0)
        self.store = self.redis
        self.raw = Redis.from_url(self.server.url)
        self.run(self.redis.start("here"))
        assert self.run(self.redis.begin_rebuild())
        assert self.run(self.redis.end_rebuild())

    def teardown(self) -> None:
        self.run(self.redis.close())
        self.loop.close()
        self.raw.close()

    def run(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(work)  # type: ignore[arg-type]

    def lapse(self, rids: Sequence[str]) -> None:
        self.run(self.store.renew(list(rids), 0.001))
        time.sleep(0.003)
        self.run(self.store.pulse())

    def empty(self) -> None:
        self.raw.flushall()

    def after_the_loss(self) -> None:
        self.lost = True

    def stands(self, counters: Sequence[CounterId]) -> list[tuple[int, int]]:
        self.run(self.store.late())  # in order behind what was posted
        pipeline = self.raw.pipeline(transaction=False)
        for index, starts_at in counters:
            pipeline.hmget(self.redis._slots.make(LIMITS[index], starts_at).key, "c", "u", "r")
        told = [[int(each or 0) for each in counts] for counts in pipeline.execute()]
        return [(carried + posted, reserved) for carried, posted, reserved in told]


def explored(examples: int, *, shrinking: bool = True, **changes: Any) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.reuse, Phase.generate, *([Phase.shrink] if shrinking else [])],
        **changes,
    )


def holds(rules: type[Rules], steps: int) -> None:
    """The invariants hold at every one of so many steps, in which enough has happened."""
    counted = type(rules.__name__, (rules,), {"steps": [0], "settlements": [0]})
    while counted.steps[0] < steps * MORE:
        run_state_machine_as_test(counted, settings=explored(20))
    assert counted.settlements[0] >= counted.steps[0] / 50


@pytest.mark.timeout(120 * MORE)
def test_the_pure_state_machine_keeps_its_invariants() -> None:
    holds(PureRules, 4500)


@pytest.mark.timeout(120 * MORE)
def test_the_memory_store_keeps_the_invariants() -> None:
    holds(MemoryRules, 4500)


@pytest.mark.timeout(120 * MORE)
def test_redis_keeps_the_invariants() -> None:
    with redis_server() as server:
        holds(type("RedisRules", (RedisRules,), {"server": server}), 2000)


class WithoutTombstones(Reservations):
    """Forgets at once what has settled."""

    def settle(self, rid: str, *about: Any) -> None:
        super().settle(rid, *about)
        self.settled.pop(rid, None)


class WithAddedBases(Reservations):
    """Adds what the ledger says to what it knows."""

    def rebase(self, sums: Iterable[tuple[Counter, int]], landed: Iterable[str], now: float, **how: bool) -> None:
        super().rebase([(counter, counter.carried + used) for counter, used in sums], landed, now, **how)


class WithSettlementsOfHoldsOnly(Reservations):
    """Posts only what is held."""

    def settle(self, rid: str, counters: Iterable[Counter], *about: Any) -> None:
        super().settle(rid, counters if rid in self.live else (), *about)


class WithoutLateCalls(Reservations):
    """Forgets who settled behind the line."""

    def rebase(self, sums: Iterable[tuple[Counter, int]], landed: Iterable[str], now: float, **how: bool) -> None:
        self.late.clear()
        super().rebase(sums, landed, now, **how)


@pytest.mark.parametrize(
    "broken",
    [WithoutTombstones, WithAddedBases, WithSettlementsOfHoldsOnly, WithoutLateCalls],
    ids=lambda b: b.__name__,
)
@pytest.mark.parametrize("rules", [PureRules, MemoryRules], ids=lambda rules: rules.__name__)
def test_a_store_that_breaks_a_rule_is_caught(rules: type[Rules], broken: type[Reservations]) -> None:
    """The negative controls: a bar that nothing fails to clear is none."""
    wrong = type(broken.__name__, (rules,), {"reservations": broken})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            wrong, settings=explored(300, shrinking=False, database=None, derandomize=True, report_multiple_bugs=False)
        )

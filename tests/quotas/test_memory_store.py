"""What only the memory store has: injected clocks, their jumps, bounds. The rest is in tests/contract."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from gateway.core.limits import NOTHING, Actual, Base, Claim, Granted, Limit
from gateway.quotas.connect import counter_store
from gateway.quotas.memory import MemoryStore
from gateway.quotas.redis import RedisStore
from gateway.quotas.windows import Calendar
from tests.quotas.caller import Caller

BERLIN = ZoneInfo("Europe/Berlin")
MINUTELY = Limit("user", "ada", "tokens", "minute", 100)
HOURLY = Limit("user", "ada", "tokens", "hour", 1000)
DAILY = Limit("user", "ada", "tokens", "day", 100)
MONTHLY = Limit("user", "ada", "tokens", "month", 1000)
CALLS = Limit("user", "ada", "parallel", "none", 5)


class Clock:
    """The machine's: `wall` can be set, `monotonic` only passes."""

    def __init__(self, *parts: int) -> None:
        self.wall = datetime(*parts, tzinfo=BERLIN).timestamp()  # type: ignore[arg-type, misc]
        self.monotonic = 5000.0

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def opened(clock: Clock) -> Caller:
    return Caller(MemoryStore(Calendar(BERLIN), clock=lambda: clock.wall, monotonic=lambda: clock.monotonic))


def memory(store: Caller) -> MemoryStore:
    assert isinstance(store.store, MemoryStore)
    return store.store


async def used(store: Caller, *limits: Limit) -> list[int]:
    return await store.used(*limits)


async def test_a_call_over_midnight_is_charged_to_the_day_it_began() -> None:
    clock = Clock(2026, 11, 30, 23, 59, 55)
    store = opened(clock)
    await store.reserve("a", [Claim(DAILY, 100), Claim(MONTHLY, 100)], 60)
    clock.passes(10)
    store.settle("a", Actual(tokens=80))
    assert await used(store, DAILY, MONTHLY) == [0, 0]
    assert isinstance(await store.reserve("b", [Claim(DAILY, 100)], 60), Granted)


async def test_a_month_goes_on_when_its_day_turns() -> None:
    clock = Clock(2026, 11, 22, 23, 59, 55)
    store = opened(clock)
    await store.reserve("a", [Claim(DAILY, 100), Claim(MONTHLY, 100)], 60)
    store.settle("a", Actual(tokens=80))
    clock.passes(10)
    assert await used(store, DAILY, MONTHLY) == [0, 80]


async def test_levels_say_how_many_seconds_are_left() -> None:
    clock = Clock(2026, 11, 22, 23, 59, 55)
    clock.passes(0.25)
    assert [level.resets_in for level in await opened(clock).peek([DAILY, CALLS])] == [5, None]


async def test_turns_that_calls_may_still_settle_in_are_kept_and_no_others() -> None:
    clock = Clock(2026, 11, 22, 12)
    store = opened(clock)
    for minute in range(30):
        for claims in ([Claim(MINUTELY, 1)], [Claim(MINUTELY, 1), Claim(DAILY, 1), Claim(CALLS, 1)]):
            rid = f"{minute} {len(claims)}"
            await store.reserve(rid, claims, 60)
            store.settle(rid, Actual(tokens=1))
        clock.passes(60)
        await store.store.pulse()
    kept = []
    counter = next(each for key, each in memory(store)._counters.items() if key[3] == "minute")
    while counter is not None:
        kept.append(counter.settled)
        counter = counter.before
    assert kept == [2] * 10
    assert {key[3] for key in memory(store)._counters} == {"minute", "day"}
    clock.passes(86_400 + 600)
    await store.store.pulse()
    assert memory(store)._counters == {}


async def test_of_ids_that_have_ended_the_newest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.quotas.memory.KEPT_ENDED", 3)
    clock = Clock(2026, 11, 22, 12)
    store = opened(clock)
    for number in range(10):
        store.store.settle(f"r{number}", (), store.store.now(), NOTHING)
        clock.passes(20)
    await store.store.pulse()
    known = [f"r{number}" for number in range(10)]
    assert list(await store.store.renew(known, 60)) == ["r0", "r1", "r2", "r3"]


async def test_a_dead_holders_room_is_free_without_anybody_asking() -> None:
    clock = Clock(2026, 11, 22, 12)
    store = opened(clock)
    await store.reserve("dead", [Claim(MONTHLY, 7)], 60)
    counter = next(iter(memory(store)._counters.values()))
    for _ in range(30):
        assert counter.reserved == 7
        clock.passes(2)
        await store.store.pulse()
    assert counter.reserved == 0


async def test_no_lease_runs_out_while_the_process_stands_still() -> None:
    clock = Clock(2026, 11, 22, 12)
    store = opened(clock)
    await store.reserve("a", [Claim(MONTHLY, 7)], 60)
    clock.passes(90)
    await store.store.pulse()
    assert await used(store, MONTHLY) == [7]
    assert list(await store.store.renew(["a"], 60)) == []


async def follow(store: Caller, clock: Clock, seconds: int) -> str:
    """Pulses for so long; what the last one said."""
    for _ in range(seconds):
        clock.passes(1)
        state = await store.store.pulse()
    return state


@pytest.mark.parametrize("jump", [7200, -86_400, 300])
async def test_a_wall_clock_that_jumps_is_believed_when_it_has_stood_for_half_a_minute(jump: int) -> None:
    clock = Clock(2026, 11, 22, 12)
    store = opened(clock)
    began = clock.wall
    clock.wall += jump
    assert await follow(store, clock, 25) == "open"
    assert store.store.now() == began + 25
    clock.wall -= jump
    assert await follow(store, clock, 30) == "open"
    assert store.store.now() == began + 55, "it was only passing"
    clock.wall += jump
    assert await follow(store, clock, 32) == "suspect"
    assert abs(store.store.now() - clock.wall) < 1.5
    assert await follow(store, clock, 5) == "suspect"
    assert await store.store.begin_rebuild()
    assert await store.store.end_rebuild()
    assert await follow(store, clock, 100) == "open"


async def test_no_running_call_loses_its_hold_when_the_wall_clock_jumps() -> None:
    clock = Clock(2026, 11, 22, 12)
    store = opened(clock)
    await store.reserve("a", [Claim(MONTHLY, 7)], 120)
    clock.wall += 7200
    await follow(store, clock, 40)
    clock.wall -= 100_000
    await follow(store, clock, 40)
    assert await used(store, MONTHLY) == [7]
    store.settle("a", Actual(tokens=3))
    assert await used(store, MONTHLY) == [3]


async def test_after_a_step_back_no_row_lies_beyond_the_line() -> None:
    clock = Clock(2026, 11, 22, 12)
    store = opened(clock)
    await store.reserve("a", [Claim(MONTHLY, 7)], 60)
    store.settle("a", Actual(tokens=7))
    last = store.store.now()
    clock.wall -= 86_400
    assert await follow(store, clock, 40) == "suspect"
    await store.store.cut([MONTHLY], 0.0)
    (count,) = await store.store.audit([MONTHLY])
    assert count.since > last
    assert count.settled == 7
    await store.reserve("b", [Claim(MONTHLY, 5)], 60)
    store.settle("b", Actual(tokens=5))
    assert list(await store.store.late()) == ["b"]
    await store.store.rebase([Base(count, 7)], [], await store.store.turn())
    assert await store.settled(MONTHLY) == [12]


async def test_a_time_that_has_been_before_is_asked_of_the_ledger() -> None:
    """Its counter went when its window had passed; the rows are still there."""
    clock = Clock(2026, 11, 22, 12, 30)
    store = opened(clock)
    await store.reserve("a", [Claim(HOURLY, 7)], 60)
    store.settle("a", Actual(tokens=7))
    await follow(store, clock, 3600)
    clock.wall -= 3600
    assert await follow(store, clock, 40) == "suspect"
    await store.store.cut([HOURLY], 0.0)
    assert await store.store.begin_rebuild()
    assert await store.store.end_rebuild()
    (count,) = await store.store.audit([HOURLY])
    assert count.settled == 7 or not count.based
    assert count.ends_at is not None
    clock.passes(0)
    clock.wall -= 7200
    assert await follow(store, clock, 40) == "suspect"
    (earlier,) = await store.store.audit([HOURLY])
    assert not earlier.based
    assert earlier.since == earlier.ends_at
    await store.store.rebase([Base(earlier, 9)], [], await store.store.turn())
    assert await store.settled(HOURLY) == [9]


def test_urls_name_their_store() -> None:
    assert isinstance(counter_store("memory://", BERLIN), MemoryStore)
    for url in ("redis://localhost:6379/0", "rediss://localhost", "unix:///run/redis.sock"):
        assert isinstance(counter_store(url, BERLIN), RedisStore)
    with pytest.raises(ValueError, match="must be a URL"):
        counter_store("memcached://localhost", BERLIN)

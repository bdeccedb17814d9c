"""What only the memory store has: injected clocks, seeding, bounds. The rest is in tests/contract."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from gateway.core.limits import Actual, Claim, Granted, Limit
from gateway.quotas import memory
from gateway.quotas.connect import counter_store
from gateway.quotas.memory import MemoryStore
from gateway.quotas.redis import RedisStore
from gateway.quotas.windows import Calendar
from tests.support.until import until

BERLIN = ZoneInfo("Europe/Berlin")
DAILY = Limit("user", "ada", "tokens", "day", 100)
MONTHLY = Limit("user", "ada", "tokens", "month", 1000)
CALLS = Limit("user", "ada", "parallel", "none", 5)


class Clock:
    def __init__(self, *parts: int) -> None:
        self.now = datetime(*parts, tzinfo=BERLIN).timestamp()  # type: ignore[arg-type, misc]

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> MemoryStore:
    return MemoryStore(Calendar(BERLIN), clock=clock, monotonic=clock)


async def used(store: MemoryStore, *limits: Limit) -> list[int]:
    return [level.used for level in await store.peek(limits)]


async def test_a_call_over_midnight_is_charged_to_the_day_it_began() -> None:
    clock = Clock(2026, 11, 30, 23, 59, 55)
    store = opened(clock)
    await store.reserve("a", [Claim(DAILY, 100), Claim(MONTHLY, 100)], 60)
    clock.now += 10
    store.settle("a", Actual(tokens=80))
    assert await used(store, DAILY, MONTHLY) == [0, 0]
    assert isinstance(await store.reserve("b", [Claim(DAILY, 100)], 60), Granted)


async def test_a_month_goes_on_when_its_day_turns() -> None:
    clock = Clock(2026, 11, 22, 23, 59, 55)
    store = opened(clock)
    await store.reserve("a", [Claim(DAILY, 100), Claim(MONTHLY, 100)], 60)
    store.settle("a", Actual(tokens=80))
    clock.now += 10
    assert await used(store, DAILY, MONTHLY) == [0, 80]


async def test_a_clock_that_steps_back_over_midnight_forgets_nothing() -> None:
    clock = Clock(2026, 11, 23, 0, 0, 1)
    store = opened(clock)
    await store.reserve("a", [Claim(DAILY, 60)], 60)
    for step in (-2, 2):
        clock.now += step
        assert await used(store, DAILY) == [60]


async def test_levels_say_how_many_seconds_are_left() -> None:
    clock = Clock(2026, 11, 22, 23, 59, 55)
    clock.now += 0.25
    assert [level.resets_in for level in await opened(clock).peek([DAILY, CALLS])] == [5, None]


async def test_seeding_sets_what_is_used_now_whatever_the_limit_is() -> None:
    clock = Clock(2026, 11, 22, 12)
    store = opened(clock)
    store.seed(DAILY, 70)
    store.seed(Limit("user", "ada", "tokens", "day", 5, "warn"), 90)
    assert await used(store, DAILY) == [90]
    with pytest.raises(ValueError, match="integer"):
        store.seed(DAILY, -1)


async def test_a_sweep_drops_what_is_past_and_keeps_what_still_counts() -> None:
    clock = Clock(2026, 11, 22, 12)
    store = opened(clock)
    total = Limit("user", "ada", "tokens", "total", 1000)
    await store.reserve("a", [Claim(DAILY, 1), Claim(MONTHLY, 1), Claim(total, 1), Claim(CALLS, 1)], 60)
    store.sweep()
    assert len(store._counters) == 4
    store.settle("a", Actual(tokens=1))
    clock.now += 86_400
    store.sweep()
    assert {key[3] for key in store._counters} == {"month", "total"}


async def test_a_dead_holders_room_is_free_without_anybody_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SWEEP_S", 0.01)
    clock = Clock(2026, 11, 22, 12)
    store = opened(clock)
    await store.start()
    await store.reserve("dead", [Claim(MONTHLY, 7)], 60)
    clock.now += 61
    counter = next(iter(store._counters.values()))
    await until(lambda: counter.reserved == 0)
    await store.close()


def test_urls_name_their_store() -> None:
    assert isinstance(counter_store("memory://", BERLIN), MemoryStore)
    for url in ("redis://localhost:6379/0", "rediss://localhost", "unix:///run/redis.sock"):
        assert isinstance(counter_store(url, BERLIN), RedisStore)
    with pytest.raises(ValueError, match="memcached"):
        counter_store("memcached://localhost", BERLIN)

"""The pure state machine, one rule at a time. All at once, in any order: tests/quotas/test_state_machine.py."""

from __future__ import annotations

import itertools
from zoneinfo import ZoneInfo

import pytest

from gateway.core.limits import NOTHING, Actual, Base, Claim, Count, Granted, Limit
from gateway.quotas.memory import MemoryStore
from gateway.quotas.reservation import TOMBSTONE_S, UNWATCHED_S, Counter, Reservations, checked_bases, exact
from gateway.quotas.windows import Calendar

TOKENS = Limit("user", "ada", "tokens", "month", 40)
CLAIMS = [Claim(TOKENS, 10)]


def test_settlements_commute() -> None:
    outcomes = set()
    for order in itertools.permutations([("a", 3), ("b", 5), ("c", 7)]):
        reservations, counter = Reservations(0.0), Counter("tokens")
        for rid, _ in order:
            reservations.hold(rid, CLAIMS, [counter], 1.0, 4.0)
        reservations.expire(4.5)
        for rid, used in order:
            reservations.settle(rid, [counter], 1.0, Actual(tokens=used), 6.0)
        outcomes.add((counter.settled, counter.reserved))
    assert outcomes == {(15, 0)}


def test_ended_ids_are_forgotten_oldest_first_but_never_fresh_ones() -> None:
    reservations = Reservations(0.0)
    for second in range(10):
        reservations.settle(f"r{second}", (), 0.0, NOTHING, float(second))
    reservations.forget(10.0, keep=4, spare_s=2.0)
    assert list(reservations.settled) == ["r6", "r7", "r8", "r9"]
    reservations.forget(10.0, keep=0, spare_s=2.0)
    assert list(reservations.settled) == ["r8", "r9"]
    reservations.forget(TOMBSTONE_S + 8.5, keep=100, spare_s=2.0)
    assert list(reservations.settled) == ["r9"]


def test_a_shorter_renewed_lease_ends_sooner() -> None:
    reservations, counter = Reservations(0.0), Counter("tokens")
    reservations.hold("a", CLAIMS, [counter], 0.0, 100.0)
    assert reservations.renew("a", 2.0)
    assert reservations.expire(3.0) == 1
    assert counter.reserved == 0


def test_time_that_nobody_watched_does_not_count_against_leases() -> None:
    reservations, counter = Reservations(0.0), Counter("tokens")
    reservations.hold("a", CLAIMS, [counter], 0.0, 10.0)
    assert reservations.expire(4.0) == 0
    assert reservations.expire(4000.0) == 0, "nobody could renew it"
    assert reservations.expire(4000.0 + UNWATCHED_S) == 0
    assert reservations.expire(4000.0 + 6.0) == 1


def test_a_line_never_goes_back_and_ends_with_its_window() -> None:
    counter = Counter("tokens", 0, 60)
    counter.cut(50.0)
    counter.cut(20.0)
    assert counter.since == 50.0
    counter.cut(100.0)
    assert counter.since == 60


def test_late_calls_wait_two_days_for_their_row() -> None:
    reservations, counter = Reservations(0.0), Counter("tokens")
    counter.cut(50.0)
    for rid, now in (("old", 10.0), ("new", 20.0)):
        reservations.settle(rid, [counter], 5.0, Actual(tokens=5), now)
    reservations.rebase([(counter, 100)], [], TOMBSTONE_S + 15.0)
    assert list(reservations.late) == ["new"]
    assert counter.settled == 105


@pytest.mark.parametrize("amount", [True, -1, 2**50, 1.5, float("nan"), float("inf"), "7", None])
def test_only_small_plain_integers_are_amounts(amount: object) -> None:
    with pytest.raises(ValueError, match="integer"):
        exact(amount)  # type: ignore[arg-type]


@pytest.mark.parametrize("used", [True, -(2**50), 2**50, 1.5, "7", None])
def test_only_small_plain_integers_are_bases(used: object) -> None:
    count = Count(TOKENS, 0, None, 0.0, True, 0, 0)
    assert checked_bases([Base(count, -7)]) == [Base(count, -7)]
    with pytest.raises(ValueError, match="integer"):
        checked_bases([Base(count, used)])  # type: ignore[arg-type]


def test_the_memory_store_never_suspends_a_reservation() -> None:
    store = MemoryStore(Calendar(ZoneInfo("UTC")))
    work = store.reserve("a", CLAIMS, 60.0, store.now())
    with pytest.raises(StopIteration) as ended:
        work.send(None)
    assert isinstance(ended.value.value, Granted)

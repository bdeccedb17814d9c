"""What every counter store must do, the same for all."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from gateway.core.limits import (
    NOTHING,
    Action,
    Actual,
    Claim,
    Denied,
    Granted,
    Limit,
    Window,
)
from gateway.core.money import MAX_AMOUNT
from tests.contract.counters import LEASE_S, limit
from tests.quotas.caller import Caller


async def used(store: Caller, *limits: Limit) -> list[int]:
    return await store.used(*limits)


async def test_a_hold_counts_at_once_and_its_settlement_replaces_it(store: Caller) -> None:
    tokens = limit(1000)
    granted = await store.reserve("a", [Claim(tokens, 300)], LEASE_S)
    assert isinstance(granted, Granted)
    assert [(level.used, level.remaining) for level in granted.levels] == [(300, 700)]
    store.settle("a", Actual(requests=1, tokens=120, cost=9))
    assert await used(store, tokens) == [120]


async def test_all_claims_are_held_or_none(store: Caller) -> None:
    roomy, tight = limit(1000), limit(10, "cost")
    answer = await store.reserve("a", [Claim(roomy, 500), Claim(tight, 11)], LEASE_S)
    assert answer == Denied((await store.peek([tight]))[0])
    assert await used(store, roomy, tight) == [0, 0]
    assert isinstance(await store.reserve("b", [Claim(roomy, 1000), Claim(tight, 10)], LEASE_S), Granted)


async def test_a_refusal_names_the_first_limit_without_room_as_it_stands(store: Caller) -> None:
    first, second, third = limit(100, "requests"), limit(100), limit(1, "cost")
    await store.reserve("a", [Claim(second, 60)], LEASE_S)
    denied = await store.reserve("b", [Claim(first, 1), Claim(second, 41), Claim(third, 2)], LEASE_S)
    assert isinstance(denied, Denied)
    assert (denied.level.limit, denied.level.used) == (second, 60)


async def test_of_two_hundred_at_once_exactly_ten_fit(store: Caller) -> None:
    tokens = limit(1000)
    answers = await asyncio.gather(*(store.reserve(f"r{i}", [Claim(tokens, 100)], LEASE_S) for i in range(200)))
    assert sum(isinstance(answer, Granted) for answer in answers) == 10
    assert await used(store, tokens) == [1000]


async def test_an_id_that_holds_already_holds_no_more(store: Caller) -> None:
    tokens = limit(100)
    first = await store.reserve("a", [Claim(tokens, 60)], LEASE_S)
    again = await store.reserve("a", [Claim(tokens, 60)], LEASE_S)
    assert isinstance(first, Granted)
    assert isinstance(again, Granted)
    assert [level.used for level in again.levels] == [level.used for level in first.levels] == [60]
    store.settle("a", NOTHING)
    assert await used(store, tokens) == [0]


async def test_an_id_that_was_settled_is_granted_and_holds_nothing(store: Caller) -> None:
    tokens = limit(100)
    await store.reserve("a", [Claim(tokens, 60)], LEASE_S)
    store.settle("a", Actual(tokens=40))
    again = await store.reserve("a", [Claim(tokens, 60)], LEASE_S)
    assert isinstance(again, Granted)
    assert [level.used for level in again.levels] == [40]


async def test_a_refund_that_overtakes_its_reservation_leaves_nothing_held(store: Caller) -> None:
    tokens = limit(100)
    store.settle("a", NOTHING)
    assert isinstance(await store.reserve("a", [Claim(tokens, 60)], LEASE_S), Granted)
    assert await used(store, tokens) == [0]


async def test_a_lapsed_hold_makes_room_for_whoever_needs_it(store: Caller) -> None:
    tokens = limit(100)
    await store.reserve("dead", [Claim(tokens, 100)], 0.05)
    assert isinstance(await store.reserve("early", [Claim(tokens, 1)], LEASE_S), Denied)
    await asyncio.sleep(0.1)
    assert isinstance(await store.reserve("late", [Claim(tokens, 100)], LEASE_S), Granted)
    assert await used(store, tokens) == [100]


async def test_a_lapsed_hold_is_gone_when_somebody_looks(store: Caller) -> None:
    tokens, calls = limit(100), limit(5, "parallel", "none")
    await store.reserve("dead", [Claim(tokens, 100), Claim(calls, 1)], 0.05)
    await asyncio.sleep(0.1)
    assert await used(store, tokens, calls) == [0, 0]


async def test_a_renewed_hold_outlives_its_first_lease(store: Caller) -> None:
    tokens = limit(100)
    for rid in ("kept", "left"):
        await store.reserve(rid, [Claim(tokens, 10)], 0.3)
    assert list(await store.store.renew(["kept", "unknown"], LEASE_S)) == ["unknown"]
    await asyncio.sleep(0.4)
    assert await used(store, tokens) == [10]


async def test_renewing_does_not_bring_a_lapsed_hold_back(store: Caller) -> None:
    tokens = limit(100)
    await store.reserve("a", [Claim(tokens, 10)], 0.05)
    await asyncio.sleep(0.1)
    assert await used(store, tokens) == [0]
    assert list(await store.store.renew(["a"], LEASE_S)) == []
    assert await used(store, tokens) == [0]


async def test_a_settlement_after_the_lease_counts_once(store: Caller) -> None:
    tokens = limit(100)
    await store.reserve("a", [Claim(tokens, 50)], 0.05)
    await asyncio.sleep(0.1)
    assert await used(store, tokens) == [0]
    store.settle("a", Actual(tokens=30))
    store.settle("a", Actual(tokens=30))
    assert await used(store, tokens) == [30]


@pytest.mark.parametrize(("first", "then"), [(Actual(tokens=30), NOTHING), (NOTHING, Actual(tokens=30))])
async def test_the_first_settlement_stands(store: Caller, first: Actual, then: Actual) -> None:
    tokens = limit(100)
    await store.reserve("a", [Claim(tokens, 50)], LEASE_S)
    store.settle("a", first)
    store.settle("a", then)
    assert await used(store, tokens) == [first.tokens]


async def test_settlements_may_come_in_any_order(store: Caller) -> None:
    tokens = limit(100)
    for rid in ("a", "b", "c"):
        await store.reserve(rid, [Claim(tokens, 10)], LEASE_S)
    for rid, actual in (("c", 1), ("a", 2), ("b", 4)):
        store.settle(rid, Actual(tokens=actual))
    assert await used(store, tokens) == [7]


async def test_a_settlement_is_seen_by_the_calls_after_it(store: Caller) -> None:
    calls = limit(1, "parallel", "none")
    for i in range(20):
        assert isinstance(await store.reserve(f"r{i}", [Claim(calls, 1)], LEASE_S), Granted)
        store.settle(f"r{i}", Actual(requests=1))


@pytest.mark.parametrize("action", ["warn", "shadow"])
async def test_limits_that_do_not_deny_count_and_report(store: Caller, action: Action) -> None:
    soft, hard = limit(10, action=action), limit(100, "requests")
    within = await store.reserve("a", [Claim(hard, 1), Claim(soft, 10)], LEASE_S)
    past = await store.reserve("b", [Claim(hard, 1), Claim(soft, 5)], LEASE_S)
    assert isinstance(within, Granted)
    assert within.over == ()
    assert isinstance(past, Granted)
    assert past.over == (1,)
    assert await used(store, soft, hard) == [15, 2]


async def test_calls_at_once_are_counted_while_they_run_and_never_add_up(store: Caller) -> None:
    calls = limit(2, "parallel", "none")
    assert isinstance(await store.reserve("a", [Claim(calls, 1)], LEASE_S), Granted)
    assert isinstance(await store.reserve("b", [Claim(calls, 1)], LEASE_S), Granted)
    assert isinstance(await store.reserve("c", [Claim(calls, 1)], LEASE_S), Denied)
    store.settle("a", Actual(requests=1, tokens=5, cost=5))
    assert await used(store, calls) == [1]
    assert isinstance(await store.reserve("d", [Claim(calls, 1)], LEASE_S), Granted)


async def test_a_limit_cut_below_what_is_used_lets_nothing_more_in(store: Caller) -> None:
    await store.reserve("a", [Claim(limit(100), 80)], LEASE_S)
    denied = await store.reserve("b", [Claim(limit(50), 1)], LEASE_S)
    assert isinstance(denied, Denied)
    assert (denied.level.used, denied.level.remaining) == (80, 0)
    store.settle("a", Actual(tokens=20))
    assert isinstance(await store.reserve("c", [Claim(limit(50), 30)], LEASE_S), Granted)


@pytest.mark.parametrize("amount", [0, 1])
async def test_a_limit_of_nothing_refuses_everything(store: Caller, amount: int) -> None:
    assert isinstance(await store.reserve("a", [Claim(limit(0), amount)], LEASE_S), Denied)


async def test_two_claims_on_one_counter_add_up_and_settle_as_one(store: Caller) -> None:
    rate, quota = limit(100), limit(90)
    denied = await store.reserve("a", [Claim(rate, 60), Claim(quota, 31)], LEASE_S)
    assert isinstance(denied, Denied)
    assert (denied.level.limit, denied.level.used) == (quota, 0)
    granted = await store.reserve("b", [Claim(rate, 60), Claim(quota, 30)], LEASE_S)
    assert isinstance(granted, Granted)
    assert [level.used for level in granted.levels] == [90, 90]
    store.settle("b", Actual(tokens=7))
    assert await used(store, rate) == [7]


async def test_each_scope_subject_metric_and_window_counts_for_itself(store: Caller) -> None:
    mine = limit(100)
    others = [
        limit(100, scope="key"),
        limit(100, subject="bob"),
        limit(100, subject="ada:x {y} \n ü"),
        limit(100, "cost"),
        limit(100, window="total"),
        limit(100, window="hour"),
    ]
    await store.reserve("a", [Claim(mine, 60), Claim(others[2], 3)], LEASE_S)
    assert await used(store, mine, *others) == [60, 0, 0, 3, 0, 0, 0]


async def test_levels_tell_when_their_window_turns(store: Caller) -> None:
    windows: tuple[Window, ...] = ("minute", "hour", "day", "month", "total")
    limits = [limit(10, window=window) for window in windows] + [limit(10, "parallel", "none")]
    levels = await store.peek(limits)
    assert [level.limit for level in levels] == limits
    longest = (60, 3600, 25 * 3600, 31 * 86_400 + 3600)
    for level, most in zip(levels[:4], longest, strict=True):
        assert level.resets_in is not None
        assert 0 < level.resets_in <= most
    assert [level.resets_in for level in levels[4:]] == [None, None]
    granted = await store.reserve("a", [Claim(each, 1) for each in limits], LEASE_S)
    assert isinstance(granted, Granted)
    assert [level.resets_in is None for level in granted.levels] == [False] * 4 + [True] * 2


async def test_the_largest_amounts_stay_exact(store: Caller) -> None:
    most = MAX_AMOUNT - 1
    cost = limit(most, "cost", "total")
    assert isinstance(await store.reserve("a", [Claim(cost, most)], LEASE_S), Granted)
    assert isinstance(await store.reserve("b", [Claim(cost, 1)], LEASE_S), Denied)
    store.settle("a", Actual(cost=most - 1))
    assert await used(store, cost) == [most - 1]
    assert isinstance(await store.reserve("c", [Claim(cost, 1)], LEASE_S), Granted)


@pytest.mark.parametrize("amount", [True, -1, 1.0, float("nan"), "1", None, MAX_AMOUNT])
async def test_what_cannot_be_counted_exactly_is_refused_at_the_door(store: Caller, amount: Any) -> None:
    tokens = limit(100)
    with pytest.raises(ValueError, match="integer"):
        await store.reserve("a", [Claim(tokens, 1), Claim(tokens, amount)], LEASE_S)
    with pytest.raises(ValueError, match="integer"):
        await store.reserve("a", [Claim(limit(amount), 1)], LEASE_S)
    with pytest.raises(ValueError, match="integer"):
        store.settle("a", Actual(cost=amount))
    assert await used(store, tokens) == [0]


async def test_a_call_without_claims_is_granted(store: Caller) -> None:
    at = store.store.now()
    assert await store.reserve("a", [], LEASE_S, at) == Granted((), (), at)
    store.settle("a", Actual(tokens=1))
    assert list(await store.store.renew([], LEASE_S)) == []
    assert list(await store.peek([])) == []


def test_the_clock_counts_whole_milliseconds(store: Caller) -> None:
    for _ in range(1000):
        now = store.store.now()
        assert round(now * 1000) / 1000 == now
    assert abs(now - time.time()) < 60


async def test_a_grant_says_in_whose_windows_it_is_held(store: Caller) -> None:
    at = store.store.now()
    granted = await store.reserve("a", [Claim(limit(10), 1)], LEASE_S, at)
    assert isinstance(granted, Granted)
    assert granted.at == at


async def test_a_call_settles_in_the_window_it_began_in(store: Caller) -> None:
    minute, month = limit(100, window="minute"), limit(100, window="month")
    claims = [Claim(minute, 10), Claim(month, 10)]
    before = store.store.now() - 61
    await store.store.hold("a", claims, LEASE_S, before)
    assert await used(store, minute, month) == [0, 10]
    store.store.settle("a", claims, before, Actual(tokens=7))
    assert await used(store, minute, month) == [0, 7]


async def test_a_settlement_counts_although_nothing_was_ever_held(store: Caller) -> None:
    tokens, calls = limit(100), limit(5, "parallel", "none")
    store.store.settle("a", [Claim(tokens, 50), Claim(calls, 1)], store.store.now(), Actual(tokens=30))
    store.store.settle("a", [Claim(tokens, 50), Claim(calls, 1)], store.store.now(), Actual(tokens=30))
    assert await used(store, tokens, calls) == [30, 0]


async def test_a_settlement_counts_on_what_it_claims_and_frees_what_was_held(store: Caller) -> None:
    """A policy may have lowered its claims between two attempts to reserve; the first may have stood after all."""
    held, claimed = limit(100), limit(100, "cost")
    await store.reserve("a", [Claim(held, 50), Claim(claimed, 5)], LEASE_S)
    store.store.settle("a", [Claim(claimed, 3)], store.store.now(), Actual(tokens=30, cost=2))
    assert await used(store, held, claimed) == [0, 2]


async def test_a_refund_needs_no_claims(store: Caller) -> None:
    tokens = limit(100)
    await store.reserve("a", [Claim(tokens, 50)], LEASE_S)
    store.store.settle("a", (), 0.0, NOTHING)
    assert await used(store, tokens) == [0]


async def test_a_lapsed_hold_posts_nothing_by_itself_and_its_refund_nothing_more(store: Caller) -> None:
    tokens = limit(100)
    await store.reserve("a", [Claim(tokens, 50)], 0.05)
    await asyncio.sleep(0.1)
    assert await used(store, tokens) == [0]
    store.store.settle("a", (), 0.0, NOTHING)
    store.settle("a", Actual(tokens=9))
    assert await used(store, tokens) == [0]


async def test_ids_are_known_in_every_state_until_they_are_forgotten(store: Caller) -> None:
    tokens = limit(100)
    await store.reserve("held", [Claim(tokens, 1)], LEASE_S)
    await store.reserve("lapsed", [Claim(tokens, 1)], 0.01)
    store.settle("settled", NOTHING)
    await asyncio.sleep(0.05)
    await store.store.pulse()
    rids = ["held", "lapsed", "settled", "unknown", "unheard"]
    assert list(await store.store.renew(rids, LEASE_S)) == ["unknown", "unheard"]


async def test_what_a_store_has_lost_is_held_again_without_asking_for_room(store: Caller) -> None:
    tight, calls = limit(10), limit(0, "parallel", "none")
    at = store.store.now()
    claims = [Claim(tight, 50), Claim(calls, 1)]
    for _ in range(2):
        await store.store.hold("a", claims, LEASE_S, at)
    assert await used(store, tight, calls) == [50, 1]
    assert list(await store.store.renew(["a"], LEASE_S)) == []
    store.store.settle("a", claims, at, Actual(tokens=7))
    await store.store.hold("a", claims, LEASE_S, at)
    assert await used(store, tight, calls) == [7, 0]


async def test_a_hold_made_again_lapses_like_any_other(store: Caller) -> None:
    tokens = limit(100)
    await store.store.hold("a", [Claim(tokens, 50)], 0.05, store.store.now())
    await asyncio.sleep(0.1)
    assert await used(store, tokens) == [0]
    await store.store.hold("a", [Claim(tokens, 50)], LEASE_S, store.store.now())
    assert await used(store, tokens) == [0], "its room may be someone else's"

"""How every counter store is set right by the ledger, the same for all."""

from __future__ import annotations

import pytest

from gateway.core.limits import (
    Actual,
    Base,
    Claim,
    Count,
)
from gateway.core.money import MAX_AMOUNT
from tests.contract.counters import LEASE_S, limit, the_count
from tests.quotas.caller import Caller


async def test_an_audit_tells_the_open_windows_of_what_adds_up(store: Caller) -> None:
    minute, total, calls = limit(100, window="minute"), limit(9, window="total"), limit(5, "parallel", "none")
    await store.reserve("a", [Claim(total, 5), Claim(calls, 1)], LEASE_S)
    await store.reserve("b", [Claim(total, 4)], LEASE_S)
    store.settle("b", Actual(tokens=3))
    now = store.store.now()
    in_minute, in_total = await store.store.audit([minute, calls, total])
    assert in_minute.ends_at is not None
    assert in_minute.starts_at <= now < in_minute.ends_at + 1
    assert in_minute.ends_at - in_minute.starts_at == 60
    assert in_total == Count(total, 0, None, 0.0, True, 3, 5)


async def test_a_cut_moves_the_line_and_keeps_what_stands(store: Caller) -> None:
    tokens = limit(100)
    await store.reserve("a", [Claim(tokens, 50)], LEASE_S)
    await store.reserve("b", [Claim(tokens, 20)], LEASE_S)
    store.settle("a", Actual(tokens=30))
    before = store.store.now()
    await store.store.cut([tokens], 5.0)
    count = await the_count(store, tokens)
    assert before + 5 <= count.since < before + 15
    assert (count.based, count.settled, count.reserved) == (True, 30, 20)


async def test_a_counter_that_nobody_counted_is_not_based_by_its_cut(store: Caller) -> None:
    tokens = limit(100)
    for _ in range(2):
        await store.store.cut([tokens], 5.0)
        assert not (await the_count(store, tokens)).based
    await store.store.rebase([Base(await the_count(store, tokens), 12)], [], await store.store.turn())
    count = await the_count(store, tokens)
    assert (count.based, count.settled) == (True, 12)
    await store.store.cut([tokens], 5.0)
    assert (await the_count(store, tokens)).based, "what stood stands in"


async def test_the_line_never_goes_back(store: Caller) -> None:
    tokens = limit(100)
    await store.store.cut([tokens], 60.0)
    far = (await the_count(store, tokens)).since
    await store.store.cut([tokens], 0.0)
    assert (await the_count(store, tokens)).since == far


async def test_calls_from_before_the_line_are_kept_by_name_until_they_have_landed(store: Caller) -> None:
    tokens = limit(1000)
    await store.store.cut([tokens], 30.0)
    for rid, actual in (("a", 1), ("b", 20), ("c", 300)):
        await store.reserve(rid, [Claim(tokens, 300)], LEASE_S)
        store.settle(rid, Actual(tokens=actual))
    assert await store.settled(tokens) == [321]
    assert set(await store.store.late()) == {"a", "b", "c"}
    await store.store.rebase([Base(await the_count(store, tokens), 40 + 1)], ["a"], await store.store.turn())
    assert await store.settled(tokens) == [40 + 321]
    assert set(await store.store.late()) == {"b", "c"}
    await store.store.rebase(
        [Base(await the_count(store, tokens), 40 + 321)], ["b", "c", "unheard of"], await store.store.turn()
    )
    assert await store.settled(tokens) == [40 + 321]
    assert list(await store.store.late()) == []


async def test_a_base_from_before_another_cut_is_ignored(store: Caller) -> None:
    tokens, cost = limit(1000), limit(1000, "cost")
    await store.store.cut([tokens, cost], 5.0)
    old, kept = await store.store.audit([tokens, cost])
    await store.store.cut([tokens], 10.0)
    await store.store.rebase([Base(old, 77), Base(kept, 88)], [], await store.store.turn())
    assert await store.settled(tokens, cost) == [0, 88]


async def test_what_landed_is_dropped_without_any_base(store: Caller) -> None:
    tokens = limit(1000)
    await store.store.cut([tokens], 30.0)
    store.store.settle("a", [Claim(tokens, 1)], store.store.now(), Actual(tokens=5))
    await store.store.rebase([], ["a"], await store.store.turn())
    assert list(await store.store.late()) == []
    assert await store.settled(tokens) == [5]


async def test_adjustments_may_take_a_base_below_nothing(store: Caller) -> None:
    cost = limit(1000, "cost")
    await store.store.cut([cost], 5.0)
    await store.store.rebase([Base(await the_count(store, cost), -7)], [], await store.store.turn())
    assert await store.settled(cost) == [-7]
    with pytest.raises(ValueError, match="integer"):
        await store.store.rebase([Base(await the_count(store, cost), MAX_AMOUNT)], [], await store.store.turn())


async def test_hundreds_of_limits_are_cut_counted_and_based(store: Caller) -> None:
    limits = [limit(1000, scope="key", subject=f"k{i}") for i in range(1100)]
    await store.store.cut(limits, 30.0)
    for i in range(1100):
        store.store.settle(f"r{i}", [Claim(limits[i], 1)], store.store.now(), Actual(tokens=1))
    assert len(await store.store.late()) == 1100
    counts = await store.store.audit(limits)
    landed = [f"r{i}" for i in range(0, 1100, 2)]
    await store.store.rebase([Base(count, i) for i, count in enumerate(counts)], landed, await store.store.turn())
    assert await store.settled(*limits) == [i + i % 2 for i in range(1100)]
    rids = [f"r{i}" for i in range(1100)]
    assert list(await store.store.renew([*rids, "unknown"], LEASE_S)) == ["unknown"]


async def test_one_process_leads(store: Caller) -> None:
    assert await store.store.lead(60)
    assert await store.store.lead(60)


async def test_a_store_that_is_open_is_nobodys_to_rebuild(store: Caller) -> None:
    assert await store.store.pulse() == "open"
    assert not await store.store.begin_rebuild()
    assert not await store.store.end_rebuild()
    assert await store.store.pulse() == "open"


async def test_an_answer_of_the_ledger_that_another_has_overtaken_is_ignored(store: Caller) -> None:
    """The one that was quicker may have let go of late calls whose rows the slower one has not seen."""
    tokens = limit(1000)
    await store.store.cut([tokens], 30.0)
    store.store.settle("a", [Claim(tokens, 1)], store.store.now(), Actual(tokens=5))
    slow = await store.store.turn()
    count = await the_count(store, tokens)
    assert await store.store.rebase([Base(count, 5)], ["a"], await store.store.turn())
    assert not await store.store.rebase([Base(count, 0)], [], slow)
    assert await store.settled(tokens) == [5]

from __future__ import annotations

import asyncio
import json
import random

import pytest
from sqlalchemy import select

from gateway.core.limits import Actual
from gateway.core.records import Decision, OutcomeRecord
from gateway.storage import ledger
from gateway.storage.engine import Database
from gateway.storage.errors import Invalid, Unstorable
from gateway.storage.tables import LEDGER
from tests.storage.rows import BERLIN, assert_daily_sums_equal_the_ledger, dump, insert, many, orphan, row


async def test_a_row_comes_back_as_it_went_in(database):
    async with database.write() as session:
        assert await ledger.insert_rows(session, [row()], BERLIN) == 1
    rows, _ = await dump(database)
    assert [OutcomeRecord(*found) for found in rows] == [row(decisions=None)]


async def test_a_batch_offered_twice_changes_nothing(database):
    batch = many(500)
    async with database.write() as session:
        assert await ledger.insert_rows(session, batch, BERLIN) == 500
    before = await dump(database)
    async with database.write() as session:
        assert await ledger.insert_rows(session, batch, BERLIN) == 0
    assert await dump(database) == before


async def test_only_what_is_new_in_a_batch_is_added_and_each_row_once(database):
    batch = many(60)
    async with database.write() as session:
        await ledger.insert_rows(session, batch[:20], BERLIN)
        assert await ledger.insert_rows(session, [*batch[10:], *batch[30:40]], BERLIN) == 40
    assert len((await dump(database))[0]) == 60
    await assert_daily_sums_equal_the_ledger(database)


async def test_rows_and_sums_appear_together_or_not_at_all(database):
    async def fail() -> None:
        async with database.write() as session:
            await ledger.insert_rows(session, many(10), BERLIN)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await dump(database) == ([], [])


@pytest.mark.parametrize("poison", [{"prompt_tokens": 2**63}, {"model_id": "\ud800"}, {"user": None}, {"user": []}])
async def test_a_row_that_cannot_be_stored_is_named_as_such_and_the_others_go_in_without_it(database, poison):
    good, bad = row("good"), row("bad", **poison)
    with pytest.raises(Unstorable):
        async with database.write() as session:
            await ledger.insert_rows(session, [good, bad], BERLIN)
    async with database.write() as session:
        assert await ledger.insert_rows(session, [good], BERLIN) == 1


async def test_a_batch_beyond_the_limit_is_refused(database):
    with pytest.raises(Invalid):
        async with database.write() as session:
            await ledger.insert_rows(session, many(ledger.MAX_BATCH + 1), BERLIN)


DECISION = Decision("quota", "department", "research", "tokens", "month", "deny", 1_000, 700, 300)


async def test_what_was_reserved_and_decided_is_kept_with_the_row(database):
    await insert(database, row(reserved_tokens=400, reserved_cost=7, decisions=(DECISION,)), row("r2"))
    (first, *_), _ = await dump(database)
    stored = OutcomeRecord(*first)
    assert (stored.reserved_tokens, stored.reserved_cost) == (400, 7)
    assert json.loads(stored.decisions) == [DECISION._asdict()]
    async with database.read() as session:
        assert await session.scalar(select(LEDGER.c.decisions).where(LEDGER.c.request_id == "r2")) is None


async def test_decisions_as_another_release_wrote_them_are_kept_too(database):
    await insert(database, row(decisions=[[*DECISION, "a field of tomorrow"]]))
    async with database.read() as session:
        (receipt,) = await ledger.receipt(session, "r1")
    assert receipt["decisions"] == [DECISION._asdict()]


@pytest.mark.parametrize("decisions", [[1], [{}, object()]])
async def test_decisions_that_are_none_make_a_row_unstorable(database, decisions):
    with pytest.raises(Unstorable):
        await insert(database, row(decisions=decisions))


async def test_the_same_request_may_be_charged_and_adjusted_several_times(database):
    less = {"kind": "adjust", "prompt_tokens": 0, "completion_tokens": -20, "cached_tokens": 0, "cost_microusd": -500}
    assert await insert(database, row(), row(**less, number=1), row(**less, number=2)) == 3
    async with database.read() as session:
        (total,) = await ledger.usage(session)
    assert total == {
        "requests": 1,
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "cached_tokens": 10,
        "reasoning_tokens": 0,
        "cost_usd": 0.0005,
        "saved_usd": 0.0,
    }


@pytest.fixture(params=["in one batch", "one after the other"])
def offer(request, database):
    """Offers rows in this order, in every way that they can arrive."""

    async def offer(*rows: OutcomeRecord) -> list[tuple[str, int]]:
        if request.param == "in one batch":
            await insert(database, *rows)
        else:
            for one in rows:
                await insert(database, one)
        stored = [OutcomeRecord(*found) for found in (await dump(database))[0]]
        await assert_daily_sums_equal_the_ledger(database)
        return [(one.kind, one.number) for one in stored]

    return offer


REFUND = row(kind="refund", status=502, outcome="upstream_error", cost_microusd=0)._replace(
    prompt_tokens=None, completion_tokens=None, cached_tokens=None, usage_source=None
)


@pytest.mark.parametrize(
    ("offered", "stored"),
    [
        ([row(), row()], [("charge", 0)]),
        ([row(), orphan()], [("charge", 0)]),
        ([row(), REFUND], [("charge", 0)]),
        ([REFUND, orphan()], [("refund", 0)]),
        ([REFUND, row()], [("refund", 0)]),
        ([orphan(), orphan()], [("orphan", 0)]),
        ([orphan(), REFUND], [("orphan", 0)]),
        ([orphan(), row()], [("adjust", 1), ("orphan", 0)]),
        ([orphan(), row(), row(), orphan(), row()], [("adjust", 1), ("orphan", 0)]),
        ([row(), orphan(), row()], [("charge", 0)]),
    ],
)
async def test_a_call_ends_once_whatever_is_offered_in_what_order(offer, offered, stored):
    assert await offer(*offered) == stored


async def test_the_late_end_of_an_orphan_carries_its_use_and_is_no_second_request(offer, database):
    late = row(reserved_tokens=9, decisions=(DECISION,))
    await offer(row("other"), orphan(), late, orphan("open"))
    async with database.read() as session:
        receipt = await ledger.receipt(session, "r1")
        sums = await ledger.sums(session, "global", 0, None, BERLIN)
    assert [line["kind"] for line in receipt] == ["orphan", "adjust"]
    expected = late._replace(kind="adjust", number=1)._asdict() | {"decisions": [DECISION._asdict()]}
    assert receipt[1] == expected
    assert sums == {"": Actual(requests=3, tokens=300, cost=3_000)}


async def test_a_late_end_is_told_as_new_once(database):
    assert await insert(database, orphan()) == 1
    assert await insert(database, row(), row("r2")) == 2
    assert await insert(database, row(), row("r2")) == 0


async def test_rows_shuffled_and_repeated_at_random_leave_one_end_for_each_call(database):
    dice = random.Random(11)
    offered = [maker(f"r{n}") for n in range(60) for maker in (row, orphan) if dice.random() < 0.8] * 2
    dice.shuffle(offered)
    for start in range(0, len(offered), 17):
        await insert(database, *offered[start : start + 17])
    stored = [OutcomeRecord(*found) for found in (await dump(database))[0]]
    ends = [one.request_id for one in stored if one.kind != "adjust"]
    assert sorted(ends) == sorted({one.request_id for one in offered})
    charged = sum(one.cost_microusd for one in stored)
    assert charged == 1_500 * len({one.request_id for one in offered if one.kind == "charge"})
    await assert_daily_sums_equal_the_ledger(database)


async def test_two_processes_that_offer_the_same_calls_at_once_add_each_once(database, url, tmp_path):
    other = Database.open(url, tmp_path)
    calls = [f"r{number}" for number in range(40)]
    for start in range(0, 40, 10):
        some = calls[start : start + 10]
        ends = [row(name) for name in some]
        await asyncio.gather(insert(database, *map(orphan, some)), insert(other, *ends), insert(database, *ends))
    stored = [OutcomeRecord(*found) for found in (await dump(database))[0]]
    assert sum(one.cost_microusd for one in stored) == 40 * 1_500
    assert sorted(one.request_id for one in stored if one.kind != "adjust") == sorted(calls)
    await assert_daily_sums_equal_the_ledger(database)
    await other.close()


async def test_landed_are_the_calls_that_have_an_end(database):
    await insert(database, row("a"), orphan("b"), row("c", kind="refund"), row("d", kind="adjust", number=1))
    async with database.read() as session:
        wanted = ["a", "b", "c", "d", *(f"unknown {number}" for number in range(1_200))]
        assert await ledger.landed(session, wanted) == {"a", "b", "c"}
        assert await ledger.landed(session, []) == set()


async def test_a_receipt_is_shown_to_those_it_belongs_to(database):
    await insert(database, row(decisions=(DECISION,)), row("r2", user="bob@example.com", department="sales"))
    async with database.read() as session:
        (mine,) = await ledger.receipt(session, "r1", user="ada@example.com", department="research")
        assert mine == row()._asdict() | {"decisions": [DECISION._asdict()]}
        assert len(await ledger.receipt(session, "r2")) == 1
        assert await ledger.receipt(session, "r2", user="ada@example.com") == []
        assert await ledger.receipt(session, "r2", department="research") == []
        assert await ledger.receipt(session, "nobody's") == []

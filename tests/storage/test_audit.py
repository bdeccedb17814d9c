"""What a check of the books is told by the database, and what it makes anew."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import delete, insert, update

from gateway.core.money import MAX_AMOUNT, Price, Unit
from gateway.storage import audit, daily, ledger
from gateway.storage.audit import Period, Priced
from gateway.storage.daily import KEYS, SUMS
from gateway.storage.days import day_after, day_of
from gateway.storage.engine import Database
from gateway.storage.tables import LEDGER, USAGE_DAILY
from tests.storage.rows import BERLIN, NOON, dump, many, orphan, row
from tests.storage.rows import insert as add

PRICE = Price(150_000, 600_000, 75_000, "v1")
TODAY = day_of(NOON, BERLIN)
EVER = Period()


def costing(request_id: str, prompt: int, completion: int, cached: int = 0, **changes: Any) -> Any:
    used = {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": cached}
    return row(request_id, **{**used, "cost_microusd": PRICE.cost(prompt, completion, cached), **changes})


async def know(database: Database, *prices: Price) -> None:
    async with database.write() as session:
        await ledger.remember_prices(session, prices, NOON)


async def change(database: Database, statement: Any) -> None:
    async with database.write() as session:
        await session.execute(statement)


async def wrong_days(database: Database, period: Period = EVER) -> list[str]:
    async with database.read() as session:
        return [
            day
            for day in await audit.days(session, period, BERLIN)
            if await audit.summed_rows(session, day, BERLIN) != await audit.daily_sums(session, day)
        ]


async def doubtful(database: Database, period: Period = EVER) -> list[Priced]:
    async with database.read() as session:
        return [call async for call in audit.doubtful_costs(session, period, BERLIN)]


async def adjusted(database: Database, period: Period = EVER) -> list[Priced]:
    async with database.read() as session:
        return [call async for call in audit.adjusted_costs(session, period, BERLIN)]


async def test_rows_of_every_kind_add_up_to_the_daily_sums(database: Database) -> None:
    await add(database, *many(300))
    assert await wrong_days(database) == []
    async with database.read() as session:
        days = await audit.days(session, EVER, BERLIN)
        whole = await audit.row_total(session, EVER, BERLIN)
        assert [await audit.daily_total(session, key, EVER) for key in ("day", *KEYS)] == [whole] * 6
        assert await audit.row_count(session, EVER, BERLIN) == 300
    assert len(days) == 4  # three times 24 hours from noon on
    assert all(type(number) is int for number in whole)


async def test_an_empty_ledger_has_no_days_and_adds_up_to_nothing(database: Database) -> None:
    async with database.read() as session:
        assert await audit.days(session, EVER, BERLIN) == []
        assert set(await audit.row_total(session, EVER, BERLIN)) == {0}
        assert set(await audit.daily_total(session, "user", EVER)) == {0}


@pytest.mark.parametrize(
    "fault",
    [
        delete(LEDGER).where(LEDGER.c.request_id == "r1"),
        update(LEDGER).where(LEDGER.c.request_id == "r1").values(prompt_tokens=101),
        update(LEDGER).where(LEDGER.c.request_id == "r1").values(cached_tokens=None),
        update(LEDGER).where(LEDGER.c.request_id == "r1").values(cost_microusd=1),
        update(LEDGER).where(LEDGER.c.request_id == "r1").values(department="sales"),
        update(USAGE_DAILY).values(completion_tokens=USAGE_DAILY.c.completion_tokens + 1),
        delete(USAGE_DAILY),
    ],
    ids=["a row is gone", "prompt", "cached", "cost", "department", "a sum", "no sums"],
)
async def test_a_day_that_was_tampered_with_is_found_and_made_anew(database: Database, fault: Any) -> None:
    await add(database, row("r1"), row("r2"), row("r3", created_at=NOON + 86_400))
    await change(database, fault)
    wrong = await wrong_days(database)
    assert TODAY in wrong
    async with database.write() as session:
        for day in wrong:
            await daily.rebuild_day(session, day, BERLIN)
    assert await wrong_days(database) == []
    _, sums = await dump(database)
    async with database.write() as session:
        await daily.rebuild(session, BERLIN)
    assert (await dump(database))[1] == sums


async def test_a_row_moved_to_another_day_makes_both_days_wrong(database: Database) -> None:
    await add(database, row("r1"), row("r2"))
    await change(database, update(LEDGER).where(LEDGER.c.request_id == "r1").values(created_at=NOON - 86_400))
    assert await wrong_days(database) == [day_of(NOON - 86_400, BERLIN), TODAY]


async def test_a_period_leaves_the_other_days_alone(database: Database) -> None:
    await add(database, row("r1"), row("r2", created_at=NOON + 86_400))
    await change(database, update(LEDGER).values(cost_microusd=1))
    tomorrow = day_after(TODAY)
    assert await wrong_days(database, Period(TODAY, TODAY)) == [TODAY]
    assert await wrong_days(database, Period(first=tomorrow)) == [tomorrow]
    assert await wrong_days(database, Period(last=day_of(NOON - 86_400, BERLIN))) == []


async def test_rows_that_land_while_a_day_is_made_anew_are_in_it_once(database: Database) -> None:
    await add(database, *[row(f"r{n}") for n in range(20)])
    await change(database, update(USAGE_DAILY).values(requests=0))

    async def rebuild() -> None:
        async with database.write() as session:
            await daily.rebuild_day(session, TODAY, BERLIN)

    landing = [add(database, row(f"later{n}")) for n in range(10)]
    await asyncio.gather(*landing[:5], rebuild(), *landing[5:])
    assert await wrong_days(database) == []
    async with database.read() as session:
        assert (await audit.row_total(session, EVER, BERLIN))[0] == 30


async def test_a_cost_that_is_tokens_times_price_is_not_doubted(database: Database) -> None:
    await know(database, PRICE, Price(1, 1, None, "v2"))
    used = [(0, 0, 0), (1, 0, 0), (7, 13, 7), (100, 0, 200), (999_999, 1, 5), (MAX_AMOUNT // 2**20, 3, 1)]
    await add(database, *[costing(f"r{n}", *each) for n, each in enumerate(used)])
    await add(database, row("uncached", price_version="v2", cost_microusd=1))
    await add(database, orphan("o", price_version="nobody knows"))
    assert await doubtful(database) == []


async def test_a_cost_by_one_micro_dollar_off_is_doubted(database: Database) -> None:
    await know(database, PRICE)
    right = PRICE.cost(100, 50, 10)
    await add(database, costing("more", 100, 50, 10, cost_microusd=right + 1), costing("right", 100, 50, 10))
    await add(database, costing("less", 100, 50, 10, cost_microusd=right - 1))
    assert {call.request_id for call in await doubtful(database)} == {"more", "less"}
    (call, *_) = await doubtful(database)
    assert call[1:6] == (("charge",), "v1", 100, 50, 10)
    assert call.price == PRICE


async def test_a_cost_without_usage_or_of_an_unknown_price_is_doubted(database: Database) -> None:
    await know(database, PRICE)
    await add(database, orphan("costly orphan", cost_microusd=5), row("unknown", price_version="nobody knows"))
    assert {call.request_id: call.price for call in await doubtful(database)} == {
        "costly orphan": PRICE,
        "unknown": None,
    }


@pytest.mark.parametrize(
    ("unit", "units"), [("image", 3), ("second", 61), ("character", 4096), ("search", 1), ("second", 2**30)]
)
async def test_a_cost_by_units_and_tokens_is_checked_to_the_micro_dollar(
    database: Database, unit: Unit, units: int
) -> None:
    rates = {"per_image": 40_000_000_000, "per_minute": 1_850_000_003, "per_million_characters": 15_000_000}
    price = Price(150_000, 600_000, None, "v1", **rates, per_search=2_000_000_000)
    await know(database, price)
    right = price.cost(7, 13, 0, units, unit)
    used = {"prompt_tokens": 7, "completion_tokens": 13, "cached_tokens": None, "units": units, "unit": unit}
    for name, off in (("right", 0), ("more", 1), ("less", -1)):
        await add(database, row(name, **used, cost_microusd=right + off))
    assert {call.request_id for call in await doubtful(database)} == {"more", "less"}
    (call, *_) = await doubtful(database)
    assert (call.price, call.units, call.unit) == (price, units, unit)


async def test_numbers_beyond_the_database_integers_end_in_doubt_and_not_in_an_error(database: Database) -> None:
    await know(database, Price(10**12, 10**12, None, "v1"))
    await add(database, row(prompt_tokens=MAX_AMOUNT, completion_tokens=MAX_AMOUNT, cost_microusd=MAX_AMOUNT - 1))
    assert [call.request_id for call in await doubtful(database)] == ["r1"]


async def test_a_call_with_adjustments_is_taken_together_at_its_last_price(database: Database) -> None:
    await know(database, PRICE, Price(300_000, 600_000, None, "v2"))
    later = dict.fromkeys(("prompt_tokens", "completion_tokens", "cached_tokens"))
    await add(database, costing("r1", 1000, 500), costing("plain", 1, 1))
    await add(database, row("r1", kind="adjust", number=1, price_version="v2", cost_microusd=150, **later))
    await add(database, row("alone", kind="adjust", number=1, cost_microusd=7, **later))
    assert await doubtful(database) == []
    alone, call = await adjusted(database)
    assert (alone.request_id, alone.kinds, alone.cost) == ("alone", ("adjust",), 7)
    assert (call.kinds, call.version, call.prompt, call.completion) == (("charge", "adjust"), "v2", 1000, 500)
    assert call.cost == Price(300_000, 600_000, None, "v2").cost(1000, 500)
    assert await adjusted(database, Period(first=day_after(TODAY))) == []


async def test_adjustments_are_known_by_call_and_number(database: Database) -> None:
    await add(database, *[row("r1", kind="adjust", number=n) for n in (1, 2)], row("r2"))
    async with database.read() as session:
        assert await audit.adjustments(session, ["r1", "r2", "r3"]) == {("r1", 1), ("r1", 2)}


async def test_what_is_read_of_one_moment_does_not_see_the_next(database: Database) -> None:
    await add(database, row("r1"))
    async with database.read() as session:
        before = await audit.row_total(session, EVER, BERLIN)
        await add(database, row("r2"))
        assert await audit.row_total(session, EVER, BERLIN) == before
        assert await audit.daily_total(session, "user", EVER) == before


async def test_a_row_at_an_impossible_moment_is_missed_in_the_totals(database: Database) -> None:
    await add(database, row("r1"), row("r2"))
    await change(database, update(LEDGER).where(LEDGER.c.request_id == "r1").values(created_at=1e18))
    async with database.read() as session:
        assert await audit.days(session, EVER, BERLIN) == [TODAY]
    assert await wrong_days(database) == [TODAY]


async def test_a_sum_without_rows_is_a_day_like_any_other(database: Database) -> None:
    await add(database, row("r1"))
    group = {"day": "2001-01-01", **dict.fromkeys(KEYS, "x"), **dict.fromkeys(SUMS, 1)}
    await change(database, insert(USAGE_DAILY).values(**group))
    assert await wrong_days(database) == ["2001-01-01"]

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, select

from gateway.core.limits import NOTHING, Actual
from gateway.core.money import Price
from gateway.core.records import OutcomeRecord
from gateway.storage import daily, ledger
from gateway.storage.errors import Invalid
from gateway.storage.tables import LEDGER
from tests.storage.rows import BERLIN, NOON, assert_daily_sums_equal_the_ledger, insert, many, row


async def test_daily_sums_equal_the_ledger_added_up_afresh(database):
    batch = many(1_200)
    async with database.write() as session:
        for start in range(0, len(batch), 400):
            await ledger.insert_rows(session, batch[start : start + 400], BERLIN)
    await assert_daily_sums_equal_the_ledger(database)


@pytest.mark.parametrize("by", [[], ["department"], ["user"], ["key"], ["model"], ["day"], ["department", "day"]])
async def test_usage_by_anything_adds_up_to_the_ledger(database, by):
    batch = many(300)
    async with database.write() as session:
        await ledger.insert_rows(session, batch, BERLIN)
    async with database.read() as session:
        report = await ledger.usage(session, by)
        cost = await session.scalar(select(func.sum(LEDGER.c.cost_microusd)))
    assert [list(line)[: len(by)] for line in report] == [by] * len(report)
    assert sum(line["requests"] for line in report) == sum(r.kind != "adjust" for r in batch)
    assert sum(line["completion_tokens"] for line in report) == sum(r.completion_tokens for r in batch)
    assert sum(round(line["cost_usd"] * 1_000_000) for line in report) == cost


async def test_days_are_those_of_the_organisation(database):
    before_midnight = ledger.start_of("2026-03-29", BERLIN) - 1
    async with database.write() as session:
        batch = [row("a", created_at=before_midnight), row("b", created_at=before_midnight + 1)]
        await ledger.insert_rows(session, batch, BERLIN)
    async with database.read() as session:
        report = await ledger.usage(session, ["day"])
        only = await ledger.usage(session, ["day"], "2026-03-29", "2026-03-29")
    assert [line["day"] for line in report] == ["2026-03-28", "2026-03-29"]
    assert only == report[1:]


async def test_another_time_zone_makes_the_days_anew_once(database):
    new_york = ZoneInfo("America/New_York")
    at = ledger.start_of("2026-03-29", BERLIN) + 1
    async with database.write() as session:
        assert not await daily.follow_zone(session, BERLIN), "an empty ledger has the zone it begins with"
        await ledger.insert_rows(session, [row("a", created_at=at)], BERLIN)
    for is_new in (True, False):
        async with database.write() as session:
            assert await daily.follow_zone(session, new_york) is is_new
    async with database.read() as session:
        assert [line["day"] for line in await ledger.usage(session, ["day"])] == ["2026-03-28"]


def test_a_day_of_summer_time_has_23_hours():
    assert ledger.start_of("2026-03-30", BERLIN) - ledger.start_of("2026-03-29", BERLIN) == 23 * 3600


async def test_an_unused_ledger_reports_nothing(database):
    async with database.read() as session:
        assert await ledger.usage(session) == []
        assert await ledger.sums(session, "global", 0, None, BERLIN) == {}
    async with database.write() as session:
        assert await ledger.insert_rows(session, [], BERLIN) == 0
        await daily.rebuild(session, BERLIN)


async def test_usage_by_the_unknown_is_refused(database):
    with pytest.raises(Invalid, match="colour"):
        async with database.read() as session:
            await ledger.usage(session, ["colour"])


async def test_the_first_meaning_of_a_price_version_stands(database):
    async with database.write() as session:
        await ledger.remember_prices(session, [Price(150_000, 600_000, 75_000, "v1"), Price(1, 2, None, "v2")], 1.0)
        await ledger.remember_prices(session, [Price(9, 9, 9, "v1")], 2.0)
    async with database.read() as session:
        known = await ledger.known_prices(session)
    assert known == {"v1": Price(150_000, 600_000, 75_000, "v1"), "v2": Price(1, 2, None, "v2")}


FIELDS = {"global": None, "department": "department", "user": "user", "key": "key_id", "model": "model_id"}


def by_hand(batch: list[OutcomeRecord], scope: str, start: float, end: float | None) -> dict[str, Actual]:
    """The definition of what a counter should say."""
    found: dict[str, Actual] = {}
    for one in batch:
        if start <= one.created_at and (end is None or one.created_at < end):
            subject = "" if FIELDS[scope] is None else getattr(one, FIELDS[scope])
            before = found.get(subject, NOTHING)
            found[subject] = Actual(
                before.requests + (one.kind in ("charge", "orphan")),
                before.tokens + (one.prompt_tokens or 0) + (one.completion_tokens or 0),
                before.cost + one.cost_microusd,
            )
    return {subject: actual for subject, actual in found.items() if actual != NOTHING}


@pytest.mark.parametrize("scope", FIELDS)
async def test_sums_of_any_period_equal_the_rows_added_up_by_hand(database, scope):
    batch = many(500)
    await insert(database, *batch)
    midnight = ledger.start_of(ledger.day_of(NOON + 86_400, BERLIN), BERLIN)
    hour = 3_600.0
    moments = [0.0, NOON, midnight - hour, midnight, midnight + 0.001, midnight + 5 * hour, midnight + 24 * hour]
    async with database.read() as session:
        for start in moments:
            for end in (None, *(moment for moment in moments if moment >= start), midnight + 900 * hour):
                found = await ledger.sums(session, scope, start, end, BERLIN)
                assert found == by_hand(batch, scope, start, end), (start, end)


async def test_the_sums_of_two_periods_that_meet_are_those_of_both(database):
    batch = many(300)
    await insert(database, *batch)
    meeting = sorted(one.created_at for one in batch)[150]
    async with database.read() as session:
        whole = (await ledger.sums(session, "global", 0, None, BERLIN))[""]
        first = (await ledger.sums(session, "global", 0, meeting, BERLIN))[""]
        second = (await ledger.sums(session, "global", meeting, None, BERLIN))[""]
    assert tuple(a + b for a, b in zip(first, second, strict=True)) == whole


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
async def test_a_day_that_the_clocks_change_on_is_summed_from_midnight_to_midnight(database, day):
    start, end = ledger.start_of(day, BERLIN), ledger.start_of(ledger.day_after(day), BERLIN)
    edges = [start - 1, start, start + 9_000, end - 1, end]
    await insert(database, *(row(f"r{number}", created_at=at) for number, at in enumerate(edges)))
    async with database.read() as session:
        assert (await ledger.sums(session, "global", start, end, BERLIN))[""].requests == 3
        assert (await ledger.sums(session, "global", start, end - 0.5, BERLIN))[""].requests == 3
        assert (await ledger.sums(session, "global", start + 1, end + 0.5, BERLIN))[""].requests == 3

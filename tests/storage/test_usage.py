from __future__ import annotations

import random
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, select

from gateway.core.money import Price
from gateway.core.records import OutcomeRecord
from gateway.storage import ledger
from gateway.storage.errors import Invalid, Unstorable
from gateway.storage.tables import LEDGER, USAGE_DAILY
from tests.support.database import ready_database

BERLIN = ZoneInfo("Europe/Berlin")
NOON = 1_790_000_000.0


@pytest.fixture
async def database(tmp_path):
    database = await ready_database(tmp_path)
    yield database
    await database.close()


def row(request_id: str = "r1", **changes: object) -> OutcomeRecord:
    usual = OutcomeRecord(
        request_id=request_id,
        kind="charge",
        created_at=NOON,
        user="ada@example.com",
        department="research",
        key_id="AbCdEf012345",
        endpoint="chat",
        model_id="gpt-4o-mini",
        provider="openai",
        upstream_model="gpt-4o-mini",
        streamed=True,
        status=200,
        outcome="ok",
        prompt_tokens=100,
        completion_tokens=50,
        cached_tokens=10,
        reasoning_tokens=None,
        usage_source="upstream",
        cost_microusd=1_500,
        price_version="v1",
        latency_ms=900,
        first_token_ms=200,
    )
    return usual._replace(**changes)


def many(count: int, seed: int = 7) -> list[OutcomeRecord]:
    """Rows of every kind over three days, several of each grouping."""
    dice = random.Random(seed)
    return [
        row(
            f"{seed}-{number}",
            kind=dice.choice(["charge", "charge", "charge", "refund", "orphan", "adjust"]),
            created_at=NOON + dice.random() * 3 * 86_400,
            user=f"user{dice.randrange(5)}@example.com",
            department=f"department {dice.randrange(3)}",
            key_id=f"key{dice.randrange(6)}",
            model_id=f"model-{dice.randrange(3)}",
            prompt_tokens=dice.choice([None, dice.randrange(10_000)]),
            completion_tokens=dice.randrange(-50, 5_000),
            cost_microusd=dice.randrange(-500, 100_000),
        )
        for number in range(count)
    ]


async def dump(database) -> tuple[list, list]:
    async with database.read() as session:
        rows = (await session.execute(select(LEDGER).order_by(*LEDGER.primary_key))).all()
        days = (await session.execute(select(USAGE_DAILY).order_by(*USAGE_DAILY.primary_key))).all()
    return [tuple(r) for r in rows], [tuple(d) for d in days]


async def test_a_row_comes_back_as_it_went_in(database):
    async with database.write() as session:
        assert await ledger.insert_rows(session, [row()], BERLIN) == 1
    rows, _ = await dump(database)
    assert [OutcomeRecord(*found) for found in rows] == [row()]


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


async def test_the_same_request_may_be_charged_and_adjusted(database):
    async with database.write() as session:
        adjusted = row(kind="adjust", prompt_tokens=0, completion_tokens=-20, cached_tokens=0, cost_microusd=-500)
        assert await ledger.insert_rows(session, [row(), adjusted], BERLIN) == 2
    async with database.read() as session:
        (total,) = await ledger.usage(session)
    assert total == {
        "requests": 1,
        "prompt_tokens": 100,
        "completion_tokens": 30,
        "cached_tokens": 10,
        "reasoning_tokens": 0,
        "cost_usd": 0.001,
    }


async def test_rows_and_sums_appear_together_or_not_at_all(database):
    async def fail() -> None:
        async with database.write() as session:
            await ledger.insert_rows(session, many(10), BERLIN)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await dump(database) == ([], [])


async def assert_daily_sums_equal_the_ledger(database) -> None:
    _, days = await dump(database)
    async with database.write() as session:
        await ledger.rebuild_daily(session, BERLIN)
    assert (await dump(database))[1] == days


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


def test_a_day_of_summer_time_has_23_hours():
    assert ledger.start_of("2026-03-30", BERLIN) - ledger.start_of("2026-03-29", BERLIN) == 23 * 3600


async def test_an_unused_ledger_reports_nothing(database):
    async with database.read() as session:
        assert await ledger.usage(session) == []
        assert await ledger.used_since(session, "global", "", "requests", 0) == 0
    async with database.write() as session:
        assert await ledger.insert_rows(session, [], BERLIN) == 0
        await ledger.rebuild_daily(session, BERLIN)


async def test_usage_by_the_unknown_is_refused(database):
    with pytest.raises(Invalid, match="colour"):
        async with database.read() as session:
            await ledger.usage(session, ["colour"])


SUBJECTS = [
    ("global", "", None),
    ("department", "department 1", "department"),
    ("user", "user1@example.com", "user"),
    ("key", "key1", "key_id"),
    ("model", "model-1", "model_id"),
]


@pytest.mark.parametrize(("scope", "subject", "field"), SUBJECTS)
async def test_used_since_equals_the_rows_added_up_by_hand(database, scope, subject, field):
    batch = many(400)
    async with database.write() as session:
        await ledger.insert_rows(session, batch, BERLIN)
    midnight = ledger.start_of(ledger.day_of(NOON + 86_400, BERLIN), BERLIN)
    async with database.read() as session:
        for since in (0.0, midnight, midnight + 3_600.5):
            mine = [r for r in batch if r.created_at >= since and (field is None or getattr(r, field) == subject)]
            expected = {
                "requests": sum(r.kind in ("charge", "orphan") for r in mine),
                "tokens": sum((r.prompt_tokens or 0) + (r.completion_tokens or 0) for r in mine),
                "cost": sum(r.cost_microusd for r in mine),
                "parallel": 0,
            }
            for zone in (BERLIN, None):
                found = {m: await ledger.used_since(session, scope, subject, m, since, zone) for m in expected}
                assert found == expected


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


async def test_the_first_meaning_of_a_price_version_stands(database):
    async with database.write() as session:
        await ledger.remember_prices(session, [Price(150_000, 600_000, 75_000, "v1"), Price(1, 2, None, "v2")], 1.0)
        await ledger.remember_prices(session, [Price(9, 9, 9, "v1")], 2.0)
    async with database.read() as session:
        known = await ledger.known_prices(session)
    assert known == {"v1": Price(150_000, 600_000, 75_000, "v1"), "v2": Price(1, 2, None, "v2")}


def test_every_database_gets_a_statement_with_a_place_for_each_value():
    statement = ledger._insert_statement("postgresql", 2)
    assert f"${2 * len(LEDGER.columns)})" in statement
    assert statement.count("$") == 2 * len(LEDGER.columns)
    assert ledger._insert_statement("sqlite", 2).count("?") == 2 * len(LEDGER.columns)

"""Past calls by today's price book: shown first, charged once, in the day and windows of the call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.deployment import Route
from gateway.core.money import Price, PriceSchedule
from gateway.core.records import OutcomeRecord
from gateway.receipt import receipt
from gateway.recount import REVISION
from gateway.repricing import Difference, Period, apply, compare
from gateway.settings.schema import PriceSettings
from gateway.settings.tables import schedule
from gateway.storage import charges, ledger, revisions
from gateway.storage.engine import Database
from tests.ledger.support import outcome
from tests.support.calls import a_model, a_route, a_target
from tests.support.database import ready_database

ZONE = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 9, 21, 12, tzinfo=ZONE).timestamp()
DAY = 86_400.0
OLD, NEW = Price(1_000_000, 2_000_000, None, "old"), Price(1_500_000, 3_000_000, 500_000, "new")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = await ready_database(tmp_path)
    yield made
    await made.close()


def routes(*entries: tuple[float, Price], **others: Route) -> dict[str, Route]:
    model = a_model("m", prices=PriceSchedule(entries or ((0.0, NEW),)))
    return {"m": a_route(a_target(model, upstream="corp")), **others}


def a_row(request_id: str = "r1", **changes: Any) -> OutcomeRecord:
    """A call charged by the old price: 100 + 10 tokens, 120 micro-dollars."""
    row = outcome(request_id, created_at=NOON, model_id="m", provider="corp", upstream_model="m", price_version="old")
    row = row._replace(prompt_tokens=100, completion_tokens=10, cost_microusd=120, reserved_tokens=500)
    return row._replace(**changes)


def period(first: str = "2026-09-21", last: str = "2026-09-21", model: str | None = None) -> Period:
    return Period(first, last, ZONE, model)


async def write(database: Database, *rows: OutcomeRecord) -> None:
    async with database.write() as session:
        await ledger.insert_rows(session, rows, ZONE)


async def receipt_of(database: Database, request_id: str = "r1") -> dict[str, Any]:
    async with database.read() as session:
        found = await receipt(session, request_id, None)
    assert found is not None
    return found


async def test_the_difference_is_shown_by_model_and_day_and_nothing_is_written(database: Database) -> None:
    await write(database, a_row("r1"), a_row("r2"), a_row("r3", created_at=NOON + DAY, cost_microusd=180))
    found = await compare(database, period(last="2026-09-22"), routes())
    assert found == [
        Difference("m", "2026-09-21", calls=2, changed=2, unpriced=0, charged=240, would_cost=360),
        Difference("m", "2026-09-22", calls=1, changed=0, unpriced=0, charged=180, would_cost=180),
    ]
    assert (await receipt_of(database))["adjustments"] == []


async def test_applied_it_adds_one_adjustment_of_the_cost_alone_and_a_second_time_nothing(database: Database) -> None:
    await write(database, a_row("r1"), a_row("r2", cost_microusd=180))
    assert await apply(database, period(), routes()) == 1
    assert await apply(database, period(), routes()) == 0
    (after,) = await compare(database, period(), routes())
    assert (after.changed, after.charged, after.would_cost) == (0, 360, 360)
    async with database.read() as session:
        end, adjustment = await ledger.receipt(session, "r1")
        (sums,) = await ledger.usage(session, ["day"])
        assert await revisions.current(session, REVISION) == 1, "running gateways hear of it"
        assert (await ledger.known_prices(session))["new"] == NEW
    assert (adjustment["number"], adjustment["cost_microusd"], adjustment["price_version"]) == (1, 60, "new")
    assert (adjustment["prompt_tokens"], adjustment["completion_tokens"], adjustment["reserved_tokens"]) == (
        None,
        None,
        0,
    )
    assert adjustment["created_at"] == end["created_at"]
    assert (end["cost_microusd"], end["price_version"]) == (120, "old"), "what was charged stays as it was"
    assert (sums["day"], sums["requests"], sums["prompt_tokens"], sums["cost_usd"]) == ("2026-09-21", 2, 200, 0.00036)


async def test_prices_that_go_up_and_down_again_cancel_out_in_the_receipt(database: Database) -> None:
    await write(database, a_row())
    for price in (NEW, OLD, NEW, OLD):
        assert await apply(database, period(), routes((0.0, price))) == 1
    found = await receipt_of(database)
    assert [each["number"] for each in found["adjustments"]] == [1, 2, 3, 4]
    assert [each["cost_usd"] for each in found["adjustments"]] == [0.00006, -0.00006, 0.00006, -0.00006]
    assert found["adjustments"][-1]["prices"] == {"version": "old", "input": 1.0, "cached_input": 1.0, "output": 2.0}
    assert (found["cost_usd"], found["total"]["cost_usd"]) == (0.00012, 0.00012)


async def test_each_call_is_priced_by_the_entry_in_force_when_it_was_made(database: Database) -> None:
    midnight = datetime(2026, 9, 22, tzinfo=UTC).timestamp()
    await write(database, a_row("before", created_at=midnight - 0.001), a_row("after", created_at=midnight))
    assert await apply(database, period("2026-09-21", "2026-09-22"), routes((0.0, OLD), (midnight, NEW))) == 1
    assert (await receipt_of(database, "before"))["total"]["cost_usd"] == 0.00012
    assert (await receipt_of(database, "after"))["total"]["cost_usd"] == 0.00018


async def test_days_are_the_organisations_and_a_model_can_be_picked(database: Database) -> None:
    start = datetime(2026, 9, 21, tzinfo=ZONE).timestamp()
    rows = [a_row(f"r{at:.0f}", created_at=at) for at in (start - 1, start, start + DAY - 1, start + DAY)]
    await write(database, *rows, a_row("other", model_id="other"))
    (found,) = await compare(database, period(model="m"), routes())
    assert found.calls == 2


async def test_what_cannot_be_priced_keeps_its_cost_and_is_counted(database: Database) -> None:
    unknown = {"prompt_tokens": None, "completion_tokens": None, "cost_microusd": 0}
    await write(
        database,
        a_row("gone", model_id="gone"),
        a_row("orphan", kind="orphan", **unknown),
        a_row("refund", kind="refund", **unknown),
    )
    found = {each.model: each for each in await compare(database, period(), routes())}
    assert (found["gone"].unpriced, found["gone"].would_cost) == (1, 120)
    assert (found["m"].calls, found["m"].unpriced, found["m"].would_cost) == (1, 1, 0), "a refund used nothing"
    assert await apply(database, period(), routes()) == 0


async def test_the_late_end_of_an_orphan_is_part_of_what_was_charged(database: Database) -> None:
    await write(database, a_row(kind="orphan", prompt_tokens=None, completion_tokens=None, cost_microusd=0))
    await write(database, a_row())
    assert await apply(database, period(), routes()) == 1
    found = await receipt_of(database)
    assert [(each["number"], each["cost_usd"]) for each in found["adjustments"]] == [(1, 0.00012), (2, 0.00006)]
    assert found["total"] == {"prompt_tokens": 100, "completion_tokens": 10, "cost_usd": 0.00018}


async def test_behind_a_route_the_model_that_served_sets_the_price(database: Database) -> None:
    dear = a_target(a_model("dear", prices=PriceSchedule(((0.0, Price(9_000_000, 0, None, "dear")),))), upstream="b")
    smart = a_route(a_target(a_model("m"), upstream="a"), name="smart", fallbacks=[dear])
    await write(database, a_row(model_id="smart", provider="b", upstream_model="dear"))
    (found,) = await compare(database, period(), routes(smart=smart))
    assert found.would_cost == 900
    await write(database, a_row("r2", model_id="smart", provider="c", upstream_model="unknown"))
    (found,) = await compare(database, period(), routes(smart=smart))
    assert (found.unpriced, found.would_cost) == (1, 1020)


async def test_one_upstream_sold_at_two_prices_keeps_the_one_that_was_charged(database: Database) -> None:
    cheap = replace(
        a_target(a_model("cheap", prices=PriceSchedule(((0.0, OLD),))), upstream="corp"), upstream_model="m"
    )
    dear = replace(a_target(a_model("dear", prices=PriceSchedule(((0.0, NEW),))), upstream="corp"), upstream_model="m")
    both = a_route(dear, name="both", fallbacks=[cheap])
    await write(database, a_row(model_id="both"))
    (found,) = await compare(database, period(), routes(both=both))
    assert (found.would_cost, found.unpriced) == (120, 0)
    await write(database, a_row("r2", model_id="both", price_version="older"))
    (found,) = await compare(database, period(), routes(both=both))
    assert (found.would_cost, found.unpriced) == (240, 1), "which of the two it was cannot be known"


async def test_many_pages_are_walked_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charges, "PAGE", 7)
    await write(database, *[a_row(f"r{number:03}", created_at=NOON + number // 20) for number in range(100)])
    (found,) = await compare(database, period(), routes())
    assert (found.calls, found.changed) == (100, 100)
    assert await apply(database, period(), routes()) == 100
    assert await apply(database, period(), routes()) == 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tokens=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)),
    prices=st.lists(st.tuples(*[st.integers(0, 10**8)] * 3), min_size=1, max_size=4),
)
async def test_whatever_prices_come_and_go_the_total_is_tokens_times_the_last(
    tmp_path_factory: pytest.TempPathFactory, tokens: tuple[int, ...], prices: list[tuple[int, ...]]
) -> None:
    database = await ready_database(tmp_path_factory.mktemp("repricing"))
    prompt, completion, cached = tokens
    await write(
        database,
        a_row(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached, cost_microusd=0),
    )
    for number, rates in enumerate(prices):
        price = Price(*rates, version=f"v{number}")
        await apply(database, period(), routes((0.0, price)))
    expected = price.cost(prompt, completion, cached)
    assert round((await receipt_of(database))["total"]["cost_usd"] * 1_000_000) == expected
    await database.close()


def dated(*entries: Mapping[str, Any]) -> PriceSchedule:
    return schedule([PriceSettings.model_validate(entry) for entry in entries], "aidock.yaml")


def test_a_configured_price_holds_from_midnight_utc_of_its_first_day() -> None:
    prices = dated({"input": Decimal(1)}, {"input": Decimal(2), "from": date(2026, 9, 22)})
    midnight = datetime(2026, 9, 22, tzinfo=UTC).timestamp()
    assert [prices.at(midnight + shift).input for shift in (-0.001, 0.0, 0.001)] == [1_000_000, 2_000_000, 2_000_000]


async def test_units_are_repriced_with_the_tokens_and_no_adjustment_counts_them_again(database: Database) -> None:
    speech = {"units": 90, "unit": "second", "prompt_tokens": 0, "completion_tokens": 0, "cost_microusd": 9_000}
    await write(database, a_row(**speech))
    dearer = Price(version="dearer", per_minute=7_000_000_000)
    assert await apply(database, period(), routes((0.0, dearer))) == 1
    assert await apply(database, period(), routes((0.0, dearer))) == 0
    found = await receipt_of(database)
    assert [each["cost_usd"] for each in found["adjustments"]] == [0.0015]
    assert found["units"] == {"unit": "second", "used": 90, "price": "per_minute", "usd": None}
    assert found["total"]["cost_usd"] == 0.0105


async def test_an_answer_from_the_cache_costs_nothing_at_any_price(database: Database) -> None:
    used = {"prompt_tokens": 0, "completion_tokens": 0, "cost_microusd": 0}
    await write(database, a_row(provider="cache", saved_microusd=9, **used))
    dearer = routes((0.0, Price(10**6, 10**6, None, "dearer")))
    assert await compare(database, period(), dearer) == []
    assert await apply(database, period(), dearer) == 0
    found = await receipt_of(database)
    assert (found["cost_usd"], found["saved_usd"], found["total"]["cost_usd"]) == (0, 0.000009, 0)


async def test_an_adjustment_saves_nothing_once_more(database: Database) -> None:
    await write(database, a_row(saved_microusd=9))
    await apply(database, period(), routes((0.0, Price(10**6, 10**6, None, "dearer"))))
    async with database.read() as session:
        (total,) = await ledger.usage(session)
    assert total["saved_usd"] == 0.000009

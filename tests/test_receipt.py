"""A receipt adds up: its rows, its prices, what was held and what was used."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway import estimate as estimates
from gateway.core.limits import LimitSet
from gateway.core.money import Price, PriceSchedule
from gateway.core.records import Decision
from gateway.core.usage import Usage
from gateway.receipt import receipt
from gateway.storage import ledger
from gateway.storage.engine import Database
from tests.ledger.support import outcome
from tests.support.calls import HELLO, a_call, a_limit, a_model, a_route, a_target, priced
from tests.support.database import ready_database
from tests.support.stage import Answer, Stage, whole_answer

PRICE = Price(1_000_000, 2_000_000, 500_000, "v1")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = await ready_database(tmp_path)
    async with made.write() as session:
        await ledger.remember_prices(session, [PRICE], 0.0)
    yield made
    await made.close()


async def made(database: Database, *rows: Any, user: str | None = None, request_id: str = "r1") -> Any:
    async with database.write() as session:
        await ledger.insert_rows(session, rows, UTC)
    async with database.read() as session:
        return await receipt(session, request_id, user)


def told(metric: str, limit: int, used: int, amount: int, action: str = "deny", *, counted: bool = True) -> Decision:
    return Decision("quota", "user", "alice@example.com", metric, "day", action, limit, used, amount, counted)


def charged(**changes: Any) -> Any:
    row = outcome("r1", price_version="v1", prompt_tokens=100, cached_tokens=40, completion_tokens=10)
    cost = PRICE.cost(100, 10, 40)
    return row._replace(reasoning_tokens=4, cost_microusd=cost, reserved_tokens=500, reserved_cost=900, **changes)


async def test_tokens_by_class_times_unit_prices_come_to_the_cost(database: Database) -> None:
    found = await made(database, charged())
    assert found["tokens"] == {"prompt": 100, "cached": 40, "completion": 10, "reasoning": 4}
    prices = found["prices"]
    assert prices == {"version": "v1", "input": 1.0, "cached_input": 0.5, "output": 2.0}
    by_hand = (60 * prices["input"] + 40 * prices["cached_input"] + 10 * prices["output"]) / 1_000_000
    assert found["cost_usd"] == pytest.approx(by_hand) == found["total"]["cost_usd"]
    assert (found["reserved"], found["settled"]["tokens"]) == ({"tokens": 500, "cost_usd": 0.0009}, 110)
    assert (found["usage_source"], found["outcome"], found["attempts"], found["latency_ms"]) == (
        "upstream",
        "ok",
        1,
        789,
    )


async def test_units_are_told_with_the_price_of_one(database: Database) -> None:
    pictures = Price(version="pictures", per_image=40_000_000_000, per_million_characters=15_000_000)
    async with database.write() as session:
        await ledger.remember_prices(session, [pictures], 0.0)
    row = charged(units=3, unit="image")._replace(price_version="pictures", cost_microusd=120_000)
    found = await made(database, row, row._replace(request_id="r2", unit="character"))
    assert found["units"] == {"unit": "image", "used": 3, "price": "per_image", "usd": 0.04}
    assert found["cost_usd"] == 0.12
    async with database.read() as session:
        other = await receipt(session, "r2", None)
    assert other is not None
    assert other["units"] == {"unit": "character", "used": 3, "price": "per_million_characters", "usd": 15.0}
    assert (await made(database, charged()._replace(request_id="r3"), request_id="r3"))["units"] is None


async def test_each_decision_is_told_in_the_units_of_its_metric(database: Database) -> None:
    decisions = (
        told("cost", 2_000_000, 1_500_000, 900),
        told("tokens", 50, 600, 500, "shadow"),
        told("requests", 5, 0, 1, counted=False),
    )
    cost, tokens, requests = (await made(database, charged(decisions=decisions)))["decisions"]
    assert (cost["limit"], cost["used"], cost["held"], cost["verdict"]) == (2.0, 1.5, 0.0009, "fits")
    assert (tokens["limit"], tokens["action"], tokens["verdict"]) == (50, "shadow", "would_refuse")
    assert (requests["verdict"], requests["policy"]) == ("not_counted", "quota")


@pytest.mark.parametrize(
    ("decisions", "overspent"),
    [
        ((), {"tokens": 0, "cost_usd": 0.0}),
        ((told("tokens", 999, 500, 80), told("cost", 999, 500, 50)), {"tokens": 30, "cost_usd": 0.00005}),
        ((told("tokens", 999, 500, 110), told("cost", 999, 500, 900)), {"tokens": 0, "cost_usd": 0.0}),
        ((told("requests", 999, 500, 1),), {"tokens": 0, "cost_usd": 0.0}),
    ],
    ids=["nothing bound it", "held too little", "held enough", "another metric"],
)
async def test_what_was_used_beyond_what_was_held_shows(
    database: Database, decisions: tuple[Decision, ...], overspent: dict[str, float]
) -> None:
    assert (await made(database, charged(decisions=decisions)))["overspent"] == overspent


async def test_adjustments_follow_in_order_and_the_total_has_them_all(database: Database) -> None:
    more = charged()._replace(kind="adjust", prompt_tokens=5, completion_tokens=None, cost_microusd=-7)
    found = await made(database, more._replace(number=2), charged(), more._replace(number=1))
    assert [each["number"] for each in found["adjustments"]] == [1, 2]
    assert found["total"] == {"prompt_tokens": 110, "completion_tokens": 10, "cost_usd": 0.000086}
    assert found["settled"] == {"tokens": 120, "cost_usd": 0.000086}


async def test_a_price_version_nobody_remembers_is_shown_without_prices(database: Database) -> None:
    found = await made(database, charged()._replace(price_version="lost"))
    assert found["prices"] == {"version": "lost", "input": None, "cached_input": None, "output": None}


async def test_unknown_tokens_are_not_zero_and_somebody_elses_call_is_not_there(database: Database) -> None:
    unknown = charged()._replace(kind="orphan", prompt_tokens=None, completion_tokens=None, cost_microusd=0)
    assert (await made(database, unknown))["tokens"]["prompt"] is None
    assert await made(database, user="eve@example.com") is None
    assert await made(database, request_id="r2") is None
    assert (await made(database, user="alice@example.com"))["request_id"] == "r1"


# What the books write


@pytest.mark.parametrize(("shift", "version", "cost"), [(-0.001, "old", 100), (0.0, "new", 300), (0.001, "new", 300)])
async def test_a_call_is_charged_by_the_price_in_force_when_it_was_created(
    tmp_path: Path, shift: float, version: str, cost: int
) -> None:
    midnight = datetime(2026, 9, 22, tzinfo=UTC).timestamp()
    prices = PriceSchedule(((0.0, Price(1_000_000, 0, None, "old")), (midnight, Price(3_000_000, 0, None, "new"))))
    route = a_route(a_target(a_model(prices=prices)))
    stage = Stage(tmp_path, route=route)
    call = a_call(route=route)
    call.created_at = midnight + shift
    call.demand = estimates.demand(call)  # a call is estimated when it is created, and charged by what it was held for
    run = stage.books.open(call, route.targets[0])
    run.usage = Usage(100, 0)
    stage.books.close(run, "ok")
    (intent,), (row,) = stage.journal.intents, stage.journal.outcomes
    assert (intent.price_version, row.price_version, row.cost_microusd) == (version, version, cost)
    await stage.close()


@pytest.mark.parametrize(("estimate", "beyond"), [("balanced", True), ("strict", False)])
async def test_overspend_is_counted_and_only_a_balanced_budget_has_any(
    tmp_path: Path, estimate: str, *, beyond: bool
) -> None:
    limits = LimitSet(quota=(a_limit("tokens", 100_000), a_limit("cost", 10**9)))
    route = a_route(a_target(a_model(prices=priced(1_000_000, 1_000_000))))
    usage = {"prompt_tokens": 3, "completion_tokens": 2_000, "total_tokens": 2_003}
    policies: dict[str, dict[str, object]] = {"quota": {"estimate": estimate}}
    stage = Stage(tmp_path, Answer([whole_answer(usage)]), route=route, limits=limits, policies=policies)
    assert (await stage.play(HELLO)).status == 200
    (row,) = stage.journal.outcomes
    over = max(0, 2_003 - row.reserved_tokens)
    assert bool(over) == beyond
    assert stage.metric("aidock_overspend_total", metric="tokens") == over
    assert stage.metric("aidock_overspend_total", metric="cost") == pytest.approx(over / 1_000_000)
    assert (await stage.used())["tokens", "month"] == 2_003, "the budget knows all of it"
    await stage.close()


async def test_the_calls_at_other_models_come_before_and_are_in_the_total(database: Database) -> None:
    failed = charged(outcome="timeout", status=504, attempts=3)
    answered = charged(request_id="r1-2", model_id="spare", provider="elsewhere")
    refund = outcome("r1-3", kind="refund", prompt_tokens=None, completion_tokens=None, cost_microusd=0)
    found = await made(database, answered, refund, failed, outcome("r1-20"), outcome("r12"))
    assert (found["request_id"], found["kind"], found["attempts"]) == ("r1", "refund", 5)
    assert [(call["request_id"], call["model_id"], call["outcome"]) for call in found["before"]] == [
        ("r1", failed.model_id, "timeout"),
        ("r1-2", "spare", "ok"),
    ]
    assert found["total"] == {"prompt_tokens": 200, "completion_tokens": 20, "cost_usd": 2 * failed.cost_microusd / 1e6}
    assert (await made(database))["before"][1]["provider"] == "elsewhere", "what is printed twice says the same"

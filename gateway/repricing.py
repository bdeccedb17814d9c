"""What past calls would cost by today's price book, and the adjustments that charge the difference.

Prices carry dates: a call is priced by the entry in force when it was created, so only a price book that was changed
for that time makes a difference. A repetition finds none: adjustments count as charged.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import NamedTuple

from gateway.core.deployment import Model, Route
from gateway.core.money import MAX_AMOUNT, Price, PriceSchedule
from gateway.core.records import OutcomeRecord
from gateway.recount import REVISION
from gateway.storage import charges, ledger, revisions
from gateway.storage.charges import Charged
from gateway.storage.days import day_after, day_of, start_of
from gateway.storage.engine import Database


class Period(NamedTuple):
    """Days of `zone`, `YYYY-MM-DD`, both included; `model` is a name that clients send, None for all."""

    first: str
    last: str
    zone: tzinfo
    model: str | None = None


@dataclass(slots=True)
class Difference:
    """The calls to one model on one day. Money is micro-dollars; `unpriced` calls keep their cost: their tokens are
    not known, or the model that served them is not in the configuration any more."""

    model: str
    day: str
    calls: int = 0
    changed: int = 0
    unpriced: int = 0
    charged: int = 0
    would_cost: int = 0


class _Repriced(NamedTuple):
    call: Charged
    price: Price | None
    cost: int


async def compare(database: Database, period: Period, routes: Mapping[str, Route]) -> list[Difference]:
    """What was charged and what it would be, by model and day. Writes nothing."""
    found: dict[tuple[str, str], Difference] = {}
    async for page in _pages(database, period, routes):
        for call, price, cost in page:
            key = call.end.model_id, day_of(call.end.created_at, period.zone)
            sums = found.setdefault(key, Difference(*key))
            sums.calls += 1
            sums.unpriced += price is None
            sums.changed += cost != call.cost_microusd
            sums.charged += call.cost_microusd
            sums.would_cost += cost
    return [found[key] for key in sorted(found)]


async def apply(database: Database, period: Period, routes: Mapping[str, Route]) -> int:
    """Charge the difference: one `adjust` row for each call that has one, in batches that stand each by itself, and
    word to running gateways to count cost anew. How many rows were written."""
    written = 0
    async for page in _pages(database, period, routes):
        changed = [
            (each, each.price) for each in page if each.price is not None and each.cost != each.call.cost_microusd
        ]
        if not changed:
            continue
        async with database.write() as session:
            await ledger.remember_prices(session, {price for _, price in changed}, time.time())
            rows = [_adjustment(each, price) for each, price in changed]
            written += await ledger.insert_rows(session, rows, period.zone)
            await revisions.bump(session, REVISION)
    return written


async def _pages(database: Database, period: Period, routes: Mapping[str, Route]) -> AsyncIterator[list[_Repriced]]:
    start = start_of(period.first, period.zone)
    stop = start_of(day_after(period.last), period.zone)
    last: Charged | None = None
    while True:
        async with database.read() as session:
            page = await charges.page(session, start, stop, period.model, last)
        if not page:
            return
        yield [_repriced(call, routes) for call in page]
        last = page[-1]


def _repriced(call: Charged, routes: Mapping[str, Route]) -> _Repriced:
    model = None if call.prompt_tokens is None else _served_by(call.end, routes)
    if model is None or call.prompt_tokens is None:
        return _Repriced(call, None, call.cost_microusd)
    price = model.prices.at(call.end.created_at)
    cost = price.cost(call.prompt_tokens, call.completion_tokens, call.cached_tokens, call.units, call.unit)
    return _Repriced(call, price, min(cost, MAX_AMOUNT - 1))


def _served_by(row: OutcomeRecord, routes: Mapping[str, Route]) -> Model | None:
    """The model behind the public name that the row's provider served, as it is configured now."""
    route = routes.get(row.model_id)
    if route is None:
        return None
    asked = (row.provider, row.upstream_model)
    served = [each.model for each in route.every_target if (each.upstream.name, each.upstream_model) == asked]
    if len({model.prices for model in served}) > 1:  # one upstream at several prices: the one that the row was charged
        return next((model for model in served if _has(model.prices, row.price_version)), None)
    if served:
        return served[0]
    return route.every_target[0].model if len(route.every_target) == 1 else None


def _has(prices: PriceSchedule, version: str) -> bool:
    return any(price.version == version for _, price in prices.entries)


def _adjustment(repriced: _Repriced, price: Price) -> OutcomeRecord:
    """The difference in cost as a row of its own, in the day and windows of the call."""
    call = repriced.call
    return call.end._replace(
        kind="adjust",
        prompt_tokens=None,
        completion_tokens=None,
        cached_tokens=None,
        reasoning_tokens=None,
        usage_source=None,
        cost_microusd=repriced.cost - call.cost_microusd,
        price_version=price.version,
        latency_ms=0,
        first_token_ms=None,
        attempts=0,
        reserved_tokens=0,
        reserved_cost=0,
        number=call.adjusted + 1,
        units=None,
        unit=None,
        saved_microusd=0,
    )

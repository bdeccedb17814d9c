"""What a check of the books asks the database. Everything here can be asked of a million rows.

A ledger row is the truth; the daily sums are made from rows, and a row's cost from its tokens and the price version
that it names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import tzinfo
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Numeric, Select, case, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.core.money import RATES, TOKENS_PER_PRICE, Price, Unit
from gateway.storage.daily import KEYS, SUMS, row_sums, summing
from gateway.storage.days import day_after, day_of, start_of
from gateway.storage.tables import LEDGER, PRICES_SEEN, TERMINAL, USAGE_DAILY, price_of

_CHUNK: Final = 500
_LAST_MOMENT: Final = 253_402_300_800.0
"""The end of the year 9999, which is as far as days have names."""

Group = tuple[str, str, str, str, str]
"""Values of `KEYS`: what the daily sums keep apart within a day."""

Totals = tuple[int, ...]
"""Values of `SUMS`."""


class Period(NamedTuple):
    """Days of the organisation's time zone, both included; None where it is open."""

    first: str | None = None
    last: str | None = None

    def moments(self, zone: tzinfo) -> tuple[float | None, float | None]:
        """From which unix time, and before which."""
        start = None if self.first is None else start_of(self.first, zone)
        return start, None if self.last is None else start_of(day_after(self.last), zone)


class Priced(NamedTuple):
    """What one call was charged: one row, or all of the rows of a call with adjustments taken together. `kinds` are
    theirs, `version` is the last one's; `price` is what that version means, None where it is not known."""

    request_id: str
    kinds: tuple[str, ...]
    version: str
    prompt: int
    completion: int
    cached: int
    cost: int
    price: Price | None
    units: int = 0
    unit: Unit | None = None


async def days(session: AsyncSession, period: Period, zone: tzinfo) -> list[str]:
    """The days that have rows or sums."""
    daily = select(USAGE_DAILY.c.day).distinct()
    if period.first is not None:
        daily = daily.where(USAGE_DAILY.c.day >= period.first)
    if period.last is not None:
        daily = daily.where(USAGE_DAILY.c.day <= period.last)
    found = set(await session.scalars(daily))
    start, end = period.moments(zone)
    end = _LAST_MOMENT if end is None else end
    earliest = select(func.min(LEDGER.c.created_at)).where(LEDGER.c.created_at < end)
    moment = await session.scalar(earliest if start is None else earliest.where(LEDGER.c.created_at >= start))
    while moment is not None:
        day = day_of(moment, zone)
        found.add(day)
        moment = await session.scalar(earliest.where(LEDGER.c.created_at >= start_of(day_after(day), zone)))
    return sorted(found)


async def summed_rows(session: AsyncSession, day: str, zone: tzinfo) -> dict[Group, Totals]:
    """A day's rows, added up."""
    return _by_group(await session.execute(summing(day, zone)))


async def daily_sums(session: AsyncSession, day: str) -> dict[Group, Totals]:
    """The same as the reports have it."""
    table = USAGE_DAILY.c
    query = select(*(table[name] for name in (*KEYS, *SUMS))).where(table.day == day)
    return _by_group(await session.execute(query))


async def row_total(session: AsyncSession, period: Period, zone: tzinfo) -> Totals:
    """All rows together, in one sum that knows nothing of days and groups."""
    query = _within(select(*row_sums()), period, zone)
    return _integers((await session.execute(query)).one())


async def daily_total(session: AsyncSession, key: str, period: Period) -> Totals:
    """The daily sums as a report by this key adds them up: for each of its values, and then those together."""
    table = USAGE_DAILY.c
    each = select(*(func.sum(table[name]).label(name) for name in SUMS)).group_by(table[key])
    if period.first is not None:
        each = each.where(table.day >= period.first)
    if period.last is not None:
        each = each.where(table.day <= period.last)
    groups = each.subquery().c
    query = select(*(func.coalesce(func.sum(groups[name]), 0) for name in SUMS))
    return _integers((await session.execute(query)).one())


async def doubtful_costs(session: AsyncSession, period: Period, zone: tzinfo) -> AsyncIterator[Priced]:
    """Calls without adjustments whose cost is not plainly tokens and units times price.

    The database multiplies; where numbers are too large for its integers it errs on the side of doubt, so what comes
    out of here is to be looked at again.
    """
    row, price = LEDGER.c, PRICES_SEEN.c
    exact = session.get_bind().dialect.name == "postgresql"  # its integers refuse to overflow, where SQLite's go over
    prompt, completion, cached, units = (
        cast(func.coalesce(row[name], 0), Numeric) if exact else func.coalesce(row[name], 0)
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "units")
    )
    known = case((cached < prompt, cached), else_=prompt)
    scaled = (
        (prompt - known) * price.input
        + known * func.coalesce(price.cached_input, price.input)
        + completion * price.output
    )
    rate = case({unit: price[name] for unit, (name, _) in RATES.items()}, value=row.unit, else_=0)
    each = case({unit: many for unit, (_, many) in RATES.items()}, value=row.unit, else_=1)
    divisor = each * TOKENS_PER_PRICE
    expected = (scaled * each + units * rate + divisor - 1) // divisor
    unsettled = (row.prompt_tokens.is_(None)) & (row.cost_microusd != 0)
    query = (
        _within(select(*_priced_columns()), period, zone)
        .select_from(LEDGER.outerjoin(PRICES_SEEN, price.version == row.price_version))
        .where(row.kind.in_(TERMINAL), row.request_id.not_in(_adjusted()))
        .where((row.cost_microusd != expected) | unsettled | (price.version.is_(None) & (row.kind == "charge")))
    )
    async for found in await session.stream(query):
        yield _priced([found])


async def adjusted_costs(session: AsyncSession, period: Period, zone: tzinfo) -> AsyncIterator[Priced]:
    """Calls with adjustments, each with its rows taken together. A call without an end has no terminal kind."""
    row = LEDGER.c
    query = (
        select(*_priced_columns())
        .select_from(LEDGER.outerjoin(PRICES_SEEN, PRICES_SEEN.c.version == row.price_version))
        .where(row.request_id.in_(_within(_adjusted(), period, zone)))
        .order_by(row.request_id, case((row.kind == "adjust", 1), else_=0), row.number)
    )
    rows: list[Any] = []
    async for found in await session.stream(query):
        if rows and rows[0].request_id != found.request_id:
            yield _priced(rows)
            rows = []
        rows.append(found)
    if rows:
        yield _priced(rows)


async def row_count(session: AsyncSession, period: Period, zone: tzinfo) -> int:
    """How many rows there are."""
    return await session.scalar(_within(select(func.count()).select_from(LEDGER), period, zone)) or 0


async def adjustments(session: AsyncSession, request_ids: Iterable[str]) -> set[tuple[str, int]]:
    """The adjustments of these calls that the ledger has, by request id and number."""
    wanted = list(request_ids)
    row = LEDGER.c
    found: set[tuple[str, int]] = set()
    for at in range(0, len(wanted), _CHUNK):
        some = select(row.request_id, row.number).where(row.request_id.in_(wanted[at : at + _CHUNK]))
        found.update((each.request_id, each.number) for each in await session.execute(some.where(row.kind == "adjust")))
    return found


def _within(query: Select[Any], period: Period, zone: tzinfo) -> Select[Any]:
    start, end = period.moments(zone)
    if start is not None:
        query = query.where(LEDGER.c.created_at >= start)
    return query if end is None else query.where(LEDGER.c.created_at < end)


def _by_group(rows: Iterable[Any]) -> dict[Group, Totals]:
    width = len(KEYS)
    return {tuple(row[:width]): _integers(row[width:]) for row in rows}


def _integers(values: Sequence[Any]) -> Totals:
    return tuple(map(int, values))  # PostgreSQL sums big integers as decimals


def _adjusted() -> Select[Any]:
    return select(LEDGER.c.request_id).where(LEDGER.c.kind == "adjust")


def _priced_columns() -> list[ColumnElement[Any]]:
    row, price = LEDGER.c, PRICES_SEEN.c
    names = ("request_id", "kind", "price_version", "prompt_tokens", "completion_tokens", "cached_tokens", "units")
    columns = [*(row[name] for name in names), row.unit, row.cost_microusd]
    return [*columns, *price]


def _priced(rows: Sequence[Any]) -> Priced:
    last = rows[-1]
    return Priced(
        last.request_id,
        tuple(row.kind for row in rows),
        last.price_version,
        sum(row.prompt_tokens or 0 for row in rows),
        sum(row.completion_tokens or 0 for row in rows),
        sum(row.cached_tokens or 0 for row in rows),
        sum(row.cost_microusd for row in rows),
        None if last.version is None else price_of(last),
        sum(row.units or 0 for row in rows),
        next((row.unit for row in rows if row.unit is not None), None),
    )

"""The ledger, and reports of it. SQLAlchemy Core throughout: rows come by the hundred."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import tzinfo
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Select, case, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.core.call import MOST_LEGS, leg_id
from gateway.core.limits import NOTHING, Actual, Limit, Metric, Scope
from gateway.core.money import MICROS_PER_DOLLAR, RATES, Price
from gateway.core.records import OutcomeRecord
from gateway.storage import daily, ledger_rows
from gateway.storage.daily import SUMS
from gateway.storage.days import day_after, day_of, start_of
from gateway.storage.errors import Invalid
from gateway.storage.statements import insert_into
from gateway.storage.tables import LEDGER, PRICES_SEEN, TERMINAL, USAGE_DAILY, price_of

MAX_BATCH: Final = 500
"""Rows per statement; more would pass a database's limit on bound values."""

_REPORTED: Final = ("requests", *SUMS[2:6])
_MONEY: Final = {"cost_microusd": "cost_usd", "saved_microusd": "saved_usd"}

_GROUPINGS: Final = {
    "department": USAGE_DAILY.c.department,
    "user": USAGE_DAILY.c.user,
    "key": USAGE_DAILY.c.key_id,
    "model": USAGE_DAILY.c.model_id,
    "provider": USAGE_DAILY.c.provider,
    "day": USAGE_DAILY.c.day,
}
_SUBJECT_COLUMN: Final[dict[Scope, str]] = {
    "department": "department",
    "user": "user",
    "key": "key_id",
    "model": "model_id",
}


async def insert_rows(session: AsyncSession, rows: Sequence[OutcomeRecord], zone: tzinfo) -> int:
    """Add up to `MAX_BATCH` rows and, for those that were not there yet, their share of the daily sums.

    Returns how many were new; offering a batch again changes nothing. The first of a call's terminal rows stands; a
    charge that comes after an orphan is stored as an adjustment. Days are those of `zone`. Raises `Unstorable` when a
    row holds a value that can never be stored; offered one by one, the others go in.
    """
    if not rows:
        return 0
    if len(rows) > MAX_BATCH:
        raise Invalid(f"A batch has at most {MAX_BATCH} rows.")
    new = await ledger_rows.add(session, rows)
    if new:
        await daily.add(session, new, zone)
    return len(new)


async def usage(
    session: AsyncSession, by: Sequence[str] = (), first: str | None = None, last: str | None = None
) -> list[dict[str, Any]]:
    """Usage by any of department, user, key, model, provider and day, in that order of columns and rows.

    `first` and `last` are days, `YYYY-MM-DD`, both included. `requests` counts every call once, refunds among them;
    `cost_usd` and `saved_usd` are floats, exact to the micro-dollar. Without usage the list is empty.
    """
    unknown = [name for name in by if name not in _GROUPINGS]
    if unknown:
        raise Invalid(f"Usage cannot be grouped by '{unknown[0]}'; choose from {', '.join(_GROUPINGS)}.")
    keys = [_GROUPINGS[name].label(name) for name in dict.fromkeys(by)]
    sums = [func.sum(USAGE_DAILY.c[name]).label(name) for name in (*_REPORTED, *_MONEY)]
    statement = select(*keys, *sums).group_by(*keys).order_by(*keys).having(func.count() > 0)
    if first is not None:
        statement = statement.where(USAGE_DAILY.c.day >= first)
    if last is not None:
        statement = statement.where(USAGE_DAILY.c.day <= last)
    return [_report(row._asdict()) for row in await session.execute(statement)]


def _report(row: dict[str, Any]) -> dict[str, Any]:
    money = {shown: int(row.pop(name)) / MICROS_PER_DOLLAR for name, shown in _MONEY.items()}
    row.update({name: int(row[name]) for name in _REPORTED})  # PostgreSQL sums big integers as decimals
    return row | money


def _amount(metric: Metric, *, daily: bool) -> ColumnElement[int]:
    table = USAGE_DAILY if daily else LEDGER
    if metric == "cost":
        return table.c.cost_microusd
    if metric == "tokens":
        return func.coalesce(table.c.prompt_tokens, 0) + func.coalesce(table.c.completion_tokens, 0)
    if daily:
        return USAGE_DAILY.c.requests - USAGE_DAILY.c.refunds
    return case((LEDGER.c.kind.in_(("charge", "orphan")), 1), else_=0)


_COUNTED: Final[tuple[Metric, ...]] = ("requests", "tokens", "cost")
"""The metrics that add up, in the order of `Actual`."""


class _Stretch(NamedTuple):
    """Rows of one table, from `first` to before `end` (None: without end), to be added or taken away."""

    daily: bool
    first: float | str
    end: float | str | None
    sign: int = 1


async def sums(session: AsyncSession, scope: Scope, start: float, end: float | None, zone: tzinfo) -> dict[str, Actual]:
    """What the calls created from `start` to before `end` (unix seconds; None: without end) have used by now, by
    subject; the one subject of the global scope is "". Subjects that used nothing are left out.

    A call is one request unless it was refunded; adjustments change its tokens and cost. Whole days of `zone` come
    from the daily sums, the rest from the rows themselves.
    """
    totals: dict[str, Actual] = {}
    for stretch in _stretches(start, end, zone):
        for subject, *used in await session.execute(_used_in(stretch, scope)):
            # PostgreSQL sums big integers as decimals.
            requests, tokens, cost = (stretch.sign * int(amount) for amount in used)
            known = totals.get(subject, NOTHING)
            totals[subject] = Actual(known.requests + requests, known.tokens + tokens, known.cost + cost)
    return {subject: actual for subject, actual in totals.items() if actual != NOTHING}


class Span(NamedTuple):
    """A limit's subject from `start` to before `end` (unix seconds; None: without end)."""

    limit: Limit
    start: float
    end: float | None


async def used(session: AsyncSession, spans: Sequence[Span], zone: tzinfo) -> list[int]:
    """What each subject used in its span, in the unit of its limit. Spans alike are asked for together."""
    wanted: defaultdict[tuple[Scope, float, float | None], list[int]] = defaultdict(list)
    for index, span in enumerate(spans):
        wanted[span.limit.scope, span.start, span.end].append(index)
    found = [0] * len(spans)
    for (scope, start, end), indexes in wanted.items():
        by_subject = await sums(session, scope, start, end, zone)
        for index in indexes:
            limit = spans[index].limit
            found[index] = by_subject.get(limit.subject, NOTHING).of(limit.metric)
    return found


def _stretches(start: float, end: float | None, zone: tzinfo) -> Iterator[_Stretch]:
    """A period as whole days and edges. What is asked for nearly always ends now, in the middle of a day whose rest
    holds next to nothing: so that day is taken whole, and its rest away again."""
    first = day_of(start, zone)
    if start_of(first, zone) < start:
        first = day_after(first)
    first_at = start_of(first, zone)
    if end is not None and end <= first_at:
        yield _Stretch(False, start, end)
        return
    if start < first_at:
        yield _Stretch(False, start, first_at)
    if end is None:
        yield _Stretch(True, first, None)
        return
    beyond = day_of(end, zone)
    if start_of(beyond, zone) < end:
        beyond = day_after(beyond)
        yield _Stretch(False, end, start_of(beyond, zone), -1)
    yield _Stretch(True, first, beyond)


def _used_in(stretch: _Stretch, scope: Scope) -> Select[Any]:
    table = USAGE_DAILY if stretch.daily else LEDGER
    time = table.c.day if stretch.daily else table.c.created_at
    subject = literal("") if scope == "global" else table.c[_SUBJECT_COLUMN[scope]]
    amounts = [func.coalesce(func.sum(_amount(metric, daily=stretch.daily)), 0) for metric in _COUNTED]
    query = select(subject, *amounts).where(time >= stretch.first)
    if stretch.end is not None:
        query = query.where(time < stretch.end)
    return query if scope == "global" else query.group_by(subject)


async def landed(session: AsyncSession, request_ids: Iterable[str]) -> set[str]:
    """Those of the calls whose end is in the ledger."""
    wanted = list(request_ids)
    found: set[str] = set()
    for at in range(0, len(wanted), MAX_BATCH):
        some = LEDGER.c.request_id.in_(wanted[at : at + MAX_BATCH])
        found.update(await session.scalars(select(LEDGER.c.request_id).where(some, LEDGER.c.kind.in_(TERMINAL))))
    return found


async def receipt(
    session: AsyncSession, request_id: str, *, user: str | None = None, department: str | None = None
) -> list[dict[str, Any]]:
    """The rows of a request's calls with all of their columns, call by call in the order they were made: its end
    first, then its adjustments as they were made.

    `user` and `department` restrict it to their own calls. `decisions` is a list of objects. Empty for a call that is
    unknown, has not ended, or is somebody else's.
    """
    ids = [request_id, *(leg_id(request_id, number) for number in range(2, MOST_LEGS + 1))]
    query = select(LEDGER).where(LEDGER.c.request_id.in_(ids))
    if user is not None:
        query = query.where(LEDGER.c.user == user)
    if department is not None:
        query = query.where(LEDGER.c.department == department)
    found = await session.execute(query.order_by(case((LEDGER.c.kind == "adjust", 1), else_=0), LEDGER.c.number))
    rows = sorted((row._asdict() for row in found), key=lambda row: ids.index(row["request_id"]))
    for row in rows:
        row["decisions"] = json.loads(row["decisions"] or "[]")
    return rows


async def remember_prices(session: AsyncSession, prices: Iterable[Price], now: float) -> None:
    """Keep what each price version means. A version that is known keeps its first meaning."""
    rows = [
        {
            "version": price.version,
            "input": price.input,
            "output": price.output,
            "cached_input": price.cached_input,
            "first_seen": now,
            **{name: getattr(price, name) for name, _ in RATES.values()},
        }
        for price in prices
    ]
    if rows:
        await session.execute(insert_into(session, PRICES_SEEN).on_conflict_do_nothing(), rows)


async def known_prices(session: AsyncSession) -> dict[str, Price]:
    """Every price ever charged, by version."""
    return {row.version: price_of(row) for row in await session.execute(select(PRICES_SEEN))}

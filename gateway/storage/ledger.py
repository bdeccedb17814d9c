"""The ledger and its daily sums. SQLAlchemy Core throughout: rows come by the hundred."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import chain
from typing import Any, Final

from sqlalchemy import ColumnElement, case, delete, func, literal, select
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from gateway.core.limits import Metric, Scope
from gateway.core.money import MICROS_PER_DOLLAR, Price
from gateway.core.records import OutcomeRecord
from gateway.storage.errors import Invalid, Unstorable
from gateway.storage.statements import adding_insert, insert_into
from gateway.storage.tables import LEDGER, PRICES_SEEN, USAGE_DAILY

MAX_BATCH: Final = 500
"""Rows per statement; more would pass a database's limit on bound values."""

_SUMS: Final = (
    "requests",
    "refunds",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost_microusd",
)
_REPORTED: Final = ("requests", *_SUMS[2:6])

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

_UNSTORABLE: Final = (DataError, IntegrityError, InterfaceError, ProgrammingError, OverflowError, UnicodeEncodeError)
"""What drivers raise for a value of the wrong kind or size; each has its own way."""

_DayKey = tuple[str, str, str, str, str, str]


async def insert_rows(session: AsyncSession, rows: Sequence[OutcomeRecord], zone: tzinfo) -> int:
    """Add up to `MAX_BATCH` rows and, for those that were not there yet, their share of the daily sums.

    Returns how many were new; offering a batch again changes nothing. Days are those of `zone`. Raises `Unstorable`
    when a row holds a value that can never be stored; offered one by one, the others go in.
    """
    if not rows:
        return 0
    if len(rows) > MAX_BATCH:
        raise Invalid(f"A batch has at most {MAX_BATCH} rows.")
    added = await _add(session, rows)
    new = rows if len(added) == len(rows) else _first_of_each(rows, added)
    if new:
        await session.execute(adding_insert(session, USAGE_DAILY, _SUMS), _daily_sums(new, zone))
    return len(new)


async def _add(session: AsyncSession, rows: Sequence[OutcomeRecord]) -> set[tuple[str, str]]:
    """Insert, and tell the keys of the rows that were not there. Handed to the driver as they are: SQLAlchemy's own
    handling of bound values would take longer than the database does.

    Rows are nearly always new, and an insert that need not say which were is four times as quick; only where one of
    them turns out to be there is the batch inserted again with that question.
    """
    connection = await session.connection()
    if await _add_new(connection, rows):
        return {(row.request_id, row.kind) for row in rows}
    statement = _insert_statement(connection.dialect.name, len(rows))
    added: Any = await _run(connection, statement, tuple(chain.from_iterable(rows)))
    return {tuple(key) for key in added}


async def _add_new(connection: AsyncConnection, rows: Sequence[OutcomeRecord]) -> bool:
    """Insert rows of which none is there yet. False, and nothing done, where one is."""
    if connection.dialect.name != "sqlite":
        return False
    try:
        async with connection.begin_nested():
            await _run(connection, _INSERT_ONE, [tuple(row) for row in rows])
    except Unstorable:
        return False  # there already, or unfit for the table: the other statement tells the two apart
    return True


async def _run(connection: AsyncConnection, statement: str, values: Any) -> Any:
    try:
        return await connection.exec_driver_sql(statement, values)
    except _UNSTORABLE as error:
        if isinstance(error, ProgrammingError) and "binding" not in str(error.orig):
            raise  # about the statement, not about a value
        raise Unstorable(f"The ledger cannot hold one of these rows: {getattr(error, 'orig', error)}.") from error


_COLUMNS: Final = ", ".join(f'"{column.name}"' for column in LEDGER.columns)
_INSERT_ONE: Final = f"INSERT INTO ledger ({_COLUMNS}) VALUES ({', '.join('?' * len(LEDGER.columns))})"  # noqa: S608  names are ours


@lru_cache(maxsize=8)
def _insert_statement(dialect: str, count: int) -> str:
    width = len(LEDGER.columns)
    if dialect == "sqlite":
        row = f"({', '.join('?' * width)})"
        values = ", ".join([row] * count)
    else:
        values = ", ".join(
            f"({', '.join(f'${first + i}' for i in range(width))})" for first in range(1, count * width, width)
        )
    return f"INSERT INTO ledger ({_COLUMNS}) VALUES {values} ON CONFLICT DO NOTHING RETURNING request_id, kind"  # noqa: S608  names are ours


def _first_of_each(rows: Iterable[OutcomeRecord], wanted: set[tuple[str, str]]) -> list[OutcomeRecord]:
    """The rows with these keys, each key once: what the database kept of a batch with repetitions."""
    kept = []
    for row in rows:
        key = (row.request_id, row.kind)
        if key in wanted:
            wanted.discard(key)
            kept.append(row)
    return kept


def _daily_sums(rows: Iterable[OutcomeRecord], zone: tzinfo) -> list[dict[str, Any]]:
    """The rows summed as `usage_daily` has them, in the order of its key so that two writers cannot deadlock."""
    days: dict[int, str] = {}
    totals: dict[_DayKey, list[int]] = {}
    for row in rows:
        minute = int(row.created_at // 60)
        day = days.get(minute)
        if day is None:
            day = days[minute] = day_of(row.created_at, zone)
        key = (day, row.department, row.user, row.key_id, row.model_id, row.provider)
        total = totals.get(key)
        if total is None:
            total = totals[key] = [0] * len(_SUMS)
        total[0] += row.kind != "adjust"
        total[1] += row.kind == "refund"
        total[2] += row.prompt_tokens or 0
        total[3] += row.completion_tokens or 0
        total[4] += row.cached_tokens or 0
        total[5] += row.reasoning_tokens or 0
        total[6] += row.cost_microusd
    names = (*(column.name for column in USAGE_DAILY.primary_key), *_SUMS)
    return [dict(zip(names, (*key, *totals[key]), strict=True)) for key in sorted(totals)]


async def usage(
    session: AsyncSession, by: Sequence[str] = (), first: str | None = None, last: str | None = None
) -> list[dict[str, Any]]:
    """Usage by any of department, user, key, model, provider and day, in that order of columns and rows.

    `first` and `last` are days, `YYYY-MM-DD`, both included. `requests` counts every call once, refunds among them;
    `cost_usd` is a float, exact to the micro-dollar. Without usage the list is empty.
    """
    unknown = [name for name in by if name not in _GROUPINGS]
    if unknown:
        raise Invalid(f"Usage cannot be grouped by '{unknown[0]}'; choose from {', '.join(_GROUPINGS)}.")
    keys = [_GROUPINGS[name].label(name) for name in dict.fromkeys(by)]
    sums = [func.sum(USAGE_DAILY.c[name]).label(name) for name in (*_REPORTED, "cost_microusd")]
    statement = select(*keys, *sums).group_by(*keys).order_by(*keys).having(func.count() > 0)
    if first is not None:
        statement = statement.where(USAGE_DAILY.c.day >= first)
    if last is not None:
        statement = statement.where(USAGE_DAILY.c.day <= last)
    return [_report(row._asdict()) for row in await session.execute(statement)]


def _report(row: dict[str, Any]) -> dict[str, Any]:
    cost = int(row.pop("cost_microusd"))
    row.update({name: int(row[name]) for name in _REPORTED})  # PostgreSQL sums big integers as decimals
    row["cost_usd"] = cost / MICROS_PER_DOLLAR
    return row


async def used_since(
    session: AsyncSession, scope: Scope, subject: str, metric: Metric, since: float, zone: tzinfo | None = None
) -> int:
    """How much of a metric a subject has used since a unix time: requests, tokens, or micro-dollars.

    A call that was refunded is no request. Reads the ledger itself, or the daily sums where `since` is 0 or the
    start of a day in `zone`; `parallel` is nothing that adds up, so 0.
    """
    if metric == "parallel":
        return 0
    day = None if zone is None else day_of(since, zone)
    whole_days = since <= 0 or (day is not None and zone is not None and start_of(day, zone) == since)
    table = USAGE_DAILY if whole_days else LEDGER
    statement = select(func.coalesce(func.sum(_amount(metric, daily=whole_days)), 0))
    if scope != "global":
        statement = statement.where(table.c[_SUBJECT_COLUMN[scope]] == subject)
    if not whole_days:
        statement = statement.where(LEDGER.c.created_at >= since)
    elif since > 0:
        statement = statement.where(USAGE_DAILY.c.day >= day)
    return int(await session.scalar(statement) or 0)


def _amount(metric: Metric, *, daily: bool) -> ColumnElement[int]:
    table = USAGE_DAILY if daily else LEDGER
    if metric == "cost":
        return table.c.cost_microusd
    if metric == "tokens":
        return func.coalesce(table.c.prompt_tokens, 0) + func.coalesce(table.c.completion_tokens, 0)
    if daily:
        return USAGE_DAILY.c.requests - USAGE_DAILY.c.refunds
    return case((LEDGER.c.kind.in_(("charge", "orphan")), 1), else_=0)


async def rebuild_daily(session: AsyncSession, zone: tzinfo) -> None:
    """Sum the whole ledger again, for a new time zone or because the sums are in doubt. Reads every row once."""
    await session.execute(delete(USAGE_DAILY))
    earliest, latest = (
        await session.execute(select(func.min(LEDGER.c.created_at), func.max(LEDGER.c.created_at)))
    ).one()
    if earliest is None:
        return
    day = day_of(earliest, zone)
    while start_of(day, zone) <= latest:
        following = _day_after(day)
        await session.execute(_summing_insert(session, day, start_of(day, zone), start_of(following, zone)))
        day = following


def _summing_insert(session: AsyncSession, day: str, start: float, end: float) -> Any:
    row = LEDGER.c
    keys = [row.department, row.user, row.key_id, row.model_id, row.provider]
    sums = [
        func.sum(case((row.kind != "adjust", 1), else_=0)),
        func.sum(case((row.kind == "refund", 1), else_=0)),
        *(func.sum(func.coalesce(row[name], 0)) for name in _SUMS[2:]),
    ]
    query = select(literal(day), *keys, *sums).where(row.created_at >= start, row.created_at < end).group_by(*keys)
    names = [column.name for column in USAGE_DAILY.primary_key] + list(_SUMS)
    return insert_into(session, USAGE_DAILY).from_select(names, query)


def day_of(moment: float, zone: tzinfo) -> str:
    """The day of a unix time in a time zone, `YYYY-MM-DD`."""
    return datetime.fromtimestamp(moment, zone).date().isoformat()


def start_of(day: str, zone: tzinfo) -> float:
    """The unix time at which a day begins."""
    return datetime.fromisoformat(day).replace(tzinfo=zone).timestamp()


def _day_after(day: str) -> str:
    return (datetime.fromisoformat(day) + timedelta(days=1)).date().isoformat()


async def remember_prices(session: AsyncSession, prices: Iterable[Price], now: float) -> None:
    """Keep what each price version means. A version that is known keeps its first meaning."""
    rows = [
        {
            "version": price.version,
            "input": price.input,
            "output": price.output,
            "cached_input": price.cached_input,
            "first_seen": now,
        }
        for price in prices
    ]
    if rows:
        await session.execute(insert_into(session, PRICES_SEEN).on_conflict_do_nothing(), rows)


async def known_prices(session: AsyncSession) -> dict[str, Price]:
    """Every price ever charged, by version."""
    rows = await session.execute(select(PRICES_SEEN))
    return {row.version: Price(row.input, row.output, row.cached_input, row.version) for row in rows}

"""The daily sums: what the rows of a day add up to, by who called what. Rows add themselves as they land; sums that are
in doubt are made anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import tzinfo
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, case, delete, func, literal, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.core.records import OutcomeRecord
from gateway.storage import settings
from gateway.storage.days import day_after, day_of, start_of
from gateway.storage.statements import insert_into, insert_many
from gateway.storage.tables import LEDGER, USAGE_DAILY

KEYS: Final = ("department", "user", "key_id", "model_id", "provider")
SUMS: Final = (
    "requests",
    "refunds",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost_microusd",
    "saved_microusd",
)
_ZONE: Final = "timezone"
_ADDED_UP: Final = 'ON CONFLICT (day, department, "user", key_id, model_id, provider) DO UPDATE SET ' + ", ".join(
    f"{name} = usage_daily.{name} + excluded.{name}" for name in SUMS
)

_DayKey = tuple[str, str, str, str, str, str]


async def add(session: AsyncSession, rows: Iterable[OutcomeRecord], zone: tzinfo) -> None:
    """Add rows that are new to the sums of their days."""
    await insert_many(await session.connection(), USAGE_DAILY, _summed(rows, zone), _ADDED_UP)


def row_sums() -> list[ColumnElement[Any]]:
    """What the database adds rows up by, in the order of `SUMS`."""
    row = LEDGER.c
    return [
        func.coalesce(func.sum(case((row.kind != "adjust", 1), else_=0)), 0).label("requests"),
        func.coalesce(func.sum(case((row.kind == "refund", 1), else_=0)), 0).label("refunds"),
        *(func.coalesce(func.sum(row[name]), 0).label(name) for name in SUMS[2:]),
    ]


def summing(day: str, zone: tzinfo) -> Select[Any]:
    """The query for a day's rows, added up: `KEYS`, then `SUMS`."""
    keys = [LEDGER.c[name] for name in KEYS]
    start, end = start_of(day, zone), start_of(day_after(day), zone)
    query = select(*keys, *row_sums()).group_by(*keys)
    return query.where(LEDGER.c.created_at >= start, LEDGER.c.created_at < end)


async def follow_zone(session: AsyncSession, zone: tzinfo) -> bool:
    """Make the sums anew where they were made for another time zone; whether they were."""
    name = str(zone)
    before = await settings.claim(session, _ZONE, name)
    if before == name:
        return False
    await rebuild(session, zone)
    await settings.put(session, _ZONE, name)
    return True


async def rebuild(session: AsyncSession, zone: tzinfo) -> None:
    """Sum the whole ledger again, for a new time zone or because the sums are in doubt. Reads every row once."""
    await session.execute(delete(USAGE_DAILY))
    earliest, latest = (
        await session.execute(select(func.min(LEDGER.c.created_at), func.max(LEDGER.c.created_at)))
    ).one()
    if earliest is None:
        return
    day = day_of(earliest, zone)
    while start_of(day, zone) <= latest:
        await _sum_day(session, day, zone)
        day = day_after(day)


async def rebuild_day(session: AsyncSession, day: str, zone: tzinfo) -> None:
    """Make a day's sums anew from its rows. Rows that land meanwhile wait, and add themselves to the new sums."""
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(text("LOCK TABLE usage_daily IN SHARE ROW EXCLUSIVE MODE"))
    await session.execute(delete(USAGE_DAILY).where(USAGE_DAILY.c.day == day))
    await _sum_day(session, day, zone)


async def _sum_day(session: AsyncSession, day: str, zone: tzinfo) -> None:
    query = summing(day, zone)
    query = query.with_only_columns(literal(day).label("day"), *query.selected_columns)
    await session.execute(insert_into(session, USAGE_DAILY).from_select(["day", *KEYS, *SUMS], query))


def _summed(rows: Iterable[OutcomeRecord], zone: tzinfo) -> Sequence[tuple[Any, ...]]:
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
            total = totals[key] = [0] * len(SUMS)
        total[0] += row.kind != "adjust"
        total[1] += row.kind == "refund"
        total[2] += row.prompt_tokens or 0
        total[3] += row.completion_tokens or 0
        total[4] += row.cached_tokens or 0
        total[5] += row.reasoning_tokens or 0
        total[6] += row.cost_microusd
        total[7] += row.saved_microusd
    return [(*key, *totals[key]) for key in sorted(totals)]

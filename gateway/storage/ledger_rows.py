"""Adding rows to the ledger so that a call ends once, whoever offers its rows, in whatever order and how often.

The first terminal row of a call stands; the table's unique index sees to that. An orphan or a refund that comes after
it is dropped. A charge that finds an orphan is the late end of a call that was given up too early: its use is added as
the call's adjustment number 1. An orphan has used nothing, so nothing else can have adjusted it before, and the same
end offered again meets its own key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final, TypeVar

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from gateway.core.body import encode
from gateway.core.records import Decision, OutcomeRecord
from gateway.storage.driver_errors import cause_of, is_about_a_value
from gateway.storage.errors import Unstorable
from gateway.storage.statements import insert_many
from gateway.storage.tables import LEDGER

LATE_END: Final = 1
"""The number of the adjustment that carries the late end of an orphaned call."""

_DECISIONS: Final = OutcomeRecord._fields.index("decisions")
_REST: Final = _DECISIONS + 1

_T = TypeVar("_T")


async def add(session: AsyncSession, rows: Sequence[OutcomeRecord]) -> list[OutcomeRecord]:
    """Store what is new of the rows, and return that as it was stored. Raises `Unstorable`."""
    connection = await session.connection()
    added = await _add_new(connection, rows)
    if len(added) < len(rows):
        added += await _add_late_ends(connection, rows)
    return added


async def _add_new(connection: AsyncConnection, rows: Sequence[OutcomeRecord]) -> list[OutcomeRecord]:
    """Insert the rows that are not there, and tell which those were."""
    values = [_values(row) for row in rows]
    if connection.dialect.name == "postgresql":
        returned = await _run(insert_many(connection, LEDGER, values, _UNLESS_THERE))
    elif await _add_all(connection, values):
        return list(rows)
    else:
        statement = _insert_statement(len(rows))
        returned = await _run(connection.exec_driver_sql(statement, tuple(chain.from_iterable(values))))
    added = {tuple(key) for key in returned}
    return list(rows) if len(added) == len(rows) else _first_of_each(rows, added)


async def _add_all(connection: AsyncConnection, values: Sequence[tuple[Any, ...]]) -> bool:
    """Insert rows of which none is there yet. False, and nothing done, where one is.

    Rows are nearly always new, and in SQLite an insert that need not say which were is four times as quick.
    """
    try:
        async with connection.begin_nested():
            await _run(insert_many(connection, LEDGER, values))
    except Unstorable:
        return False  # there already, or unfit for the table: the other statement tells the two apart
    return True


async def _add_late_ends(connection: AsyncConnection, rows: Sequence[OutcomeRecord]) -> list[OutcomeRecord]:
    """Add to orphans what their calls turn out to have used."""
    charges: dict[str, OutcomeRecord] = {}
    for row in rows:
        if row.kind == "charge":
            charges.setdefault(row.request_id, row)
    mine = LEDGER.c.request_id.in_(list(charges))
    orphans = await connection.scalars(select(LEDGER.c.request_id).where(LEDGER.c.kind == "orphan", mine))
    late = [charges[request_id]._replace(kind="adjust", number=LATE_END) for request_id in orphans]
    return await _add_new(connection, late) if late else []


def _first_of_each(rows: Iterable[OutcomeRecord], wanted: set[tuple[Any, ...]]) -> list[OutcomeRecord]:
    """The rows with these keys, each key once: what the database kept of a batch with repetitions."""
    kept = []
    for row in rows:
        key = (row.request_id, row.kind, row.number)
        if key in wanted:
            wanted.discard(key)
            kept.append(row)
    return kept


def _values(row: OutcomeRecord) -> tuple[Any, ...]:
    """The row's columns. Raises `Unstorable` for decisions that are none."""
    if not row.decisions:
        return (*row[:_DECISIONS], None, *row[_REST:])
    try:
        decisions = encode([dict(zip(Decision._fields, decision, strict=False)) for decision in row.decisions])
    except (TypeError, ValueError, OverflowError) as error:
        raise Unstorable(f"The ledger cannot hold one of these rows: {error}.") from error
    return (*row[:_DECISIONS], decisions.decode(), *row[_REST:])


async def _run(work: Awaitable[_T]) -> _T:
    try:
        return await work
    except DBAPIError as error:
        if not is_about_a_value(error):
            raise
        raise Unstorable(f"The ledger cannot hold one of these rows: {cause_of(error)}.") from error
    except (OverflowError, UnicodeEncodeError) as error:  # SQLite's driver has no errors of its own for these
        raise Unstorable(f"The ledger cannot hold one of these rows: {error}.") from error


_UNLESS_THERE: Final = "ON CONFLICT DO NOTHING RETURNING request_id, kind, number"


@lru_cache(maxsize=8)
def _insert_statement(count: int) -> str:
    """Many rows in one statement for SQLite, which can return rows of such a one only."""
    columns = ", ".join(f'"{column.name}"' for column in LEDGER.columns)
    row = f"({', '.join('?' * len(LEDGER.columns))})"
    return f"INSERT INTO ledger ({columns}) VALUES {', '.join([row] * count)} {_UNLESS_THERE}"  # noqa: S608  names are ours

"""Statements that both databases know but SQLAlchemy spells once for each."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import CursorResult, Dialect, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

Insert = sqlite.Insert | postgresql.Insert


def insert_into(session: AsyncSession, table: Table) -> Insert:
    """An INSERT that can say ON CONFLICT."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def adding_insert(session: AsyncSession, table: Table, sums: Sequence[str]) -> Insert:
    """An INSERT that adds its `sums` to those of the row that has the same primary key."""
    statement = insert_into(session, table)
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={name: table.c[name] + statement.excluded[name] for name in sums},
    )


async def insert_many(
    connection: AsyncConnection, table: Table, rows: Sequence[Sequence[Any]], then: str = ""
) -> CursorResult[Any]:
    """Insert rows, each with every column of the table in its order; `then` is what follows in the statement.

    The values go to the driver as they are: with many rows, SQLAlchemy's handling of them takes longer than the
    database does. PostgreSQL takes each column as one array, so one statement does for any number of rows; SQLite
    runs the statement once for each row and cannot return any.
    """
    statement = _insert_statement(connection.dialect.name, table, then)
    if connection.dialect.name == "postgresql":
        return await connection.exec_driver_sql(statement, tuple(map(list, zip(*rows, strict=True))))
    return await connection.exec_driver_sql(statement, list(map(tuple, rows)))


@lru_cache(maxsize=64)
def _insert_statement(dialect: str, table: Table, then: str) -> str:
    columns = ", ".join(f'"{column.name}"' for column in table.columns)
    if dialect == "postgresql":
        types = [column.type.compile(dialect=_POSTGRESQL) for column in table.columns]
        arrays = ", ".join(f"${number}::{type_}[]" for number, type_ in enumerate(types, 1))
        values = f"SELECT * FROM unnest({arrays})"  # noqa: S608  names and types are ours
    else:
        values = f"VALUES ({', '.join('?' * len(table.columns))})"
    return f'INSERT INTO "{table.name}" ({columns}) {values} {then}'


_POSTGRESQL: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped


def new_id() -> str:
    """A primary key that nobody guesses and no two processes share."""
    return uuid.uuid4().hex

"""Statements that both databases know but SQLAlchemy spells once for each."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

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


def new_id() -> str:
    """A primary key that nobody guesses and no two processes share."""
    return uuid.uuid4().hex

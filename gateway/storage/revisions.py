"""Revision numbers: how a process learns that another has changed what it has cached."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.storage.statements import adding_insert
from gateway.storage.tables import REVISIONS

DIRECTORY = "directory"
"""Departments, users, keys and quotas: all that the data plane knows by heart."""


async def bump(session: AsyncSession, name: str = DIRECTORY) -> None:
    """Announce a change. It shows when the session commits, together with the change itself.

    Said before anything is looked at, it makes changes wait for each other in every process: what one has seen stands
    until it is done.
    """
    await session.execute(adding_insert(session, REVISIONS, ["value"]), {"name": name, "value": 1})


async def current(session: AsyncSession, name: str = DIRECTORY) -> int:
    """The number as the session sees it, 0 before the first change."""
    return await session.scalar(select(REVISIONS.c.value).where(REVISIONS.c.name == name)) or 0

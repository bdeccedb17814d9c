"""What an installation remembers about itself: short texts by name."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.storage.statements import insert_into, new_id
from gateway.storage.tables import SETTINGS


async def get(session: AsyncSession, name: str) -> str | None:
    """The text under a name, None when there is none."""
    return await session.scalar(select(SETTINGS.c.value).where(SETTINGS.c.name == name))


async def put(session: AsyncSession, name: str, value: str) -> None:
    """Set it, whatever stood there."""
    statement = insert_into(session, SETTINGS).values(name=name, value=value)
    await session.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": value}))


async def claim(session: AsyncSession, name: str, value: str) -> str:
    """Set it unless it is set; the value that stands. Whoever is first wins."""
    statement = insert_into(session, SETTINGS).values(name=name, value=value)
    await session.execute(statement.on_conflict_do_nothing())
    return await get(session, name) or value


async def installation(session: AsyncSession) -> str:
    """The installation's own name, given when it is first asked for. By it a counter store knows whose it is."""
    return await claim(session, "installation", new_id())

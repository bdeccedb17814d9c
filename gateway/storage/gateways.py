"""The roll of gateways: whose calls may have rows on their way to the ledger."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.storage.statements import insert_into
from gateway.storage.tables import GATEWAYS


async def sign(session: AsyncSession, name: str, told: str) -> None:
    """Be on the roll, one beat on."""
    new = insert_into(session, GATEWAYS)
    statement = new.on_conflict_do_update(
        index_elements=[GATEWAYS.c.name], set_={"beats": GATEWAYS.c.beats + 1, "told": new.excluded.told}
    )
    await session.execute(statement, {"name": name, "beats": 1, "told": told})


async def beats(session: AsyncSession) -> dict[str, int]:
    """How often each has signed, by name."""
    found = await session.execute(select(GATEWAYS.c.name, GATEWAYS.c.beats))
    return {row.name: row.beats for row in found}


async def silent(session: AsyncSession, rebuild: str) -> list[str]:
    """Those who have not told what they know, before a rebuild of the counters."""
    return list(await session.scalars(select(GATEWAYS.c.name).where(GATEWAYS.c.told != rebuild)))


async def strike(session: AsyncSession, names: Collection[str]) -> None:
    """Take from the roll who has nothing on its way any more."""
    await session.execute(delete(GATEWAYS).where(GATEWAYS.c.name.in_(names)))

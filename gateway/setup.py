"""The first start: somebody to call, and a key to call with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from gateway.core.secret import Secret
from gateway.identity.issuing import issue
from gateway.identity.pepper import Pepper, confirm
from gateway.settings.environment import env_or_file
from gateway.storage import departments, users
from gateway.storage.engine import Database

DEPARTMENT = "default"
ADMIN = "admin@localhost"


class FirstStart(NamedTuple):
    """What was set up. `key` is None where the operator brought its own, which is not shown."""

    admin: str
    key: Secret | None


async def ensure_department(session: AsyncSession) -> None:
    """Make the department that people belong to unless told otherwise, where it is not there yet."""
    if all(known.name != DEPARTMENT for known in await departments.every(session)):
        await departments.create(session, DEPARTMENT)
        await session.flush()


async def set_up(database: Database, pepper: Pepper, environ: Mapping[str, str]) -> FirstStart | None:
    """Make the first department, administrator and key, once: None where there are users already.

    `AIDOCK_INIT_ADMIN_EMAIL` and `AIDOCK_INIT_API_KEY` (or their `_FILE` twins) take the place of what would be made
    up. Raises `Invalid` for an address or key that cannot be one, and
    `PepperRefused` for another secret than the database was filled with.
    """
    email = env_or_file(environ, "AIDOCK_INIT_ADMIN_EMAIL") or ADMIN
    given = env_or_file(environ, "AIDOCK_INIT_API_KEY")
    async with database.write() as session:
        await confirm(session, pepper)
        if await users.every(session):
            return None
        await ensure_department(session)
        await users.create(session, email, DEPARTMENT, role="admin")
        await session.flush()
        made = await issue(session, pepper, email, name="first key", text=Secret(given) if given else None)
    return FirstStart(email, None if given else made.text)

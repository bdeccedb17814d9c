"""A database that is ready to use, and keys for it, in one line each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gateway.identity import issuing
from gateway.identity.pepper import Pepper
from gateway.storage import departments, users
from gateway.storage.engine import Database
from gateway.storage.errors import NotFound
from gateway.storage.migrate import migrate

PEPPER = Pepper(b"a secret that only tests know, and long enough")


def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'aidock.db'}"


async def ready_database(tmp_path: Path) -> Database:
    """A migrated SQLite file. Close it: one left open keeps the process from ending."""
    migrate(database_url(tmp_path))
    return Database.open(database_url(tmp_path), tmp_path)


async def issue_key(
    database: Database,
    pepper: Pepper = PEPPER,
    *,
    user: str = "ada@example.com",
    department: str = "research",
    models: Sequence[str] | None = None,
    expires_at: float | None = None,
) -> str:
    """The text of a new key; its user and department are made when they are not there."""
    async with database.write() as session:
        try:
            await departments.find(session, department)
        except NotFound:
            await departments.create(session, department)
        try:
            await users.find(session, user)
        except NotFound:
            await users.create(session, user, department)
        issued = await issuing.issue(session, pepper, user, models=models, expires_at=expires_at)
    return issued.text.reveal()

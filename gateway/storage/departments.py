"""Departments: who pays. Names are the ones that limits and the ledger use."""

from __future__ import annotations

import time
from typing import Literal

from sqlalchemy import delete as sql_delete
from sqlalchemy import select
from sqlalchemy import update as sql_update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from gateway.storage.errors import Conflict, Invalid, not_found
from gateway.storage.revisions import bump
from gateway.storage.statements import new_id
from gateway.storage.tables import DEPARTMENTS, USERS, Department, Quota

MAX_NAME = 100


async def create(session: AsyncSession, name: str) -> Department:
    """Raises `Conflict` when the name is taken, `Invalid` when it cannot be a name."""
    await bump(session)
    name = clean_name(name, "department")
    await _refuse_taken(session, name)
    department = Department(id=new_id(), name=name, created_at=time.time())
    session.add(department)
    return department


async def every(session: AsyncSession) -> list[Department]:
    """All of them by name, archived ones included."""
    return list(await session.scalars(select(Department).order_by(col(Department.name))))


async def find(session: AsyncSession, name: str) -> Department:
    """By name or id. Raises `NotFound` with the nearest name."""
    wanted = (col(Department.name) == name) | (col(Department.id) == name)
    department = (await session.scalars(select(Department).where(wanted))).first()
    if department is None:
        raise not_found("department", name, await session.scalars(select(DEPARTMENTS.c.name)))
    return department


async def update(
    session: AsyncSession, name: str, *, new_name: str | None = None, archived: bool | None = None
) -> Department:
    """Rename, archive or bring back. Quotas follow the new name; ledger rows keep the old one."""
    await bump(session)
    department = await find(session, name)
    if new_name is not None and new_name != department.name:
        new_name = clean_name(new_name, "department")
        await _refuse_taken(session, new_name)
        await rename_subject(session, "department", department.name, new_name)
        department.name = new_name
    if archived is not None:
        department.archived_at = (department.archived_at or time.time()) if archived else None
    return department


async def delete(session: AsyncSession, name: str) -> Department:
    """Remove it with its quotas. Raises `Conflict` while anyone belongs to it."""
    await bump(session)
    department = await find(session, name)
    emails = list(
        await session.scalars(
            select(USERS.c.email).where(USERS.c.department_id == department.id).order_by(USERS.c.email)
        )
    )
    if emails:
        raise Conflict(
            f"Department '{department.name}' still has {len(emails)} user(s): {', '.join(emails[:5])}"
            f"{', …' if len(emails) > 5 else ''}. Move them to another department first, or archive this one."
        )
    await session.execute(
        sql_delete(Quota).where(col(Quota.scope) == "department", col(Quota.subject) == department.name)
    )
    await session.delete(department)
    return department


async def rename_subject(session: AsyncSession, scope: Literal["department", "user"], old: str, new: str) -> None:
    """Let quotas follow a subject to its new name."""
    await session.execute(
        sql_update(Quota).where(col(Quota.scope) == scope, col(Quota.subject) == old).values(subject=new)
    )


def clean_name(name: str, what: str) -> str:
    """A name without space around it. Raises `Invalid` for an empty, long or unprintable one."""
    name = name.strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise Invalid(f"A {what} name has 1 to {MAX_NAME} printable characters.")
    return name


async def _refuse_taken(session: AsyncSession, name: str) -> None:
    if (await session.scalars(select(DEPARTMENTS.c.id).where(DEPARTMENTS.c.name == name))).first():
        raise Conflict(f"There is already a department '{name}'.")

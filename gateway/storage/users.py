"""Users: people and services, each in one department."""

from __future__ import annotations

import time
from typing import Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from gateway.storage import departments
from gateway.storage.errors import Conflict, Invalid, not_found
from gateway.storage.revisions import bump
from gateway.storage.statements import new_id
from gateway.storage.tables import USERS, User

Role = Literal["admin", "user"]
ROLES: tuple[Role, ...] = ("admin", "user")
MAX_EMAIL = 254


async def create(
    session: AsyncSession, email: str, department: str, *, display_name: str = "", role: Role = "user"
) -> User:
    """`department` is a name or id. Raises `Conflict`, `NotFound` or `Invalid`."""
    await bump(session)
    email = clean_email(email)
    _check_role(role)
    await _refuse_taken(session, email)
    home = await departments.find(session, department)
    if home.archived_at is not None:
        raise Conflict(f"Department '{home.name}' is archived and takes no new users.")
    user = User(
        id=new_id(),
        email=email,
        display_name=departments.clean_name(display_name or email.partition("@")[0], "display"),
        department_id=home.id,
        role=role,
        created_at=time.time(),
    )
    session.add(user)
    return user


async def every(session: AsyncSession, *, department: str | None = None) -> list[User]:
    """All of them by email, deactivated ones included, or those of one department."""
    statement = select(User).order_by(col(User.email))
    if department is not None:
        home = await departments.find(session, department)
        statement = statement.where(col(User.department_id) == home.id)
    return list(await session.scalars(statement))


async def find(session: AsyncSession, email: str) -> User:
    """By email, in any case, or id. Raises `NotFound` with the nearest email."""
    wanted = (col(User.email) == email.strip().lower()) | (col(User.id) == email)
    user = (await session.scalars(select(User).where(wanted))).first()
    if user is None:
        raise not_found("user", email, await session.scalars(select(USERS.c.email)))
    return user


async def update(
    session: AsyncSession,
    email: str,
    *,
    new_email: str | None = None,
    display_name: str | None = None,
    department: str | None = None,
    role: Role | None = None,
) -> User:
    """Change what is given. Quotas follow a new email; ledger rows keep the old one."""
    await bump(session)
    user = await find(session, email)
    if new_email is not None and clean_email(new_email) != user.email:
        new_email = clean_email(new_email)
        await _refuse_taken(session, new_email)
        await departments.rename_subject(session, "user", user.email, new_email)
        user.email = new_email
    if display_name is not None:
        user.display_name = departments.clean_name(display_name, "display")
    if department is not None:
        user.department_id = (await departments.find(session, department)).id
    if role is not None:
        _check_role(role)
        user.role = role
    return user


async def deactivate(session: AsyncSession, email: str) -> User:
    """Shut the user out; every key of theirs stops. A second time changes nothing."""
    await bump(session)
    user = await find(session, email)
    user.deactivated_at = user.deactivated_at or time.time()
    return user


async def reactivate(session: AsyncSession, email: str) -> User:
    """Let the user in again; keys that were not revoked work again."""
    await bump(session)
    user = await find(session, email)
    user.deactivated_at = None
    return user


def clean_email(email: str) -> str:
    """An email in lower case. Raises `Invalid` for what cannot be one."""
    email = email.strip().lower()
    local, at, domain = email.partition("@")
    plain = email.isprintable() and not any(c.isspace() for c in email) and "@" not in domain
    if not (local and at and domain and plain and len(email) <= MAX_EMAIL):
        raise Invalid("An email address looks like name@example.com.")
    return email


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise Invalid(f"There is no role '{role}'; choose from {', '.join(ROLES)}.")


async def _refuse_taken(session: AsyncSession, email: str) -> None:
    if (await session.scalars(select(USERS.c.id).where(USERS.c.email == email))).first():
        raise Conflict(f"There is already a user '{email}'.")

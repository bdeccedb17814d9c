"""API keys as the database has them: by public id and digest. The keys themselves are made in `gateway.identity`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from gateway.storage import departments, quotas, users
from gateway.storage.errors import Conflict, Invalid, not_found
from gateway.storage.revisions import bump
from gateway.storage.statements import new_id
from gateway.storage.tables import API_KEYS, DEPARTMENTS, USERS, ApiKey


class KeyMaterial(NamedTuple):
    """What is stored of a new key."""

    public_id: str
    digest: bytes
    pepper_version: str


class KeyHolder(NamedTuple):
    """A key with all that decides whether it opens the door. Times are unix seconds."""

    digest: bytes
    public_id: str
    user: str
    department: str
    models: list[str] | None
    expires_at: float | None
    revoked_at: float | None
    deactivated_at: float | None
    archived_at: float | None
    role: str = "user"


_HOLDER = (
    select(
        API_KEYS.c.digest,
        API_KEYS.c.public_id,
        USERS.c.email,
        DEPARTMENTS.c.name,
        API_KEYS.c.models,
        API_KEYS.c.expires_at,
        API_KEYS.c.revoked_at,
        USERS.c.deactivated_at,
        DEPARTMENTS.c.archived_at,
        USERS.c.role,
    )
    .join_from(API_KEYS, USERS, API_KEYS.c.user_id == USERS.c.id)
    .join(DEPARTMENTS, USERS.c.department_id == DEPARTMENTS.c.id)
)


async def create(
    session: AsyncSession,
    user: str,
    material: KeyMaterial,
    *,
    name: str = "",
    models: Sequence[str] | None = None,
    expires_at: float | None = None,
) -> ApiKey:
    """`user` is an email or id; `models` None allows every model. Raises `NotFound`, `Conflict` or `Invalid`."""
    await bump(session)
    now = time.time()
    owner = await users.find(session, user)
    if owner.deactivated_at is not None:
        raise Conflict(f"User '{owner.email}' is deactivated and gets no keys.")
    if expires_at is not None and expires_at <= now:
        raise Invalid("A key has to expire in the future.")
    if models is not None and not models:
        raise Invalid("A key for no model at all is of no use; leave the models out to allow every one.")
    taken = API_KEYS.c.public_id == material.public_id
    if await session.scalar(select(API_KEYS.c.id).where(taken)) is not None:
        raise Conflict(f"There is already a key '{material.public_id}'.")
    key = ApiKey(
        id=new_id(),
        public_id=material.public_id,
        user_id=owner.id,
        name=departments.clean_name(name, "key") if name else "",
        digest=material.digest,
        pepper_version=material.pepper_version,
        models=None if models is None else sorted(set(models)),
        created_at=now,
        expires_at=expires_at,
    )
    session.add(key)
    return key


async def every(session: AsyncSession, *, user: str | None = None) -> list[ApiKey]:
    """All of them, newest first, dead ones included, or those of one user."""
    statement = select(ApiKey).order_by(col(ApiKey.created_at).desc(), col(ApiKey.public_id))
    if user is not None:
        statement = statement.where(col(ApiKey.user_id) == (await users.find(session, user)).id)
    return list(await session.scalars(statement))


async def find(session: AsyncSession, public_id: str) -> ApiKey:
    """By public id or id. Raises `NotFound` with the nearest public id."""
    wanted = (col(ApiKey.public_id) == public_id) | (col(ApiKey.id) == public_id)
    key = (await session.scalars(select(ApiKey).where(wanted))).first()
    if key is None:
        raise not_found("API key", public_id, await session.scalars(select(API_KEYS.c.public_id)))
    return key


async def revoke(session: AsyncSession, public_id: str) -> ApiKey:
    """Stop it for good. A second time changes nothing."""
    await bump(session)
    key = await find(session, public_id)
    key.revoked_at = key.revoked_at or time.time()
    return key


async def rotate(session: AsyncSession, public_id: str, material: KeyMaterial, *, overlap_s: float = 0.0) -> ApiKey:
    """Replace a key by one with the same rights, end and quotas; the old one goes on for `overlap_s` seconds.

    Returns the new one. Raises `Conflict` for a key that is dead or has a successor.
    """
    await bump(session)
    old = await find(session, public_id)
    now = time.time()
    if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
        raise Conflict(f"Key '{old.public_id}' no longer works; create a new one instead.")
    if old.replaced_by is not None:
        raise Conflict(f"Key '{old.public_id}' has already been rotated; rotate its successor.")
    owner = await session.scalar(select(USERS.c.email).where(USERS.c.id == old.user_id))
    new = await create(session, str(owner), material, name=old.name, models=old.models, expires_at=old.expires_at)
    await session.flush()  # the successor has to exist before the old key can point to it
    old.replaced_by = new.id
    if overlap_s > 0:
        old.expires_at = min(now + overlap_s, old.expires_at or now + overlap_s)
    else:
        old.revoked_at = now
    await quotas.copy_subject(session, "key", old.public_id, new.public_id)
    return new


async def holder(session: AsyncSession, digest: bytes) -> KeyHolder | None:
    """The key with this digest, dead or alive, and who holds it."""
    row = (await session.execute(_HOLDER.where(API_KEYS.c.digest == digest))).first()
    return None if row is None else KeyHolder._make(row)


async def holders(session: AsyncSession, digests: Sequence[bytes]) -> list[KeyHolder]:
    """Those of at most 500 digests that are known."""
    rows = await session.execute(_HOLDER.where(API_KEYS.c.digest.in_(digests)))
    return [KeyHolder._make(row) for row in rows]


async def holder_of(session: AsyncSession, public_id: str) -> KeyHolder | None:
    """The key with this public id, dead or alive, and who holds it."""
    row = (await session.execute(_HOLDER.where(API_KEYS.c.public_id == public_id))).first()
    return None if row is None else KeyHolder._make(row)


async def holders_by_user(session: AsyncSession, email: str) -> list[KeyHolder]:
    """Every key of a user, dead or alive, newest first."""
    order = (API_KEYS.c.created_at.desc(), API_KEYS.c.public_id)
    rows = await session.execute(_HOLDER.where(USERS.c.email == email).order_by(*order))
    return [KeyHolder._make(row) for row in rows]

"""Callers by name rather than by credential, for questions about them."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from gateway.core.errors import GatewayError, invalid_api_key
from gateway.core.principal import Principal
from gateway.identity.holders import admit
from gateway.storage import api_keys, departments, users
from gateway.storage.api_keys import KeyHolder
from gateway.storage.errors import NotFound


class Asked(NamedTuple):
    """Whom a question is about. `refused` is why the key opens nothing; `note` says what was assumed."""

    principal: Principal
    refused: GatewayError | None = None
    note: str = ""


async def by_key(session: AsyncSession, public_id: str, user: str | None, now: float) -> Asked:
    """The caller with a key, by its public id; where `user` is given it has to be theirs. Raises `NotFound`."""
    holder = await api_keys.holder_of(session, public_id)
    if holder is None or (user is not None and holder.user != user):
        raise NotFound(f"There is no API key '{public_id}'" + (f" of user '{user}'." if user else "."))
    return _asked(holder, now)


async def by_user(session: AsyncSession, email: str, now: float) -> Asked:
    """A user with the only key there is, or as such: where there are several, none of their limits is taken into
    account. Raises `NotFound`."""
    user = await users.find(session, email)
    living = [
        asked
        for holder in await api_keys.holders_by_user(session, user.email)
        if (asked := _asked(holder, now)).refused is None
    ]
    if len(living) == 1:
        only = living[0]
        return only._replace(note=f"Asked for the only key that works, {only.principal.key_id}.")
    department = await departments.find(session, user.department_id)
    principal = Principal("", user.email, department.name, role=user.role)
    if user.deactivated_at is not None or department.archived_at is not None:
        why = "The user was deactivated" if user.deactivated_at is not None else "The department was archived"
        return Asked(principal, invalid_api_key(f"{why}, so none of the user's keys opens anything."))
    if not living:
        return Asked(principal, note="The user has no key that works; asked for the user as such.")
    note = f"The user has {len(living)} keys; asked for the user as such, without the limits and model list of a key."
    return Asked(principal, note=note)


def _asked(holder: KeyHolder, now: float) -> Asked:
    admitted = admit(holder, holder.public_id, now)
    if isinstance(admitted, GatewayError):
        return Asked(Principal(holder.public_id, holder.user, holder.department, role=holder.role), admitted)
    return Asked(admitted)

"""Handing out API keys. The one moment at which a key is known to the gateway in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from gateway.core.secret import Secret
from gateway.identity.keys import digest, new_key, parse
from gateway.identity.pepper import Pepper, confirm
from gateway.storage import api_keys
from gateway.storage.errors import Invalid
from gateway.storage.tables import ApiKey


class IssuedKey(NamedTuple):
    """A new key. `text` is to be shown once; nothing can bring it back."""

    text: Secret
    row: ApiKey


async def issue(
    session: AsyncSession,
    pepper: Pepper,
    user: str,
    *,
    name: str = "",
    models: Sequence[str] | None = None,
    expires_at: float | None = None,
    text: Secret | None = None,
) -> IssuedKey:
    """A key for a user, by email or id. Raises what `api_keys.create` does, or `PepperRefused`.

    `text` is a key that the operator made beforehand, by `new_key` on any machine; `Invalid` where it is not one.
    """
    text, material = await _material(session, pepper, text or new_key().text)
    row = await api_keys.create(session, user, material, name=name, models=models, expires_at=expires_at)
    return IssuedKey(text, row)


async def rotate(session: AsyncSession, pepper: Pepper, public_id: str, *, overlap_s: float = 0.0) -> IssuedKey:
    """A successor for a key, which goes on for `overlap_s` seconds. Raises what `api_keys.rotate` does, or
    `PepperRefused`."""
    text, material = await _material(session, pepper, new_key().text)
    return IssuedKey(text, await api_keys.rotate(session, public_id, material, overlap_s=overlap_s))


async def _material(session: AsyncSession, pepper: Pepper, text: Secret) -> tuple[Secret, api_keys.KeyMaterial]:
    await confirm(session, pepper)
    credential = text.reveal().encode()
    public_id = parse(credential)
    if public_id is None:
        raise Invalid(
            "This is not a key that AI Dock could have made: its shape or its checksum is wrong. "
            "'aidock keys create' makes one."
        )
    return text, api_keys.KeyMaterial(public_id, digest(pepper, credential), pepper.version)

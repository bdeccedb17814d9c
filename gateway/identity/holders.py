"""From a stored key to a caller, or to why it opens nothing."""

from __future__ import annotations

from datetime import UTC, datetime

from gateway.core.errors import GatewayError, invalid_api_key
from gateway.core.principal import Principal
from gateway.identity.keys import masked
from gateway.storage.api_keys import KeyHolder

NEXT = "Check that the whole key was copied, or ask your administrator for a new one."


def admit(holder: KeyHolder | None, public_id: str, now: float) -> Principal | GatewayError:
    """The caller behind a key, or the 401 for one that is unknown or dead."""
    reason = _reason(holder, now)
    if holder is None or reason is not None:
        return invalid_api_key(f"The API key {masked(public_id)} {reason}. {NEXT}")
    models = None if holder.models is None else frozenset(holder.models)
    return Principal(holder.public_id, holder.user, holder.department, models, holder.expires_at, holder.role)


def _reason(holder: KeyHolder | None, now: float) -> str | None:
    """Why a key opens nothing, None when it does."""
    if holder is None:
        return "is not known"
    if holder.revoked_at is not None:
        return f"was revoked on {_date(holder.revoked_at)}"
    if holder.expires_at is not None and holder.expires_at <= now:
        return f"expired on {_date(holder.expires_at)}"
    if holder.deactivated_at is not None:
        return "belongs to a user who was deactivated"
    if holder.archived_at is not None:
        return "belongs to a department that was archived"
    return None


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")

"""A policy: calls are made in office hours only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from gateway.core.call import Call
from gateway.core.errors import GatewayError, internal_error
from gateway.core.limits import Claim, Level
from gateway.core.ports import OnStoreError


class OfficeHours:
    """Refuses calls before `first` and from `last` o'clock on, UTC."""

    name = "office_hours"
    on_store_error: OnStoreError = "deny"

    def __init__(self, first: int, last: int) -> None:
        self._first = first
        self._last = last

    def check(self, call: Call) -> None:
        hour = datetime.fromtimestamp(call.created_at, UTC).hour
        if not self._first <= hour < self._last:
            message = f"Models answer from {self._first} to {self._last} o'clock UTC. Come back then."
            raise GatewayError(403, "outside_office_hours", message, headers={"x-should-retry": "false"})

    def claims(self, call: Call) -> Sequence[Claim]:
        return ()

    def denied(self, call: Call, level: Level) -> GatewayError:
        return internal_error(call.request_id)  # claims nothing, so nothing of it can be denied


def create(settings: Mapping[str, object]) -> OfficeHours:
    """Settings: `first` (8) and `last` (18), hours from 0 to 24. Raises `ValueError` for others."""
    hours = {"first": 8, "last": 18, **settings}
    if set(hours) != {"first", "last"}:
        raise ValueError("office_hours has the settings first and last, and no others")
    first, last = hours["first"], hours["last"]
    if not isinstance(first, int) or not isinstance(last, int) or not 0 <= first <= last <= 24:
        raise ValueError("office_hours.first and office_hours.last must be hours from 0 to 24, in this order")
    return OfficeHours(first, last)

"""Anthropic's errors: `{"type": "error", "error": {"type", "message", "details"}}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gateway.core.body import DecodeError, decode
from gateway.core.errors import GatewayError
from providers._errors import answered_error, reported_error

if TYPE_CHECKING:
    from gateway.core.deployment import Target
    from gateway.core.headers import Headers

OVERLOADED = 529
"""Anthropic's own status for more calls than it can take."""

_SPENT = re.compile(r"spend_limit|spend limit|specified (?:\w+ )?API usage limits", re.IGNORECASE)


def anthropic_error(status: int, headers: Headers, body: bytes, target: Target) -> GatewayError:
    """An error status with its body."""
    try:
        document = decode(body)
    except DecodeError:
        document = None
    return _sharpened(answered_error(status, headers, body, target), status, document)


def told_error(document: object, target: Target) -> GatewayError:
    """An error inside an answer whose status was 200."""
    return _sharpened(reported_error(document, target), 200, document)


def is_error(document: object) -> bool:
    return isinstance(document, Mapping) and (document.get("type") == "error" or bool(document.get("error")))


def _sharpened(error: GatewayError, status: int, document: object) -> GatewayError:
    """What only Anthropic says: that it is overloaded, which is worth another try; that the account's money for the
    month is spent, which is not."""
    told = document.get("error") if isinstance(document, Mapping) else None
    members: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
    if status == OVERLOADED or members.get("type") == "overloaded_error":
        return GatewayError(
            503,
            "overloaded",
            "The provider has more calls than it can take. Try again shortly.",
            type="server_error",
            headers=error.headers,
        )
    if _is_spent(error, members):
        return GatewayError(
            429,
            "insufficient_quota",
            error.message,
            type="insufficient_quota",
            headers={**error.headers, "x-should-retry": "false"},
        )
    return error


def _is_spent(error: GatewayError, members: Mapping[str, Any]) -> bool:
    details = members.get("details")
    code = details.get("error_code") if isinstance(details, Mapping) else None
    if error.status == 429:
        return isinstance(code, str) and _SPENT.search(code) is not None
    return error.status == 400 and _SPENT.search(error.message) is not None

"""Errors as Google's APIs describe them: a `google.rpc.Status`, sometimes in a list of one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gateway.core.body import DecodeError, decode
from gateway.core.headers import first
from providers._errors import LONGEST_WAIT_S, MESSAGE_LIMIT, answered_error, reported_error

if TYPE_CHECKING:
    from gateway.core.deployment import Target
    from gateway.core.errors import GatewayError
    from gateway.core.headers import Headers

_DELAY = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
_OUR_KEY = frozenset({"API_KEY_INVALID", "API_KEY_EXPIRED", "API_KEY_SERVICE_BLOCKED", "ACCESS_TOKEN_EXPIRED"})
"""Reasons by which Google says 400 of a key that is not the caller's."""

_NAMED = re.compile(r"\b(?:access the File|CachedContent|cached content)\b", re.IGNORECASE)
"""What a 403 is about that the caller named, and that may have expired, or be another's."""


def google_error(status: int, headers: Headers, body: bytes, target: Target) -> GatewayError:
    """An error status with its body."""
    try:
        told = _error(decode(body))
    except DecodeError:
        told = None
    if told is None:
        return answered_error(status, headers, body, target)
    wait = _retry_after(told)
    if wait is not None and first(headers, b"retry-after") is None:
        headers = [*headers, (b"retry-after", wait)]
    if _blames_us(told):
        status = 401
    elif status == 403 and _NAMED.search(str(told.get("message", ""))[:MESSAGE_LIMIT]):
        status = 404
    return answered_error(status, headers, body, target)


def is_error(document: object) -> bool:
    """Whether what came in place of an answer is an error."""
    return _error(document) is not None


def error_of(document: object, target: Target) -> GatewayError:
    """An error inside an answer whose status was 200."""
    told = _error(document) or {}
    if _blames_us(told):
        told = {**told, "code": 401}
    error = reported_error({"error": told}, target)
    wait = _retry_after(told)
    if wait is not None:
        error.headers = {**error.headers, "retry-after": wait.decode()}
    return error


def _error(document: object) -> Mapping[str, Any] | None:
    if isinstance(document, list) and document:
        document = document[0]
    error = document.get("error") if isinstance(document, Mapping) else None
    return error if isinstance(error, Mapping) else None


def _details(told: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    details = told.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping) and str(detail.get("@type", "")).endswith(kind):
            yield detail


def _blames_us(told: Mapping[str, Any]) -> bool:
    return any(detail.get("reason") in _OUR_KEY for detail in _details(told, "google.rpc.ErrorInfo"))


def _retry_after(told: Mapping[str, Any]) -> bytes | None:
    """Whole seconds to wait, rounded up."""
    for detail in _details(told, "google.rpc.RetryInfo"):
        delay = detail.get("retryDelay")
        found = _DELAY.fullmatch(delay) if isinstance(delay, str) else None
        if found and float(found[1]) <= LONGEST_WAIT_S:
            return b"%d" % math.ceil(float(found[1]))
    return None

"""Finds the API key in a request. The one place that does."""

from __future__ import annotations

from gateway.core.errors import invalid_api_key, invalid_request
from gateway.core.headers import Headers

_NAMES = frozenset({b"authorization", b"x-api-key", b"api-key"})
_LONGEST = 512


def presented(headers: Headers) -> bytes:
    """The key as the client sent it. Raises 401 where there is none, 400 where there are two different ones."""
    found: bytes | None = None
    for name, value in headers:
        if name not in _NAMES:
            continue
        key = _bearer(value) if name == b"authorization" else value.strip()
        if found is not None and key != found:
            raise invalid_request("The request carries two different API keys. Send one.")
        found = key
    if not found:
        raise invalid_api_key("No API key. Send 'Authorization: Bearer sk-aidock-…'; an administrator can issue one.")
    return found


def _bearer(value: bytes) -> bytes:
    scheme, _, key = value.partition(b" ")
    if scheme.lower() != b"bearer" or not key or len(key) > _LONGEST:
        raise invalid_api_key("The Authorization header must read 'Bearer sk-aidock-…'.")
    return key.strip()

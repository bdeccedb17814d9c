"""What an exchange with the demo model comes back with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gateway.core.dialect import OPENAI
from gateway.core.errors import GatewayError
from gateway.core.headers import Headers

Parts = Iterator[bytes | None]
"""A reply's body. An empty part is a breath, so that a long reply does not keep others waiting; None never comes."""

_REFUSALS = {
    400: ("invalid_request_error", "invalid_request"),
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "permission_denied"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}


class Reply(NamedTuple):
    """What comes back: after `wait` seconds the status and headers, then the parts; `kind` is their content type where
    it is neither events nor JSON."""

    parts: Parts
    streamed: bool = False
    status: int = 200
    headers: Headers = []  # noqa: RUF012  a NamedTuple default, never changed in place
    wait: float = 0.0
    kind: bytes | None = None

    @property
    def content_type(self) -> bytes:
        return self.kind or (b"text/event-stream" if self.streamed else b"application/json")


def refusal(status: int, wait: float) -> Reply:
    """An error that was ordered."""
    kind, code = _REFUSALS.get(status, ("server_error" if status >= 500 else "invalid_request_error", "demo_error"))
    error = GatewayError(status, code, f"The demo model was asked to answer with status {status}.", type=kind)
    headers: Headers = [(b"retry-after", b"1")] if status in (429, 503) else []
    return Reply(iter((OPENAI.error_body(error, ""),)), status=status, headers=headers, wait=wait)

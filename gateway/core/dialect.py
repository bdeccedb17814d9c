"""How a caller's dialect says that something went wrong."""

from __future__ import annotations

from typing import Protocol

from gateway.core.body import encode
from gateway.core.errors import GatewayError


class Dialect(Protocol):
    """The shape of errors on one family of endpoints."""

    name: str

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        """The reply's JSON body."""

    def error_event(self, error: GatewayError, request_id: str) -> bytes:
        """The SSE event that tells of a failure after the stream began."""


class OpenAI:
    """`{"error": {message, type, param, code}}`, all four always there."""

    name = "openai"

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        return encode(
            {
                "error": {
                    "message": error.message,
                    "type": error.type,
                    "param": error.param,
                    "code": error.code,
                }
            }
        )

    def error_event(self, error: GatewayError, request_id: str) -> bytes:
        return b"data: " + self.error_body(error, request_id) + b"\n\n"


OPENAI = OpenAI()

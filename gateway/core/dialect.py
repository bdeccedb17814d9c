"""How a caller's dialect says that something went wrong."""

from __future__ import annotations

from typing import Protocol

from gateway.core.body import encode
from gateway.core.errors import GatewayError


class Dialect(Protocol):
    """The shape of errors on one family of endpoints."""

    name: str
    id_headers: tuple[bytes, ...]
    """The headers of every answer that carry the request's id."""

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        """The reply's JSON body."""

    def error_event(self, error: GatewayError, request_id: str) -> bytes:
        """The SSE event that tells of a failure after the stream began."""


class OpenAI:
    """`{"error": {message, type, param, code}}`, all four always there."""

    name = "openai"
    id_headers: tuple[bytes, ...] = (b"x-request-id",)

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


class Anthropic:
    """`{"type": "error", "error": {type, message}, "request_id"}`; the type follows the status."""

    name = "anthropic"
    id_headers: tuple[bytes, ...] = (b"x-request-id", b"request-id")

    def error_body(self, error: GatewayError, request_id: str) -> bytes:
        told = {"type": _ANTHROPIC_TYPES.get(error.status, "api_error"), "message": error.message}
        return encode({"type": "error", "error": told, "request_id": request_id})

    def error_event(self, error: GatewayError, request_id: str) -> bytes:
        return b"event: error\ndata: " + self.error_body(error, request_id) + b"\n\n"


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "invalid_request_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}

ANTHROPIC = Anthropic()

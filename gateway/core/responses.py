"""How the Responses API tells of a response that failed: what passes such answers and what translates into them say it
alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core import sse
from gateway.core.body import encode
from gateway.core.errors import GatewayError

_KNOWN_CODES = frozenset({"rate_limit_exceeded", "insufficient_quota", "context_length_exceeded", "invalid_prompt"})
"""Codes that clients act on, and that OpenAI sends whether its list has them or not; any other failure is told as
`server_error`."""


def bare_response(identity: str, model: str, created_at: int) -> dict[str, Any]:
    """A response of which nothing more is known, with every member that clients insist on."""
    return {
        "id": identity,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
    }


def error_object(error: GatewayError) -> dict[str, str]:
    """What a response says of its failure."""
    return {"code": error.code if error.code in _KNOWN_CODES else "server_error", "message": error.message}


def failed_event(response: Mapping[str, Any], error: GatewayError, sequence_number: int) -> bytes:
    """The event that ends a stream whose response failed."""
    failed = {**response, "status": "failed", "error": error_object(error)}
    name = "response.failed"
    return sse.event(
        encode({"type": name, "sequence_number": sequence_number, "response": failed}), name.encode("ascii")
    )

"""Google's errors as callers see them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.errors import GatewayError
from gateway.core.headers import Headers
from providers.gemini import PROVIDER
from tests.providers.gemini import studio


def told(status: int, error: Any, headers: Headers | None = None) -> GatewayError:
    body = error if isinstance(error, bytes) else json.dumps(error).encode()
    return PROVIDER.error(status, headers or [], body, studio())


def rpc(code: int, message: str, status: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.07s"}


def info(reason: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}


@pytest.mark.parametrize(
    ("status", "error", "means", "code"),
    [
        (400, rpc(400, "Invalid value at 'x'.", "INVALID_ARGUMENT"), 400, "invalid_request"),
        (400, rpc(400, "Not now.", "FAILED_PRECONDITION"), 400, "invalid_request"),
        (401, rpc(401, "No.", "UNAUTHENTICATED"), 502, "upstream_error"),
        (403, rpc(403, "No.", "PERMISSION_DENIED"), 502, "upstream_error"),
        (404, rpc(404, "models/x is not found for API version v1beta.", "NOT_FOUND"), 404, "model_not_found"),
        (429, rpc(429, "Quota exceeded.", "RESOURCE_EXHAUSTED"), 429, "rate_limit_exceeded"),
        (500, rpc(500, "Oops.", "INTERNAL"), 502, "upstream_error"),
        (503, rpc(503, "Overloaded.", "UNAVAILABLE"), 502, "upstream_error"),
        (504, rpc(504, "Late.", "DEADLINE_EXCEEDED"), 504, "upstream_timeout"),
        (502, b"<html>Bad gateway</html>", 502, "upstream_error"),
        (400, b"", 502, "upstream_error"),
        (400, b"[]", 502, "upstream_error"),
        (400, b'{"error":{"details":3}}', 400, "invalid_request"),
        (400, b'{"error":{"details":[3,{"@type":3,"reason":[]}]}}', 400, "invalid_request"),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_every_status_has_its_like(listed: bool, status: int, error: Any, means: int, code: str) -> None:
    body = [error] if listed and isinstance(error, dict) else error
    found = told(status, body)
    assert (found.status, found.code) == (means, code)


def test_a_prompt_that_is_too_long_says_so() -> None:
    said = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
    found = told(400, rpc(400, said, "INVALID_ARGUMENT"))
    assert (found.status, found.code, found.message) == (400, "context_length_exceeded", said)


def test_the_wait_that_google_wants_is_told_in_whole_seconds() -> None:
    assert told(429, rpc(429, "Slow.", "RESOURCE_EXHAUSTED", RETRY)).headers["retry-after"] == "35"
    assert told(429, [rpc(429, "Slow.", "RESOURCE_EXHAUSTED", RETRY)]).headers["retry-after"] == "35"
    own = told(429, rpc(429, "Slow.", "RESOURCE_EXHAUSTED", RETRY), [(b"retry-after", b"3")])
    assert own.headers["retry-after"] == "3"


@pytest.mark.parametrize("delay", ["soon", "", "-3s", "999999999s", 3, None])
def test_a_wait_that_makes_no_sense_is_not_told(delay: Any) -> None:
    assert "retry-after" not in told(429, rpc(429, "x", "y", {**RETRY, "retryDelay": delay})).headers


def test_a_key_that_google_refuses_is_the_gateways_own_affair() -> None:
    said = "API key not valid. Please pass a valid API key."
    found = told(400, rpc(400, said, "INVALID_ARGUMENT", info("API_KEY_INVALID")))
    assert (found.status, found.code) == (502, "upstream_error")
    assert "credential" in found.message


def test_a_file_that_has_expired_is_the_callers_affair() -> None:
    said = "You do not have permission to access the File xyz or it may not exist."
    assert told(403, rpc(403, said, "PERMISSION_DENIED")).status == 404
    assert told(403, rpc(403, "Vertex AI API has not been used.", "PERMISSION_DENIED")).status == 502


def test_neither_key_nor_address_is_shown() -> None:
    said = "Key g-key-0123456789 at https://generativelanguage.googleapis.com/v1beta/models is wrong."
    found = told(400, rpc(400, said, "INVALID_ARGUMENT"))
    assert "g-key" not in found.message
    assert "generativelanguage" not in found.message

"""Claude's whole answers as chat completions, and its errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.errors import GatewayError
from gateway.core.usage import Usage
from providers.anthropic import PROVIDER
from tests.providers.calls import KEY, a_call, a_target

TARGET = a_target(dialect="anthropic", base_url="https://llm.corp.example", upstream_model="claude-sonnet-4-6")


def answered(*content: Any, reason: str | None = "end_turn", **members: Any) -> Any:
    document = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": list(content),
        "stop_reason": reason,
        "usage": {"input_tokens": 5, "output_tokens": 8},
        **members,
    }
    return PROVIDER.answer(a_call({"messages": []}), TARGET, json.dumps(document).encode())


def choice(*content: Any, **members: Any) -> Any:
    return json.loads(answered(*content, **members).body)["choices"][0]


def failed(status: int, document: Any, **headers: str) -> GatewayError:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return PROVIDER.error(status, pairs, body, TARGET)


def an_error(kind: str, message: str, **more: Any) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message, **more}, "request_id": "req_011"}


def test_a_whole_answer() -> None:
    told = answered({"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"})
    assert told.usage == Usage(5, 8)
    assert told.produced() == 2
    assert json.loads(told.body) == {
        "id": "chatcmpl-req_1",
        "object": "chat.completion",
        "created": 0,
        "model": "claude-sonnet-4-6",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13},
    }


def test_calls_thoughts_and_citations() -> None:
    cited = {"type": "search_result_location", "source": "https://b.example", "title": None, "cited_text": "x"}
    found = choice(
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "text", "text": "So: "},
        {"type": "text", "text": "rain", "citations": [cited, 7]},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Ulm"}},
        {"type": "tool_use", "id": "toolu_2", "name": "time", "input": {}},
        reason="tool_use",
    )
    assert found["finish_reason"] == "tool_calls"
    assert found["message"] == {
        "role": "assistant",
        "content": "So: rain",
        "refusal": None,
        "reasoning_content": "Hm.",
        "thinking_blocks": [
            {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "xyz"},
        ],
        "tool_calls": [
            {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}},
            {"id": "toolu_2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
        ],
        "annotations": [
            {
                "type": "url_citation",
                "url_citation": {"start_index": 4, "end_index": 8, "url": "https://b.example", "title": ""},
            }
        ],
    }


def test_an_answer_by_the_format_tool_is_text() -> None:
    found = choice({"type": "tool_use", "id": "t", "name": "aidock_answer", "input": {"age": 3}}, reason="tool_use")
    assert (found["message"]["content"], found["finish_reason"]) == ('{"age":3}', "stop")


def test_the_usage_counts_what_the_cache_gave_and_took() -> None:
    usage = {
        "input_tokens": 5,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": 2,
        "output_tokens": 8,
        "output_tokens_details": {"thinking_tokens": 6},
    }
    assert answered(usage=usage).usage == Usage(10, 8, 3, 6)
    assert answered(usage={"input_tokens": 5}).usage is None
    assert answered(usage=None).usage is None
    nonsense = {"input_tokens": "5", "output_tokens": True, "cache_read_input_tokens": -1}
    assert answered(usage=nonsense).usage is None


def test_a_refusal() -> None:
    found = choice(reason="refusal", stop_details={"type": "refusal", "explanation": "Not this."})
    assert (found["finish_reason"], found["message"]["refusal"]) == ("content_filter", "Not this.")
    assert choice({"type": "text", "text": "Hi"}, reason="refusal")["message"]["refusal"] is None
    assert (
        choice({"type": "tool_use", "id": "a", "name": "f", "input": {}}, reason=None)["finish_reason"] == "tool_calls"
    )


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b"null", b'{"content":"Hi"}', b"\xff"])
def test_what_is_no_answer_is_an_error(body: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        PROVIDER.answer(a_call({"messages": []}), TARGET, body)
    assert caught.value.status == 502


def test_an_answer_with_nonsense_in_it_is_read_around() -> None:
    assert choice(7, {"type": "text"}, {"type": "tool_use"}, {"text": "x"})["message"]["content"] == ""


def test_an_error_with_a_good_status_is_an_error() -> None:
    body = json.dumps(an_error("rate_limit_error", "Slow down")).encode()
    with pytest.raises(GatewayError) as caught:
        PROVIDER.answer(a_call({"messages": []}), TARGET, body)
    assert (caught.value.status, caught.value.message) == (429, "Slow down")


@pytest.mark.parametrize(
    ("status", "kind", "message", "ours", "code"),
    [
        (400, "invalid_request_error", "max_tokens: too large", 400, "invalid_request"),
        (400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum", 400, "context_length_exceeded"),
        (401, "authentication_error", "invalid x-api-key", 502, "upstream_error"),
        (402, "billing_error", "no credit", 502, "upstream_error"),
        (403, "permission_error", "not yours", 502, "upstream_error"),
        (404, "not_found_error", "model: claude-y", 404, "model_not_found"),
        (413, "request_too_large", "Request exceeds the maximum size", 413, "request_too_large"),
        (429, "rate_limit_error", "Slow down", 429, "rate_limit_exceeded"),
        (408, "timeout_error", "took too long", 504, "upstream_timeout"),
        (504, "timeout_error", "took too long", 504, "upstream_timeout"),
        (500, "api_error", "Internal server error", 502, "upstream_error"),
        (529, "overloaded_error", "Overloaded", 503, "overloaded"),
        (400, "invalid_request_error", "You have reached your specified API usage limits.", 429, "insufficient_quota"),
    ],
)
def test_every_kind_of_error_has_its_like(status: int, kind: str, message: str, ours: int, code: str) -> None:
    error = failed(status, an_error(kind, message))
    assert (error.status, error.code) == (ours, code)


def test_a_spend_limit_does_not_get_better_by_waiting() -> None:
    spent = failed(429, an_error("rate_limit_error", "Limit", details={"error_code": "enforced_spend_limit_reached"}))
    assert (spent.code, spent.headers["x-should-retry"]) == ("insufficient_quota", "false")
    full = failed(429, an_error("rate_limit_error", "Limit", details={"error_code": "rpm"}), retry_after="7")
    assert (full.code, full.headers) == ("rate_limit_exceeded", {"retry-after": "7"})


def test_an_overloaded_provider_says_when_to_come_back() -> None:
    assert failed(529, b"<html>", retry_after="3").headers == {"retry-after": "3"}


def test_no_secret_is_told() -> None:
    error = failed(400, an_error("invalid_request_error", f"key {KEY} at https://llm.corp.example/v1/messages"))
    assert KEY not in error.message
    assert "corp.example" not in error.message


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"error":7}', b'{"error":{"details":[]}}', b'{"type":"error"}', b"\xff"]
)
def test_absurd_errors_are_errors(body: bytes) -> None:
    for status in (400, 429, 500, 529, 600):
        assert failed(status, body).status >= 400

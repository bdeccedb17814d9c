"""Whole answers and errors of an upstream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.errors import GatewayError
from gateway.core.usage import Usage
from providers._usage import read_usage
from providers.openai import PROVIDER
from tests.providers.calls import EMBEDDINGS, KEY, a_call, a_target

CALL = a_call({"model": "gpt-x", "messages": []})


def error(status: int, body: bytes | dict[str, Any] | list[Any], headers: Any = ()) -> GatewayError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return PROVIDER.error(status, list(headers), raw, a_target())


def test_an_answer_passes_byte_for_byte_and_its_usage_is_read() -> None:
    body = b'{ "model":"other", "choices":[{"message":{}}],\n"usage":{"prompt_tokens":5,"completion_tokens":0}}'
    answer = PROVIDER.answer(CALL, a_target(), body)
    assert (answer.body, answer.usage) == (body, Usage(5, 0))


def test_an_answer_without_usage_is_estimated_by_its_text() -> None:
    message = {"content": "é" * 10, "reasoning_content": "x" * 20, "tool_calls": [{"function": {"arguments": "{}"}}]}
    body = json.dumps({"choices": [{"message": message}, {"text": "abc"}, None], "usage": None}).encode()
    answer = PROVIDER.answer(CALL, a_target(), body)
    assert (answer.usage, answer.produced()) == (None, 12)


def test_content_in_parts_is_counted_too() -> None:
    content = [{"type": "thinking", "thinking": [{"type": "text", "text": "abcd"}]}, {"type": "text", "text": "efgh"}]
    body = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
    assert PROVIDER.answer(CALL, a_target(), body).produced() == 2


def test_embeddings_use_only_their_prompt() -> None:
    body = b'{"object":"list","data":[],"usage":{"prompt_tokens":8,"total_tokens":8}}'
    answer = PROVIDER.answer(a_call({"model": "gpt-x", "input": "x"}, endpoint=EMBEDDINGS), a_target(), body)
    assert (answer.usage, answer.produced()) == (Usage(8, 0), 0)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"<html>oops</html>", 502),
        (b"", 502),
        (b"[1]", 502),
        (b'{"choices":[{"mess', 502),
        (b"[" * 100_000, 502),
        (b'{"error":{"message":"rate","type":"rate_limit_error"}}', 429),
        (b'{"error":"broken"}', 502),
        (b'{"object":"error","message":"m","code":400}', 400),
    ],
)
def test_an_error_under_status_200_is_an_error(body: bytes, status: int) -> None:
    with pytest.raises(GatewayError) as caught:
        PROVIDER.answer(CALL, a_target(), body)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("report", "usage"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 2, "cached_tokens": 3}, Usage(5, 2, 3)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "cache_read_input_tokens": 3}, Usage(5, 2, 3)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(5, 2)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": -1}}, Usage(5, 2)),
        ({"prompt_tokens": 5.0, "completion_tokens": 2}, Usage(5, 2)),
        ({"prompt_tokens": 5, "total_tokens": 9}, Usage(5, 4)),
        ({"prompt_tokens": 5, "total_tokens": 3}, None),
        ({"completion_tokens": 2}, None),
        ({"prompt_tokens": 2**31 - 1, "completion_tokens": 2**31 - 1}, Usage(2**31 - 1, 2**31 - 1)),
        ({"prompt_tokens": 2**31, "completion_tokens": 2}, None),
        ({"prompt_tokens": 5, "completion_tokens": 2**50 - 1}, None),
        ({"prompt_tokens": 5, "completion_tokens": 2**50 - 1, "total_tokens": 9}, Usage(5, 4)),
        ({"prompt_tokens": -1, "completion_tokens": 2}, None),
        ({"prompt_tokens": 5, "completion_tokens": 2.5}, None),
        ({"prompt_tokens": 5, "completion_tokens": 2, "cached_tokens": 2**31}, Usage(5, 2)),
        (None, None),
        ([], None),
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 2,
                "total_tokens": 17,
                "completion_tokens_details": {"reasoning_tokens": 10},
            },
            Usage(5, 12, None, 10),
        ),
    ],
)
def test_usage_is_read_where_vendors_put_it(report: Any, usage: Usage | None) -> None:
    assert read_usage(report) == usage


def openai(message: str, kind: str | None = "invalid_request_error", code: Any = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code, **more}}


ERRORS: dict[str, tuple[int, Any, int, str]] = {
    "OpenAI 400": (400, openai("bad", code="unsupported_parameter"), 400, "unsupported_parameter"),
    "OpenAI 404": (404, openai("The model `x` does not exist", code="model_not_found"), 404, "model_not_found"),
    "404 without code": (404, openai("Model x not found"), 404, "model_not_found"),
    "409": (409, openai("busy"), 409, "conflict"),
    "413 from a proxy": (413, b"<html><h1>Request Entity Too Large</h1></html>", 413, "request_too_large"),
    "FastAPI 422": (
        422,
        {"detail": [{"loc": ["body", "n"], "msg": "extra fields not permitted", "type": "extra_forbidden"}]},
        422,
        "invalid_request",
    ),
    "429": (429, openai("slow", "requests", "rate_limit_exceeded"), 429, "rate_limit_exceeded"),
    "429 in HTML": (429, b"<html>nope</html>", 429, "rate_limit_exceeded"),
    "quota": (429, openai("spent", "insufficient_quota"), 429, "insufficient_quota"),
    "status as code": (400, openai("bad", code="400"), 400, "invalid_request"),
    "number as code": (400, openai("bad", code=400), 400, "invalid_request"),
    "None in words": (400, openai("bad", code="None"), 400, "invalid_request"),
    "401": (401, openai("Incorrect API key provided: " + KEY, code="invalid_api_key"), 502, "upstream_error"),
    "402": (402, openai("pay"), 502, "upstream_error"),
    "403": (403, b"", 502, "upstream_error"),
    "405": (405, {"detail": "Method Not Allowed"}, 502, "upstream_error"),
    "408": (408, b"", 504, "upstream_timeout"),
    "500": (500, openai("broken", "server_error"), 502, "upstream_error"),
    "503 in text": (503, b"upstream connect error", 502, "upstream_error"),
    "504": (504, b"<html>", 504, "upstream_timeout"),
    "529": (529, openai("overloaded"), 502, "upstream_error"),
    "redirect": (302, b"", 502, "upstream_error"),
    "404 that is no API's": (404, b"<html>nginx</html>", 502, "upstream_error"),
    "400 without a body": (400, b"", 502, "upstream_error"),
    "nested too deeply": (400, b"[" * 100_000, 502, "upstream_error"),
    "Azure deployment": (404, {"error": {"code": "DeploymentNotFound", "message": "no"}}, 404, "model_not_found"),
    "Azure filter": (
        400,
        {"error": {"message": "m", "code": None, "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
        400,
        "content_filter",
    ),
    "Azure filter in words": (400, openai("...triggering Azure's content management policy."), 400, "content_filter"),
    "Mistral": (400, {"object": "error", "message": "bad", "type": "invalid", "code": "1800"}, 400, "invalid_request"),
    "Mistral detail": (422, {"object": "error", "message": {"detail": [{"msg": "x"}]}}, 422, "invalid_request"),
    "Mistral plain": (404, {"message": "no Route matched", "request_id": "1"}, 404, "not_found"),
    "Gemini list": (400, [{"error": {"code": 400, "message": "bad", "status": "INVALID"}}], 400, "invalid_request"),
    "xAI": (
        400,
        {"code": "Client specified an invalid argument", "error": "bad"},
        400,
        "Client specified an invalid argument",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_become_what_the_caller_can_act_on(name: str) -> None:
    status, body, expected, code = ERRORS[name]
    told = error(status, body)
    assert (told.status, told.code) == (expected, code)
    assert told.message
    assert told.type
    assert "<" not in told.message
    assert KEY not in told.message


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
        "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
        "the request exceeds the available context size. try increasing the context size",
        "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
        "`inputs` tokens + `max_new_tokens` must be <= 4096",
        "prompt is too long: 210000 tokens > 200000 maximum",
    ],
)
@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_context_that_is_too_long_is_recognised_by_its_words(message: str, status: int) -> None:
    told = error(status, {"object": "error", "message": message, "type": "BadRequestError", "code": 400})
    assert (told.status, told.code) == (400, "context_length_exceeded")
    assert told.headers["x-should-retry"] == "false"


def test_a_context_error_is_recognised_by_its_type() -> None:
    assert error(400, openai("too big", "exceed_context_size_error", 400)).code == "context_length_exceeded"


def test_an_upstreams_client_error_keeps_message_type_and_param() -> None:
    said = {"message": "Bad 'n'.", "type": "odd_error", "param": "n", "code": "bad_n"}
    told = error(400, {"error": said})
    assert {"message": told.message, "type": told.type, "param": told.param, "code": told.code} == said


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("retry-after", "7", True),
        ("retry-after", "0.5", True),
        ("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT", True),
        ("retry-after", "-1", False),
        ("retry-after", "nan", False),
        ("retry-after", "99999999", False),
        ("retry-after", "soon", False),
        ("retry-after-ms", "250", True),
        ("retry-after-ms", "x\r\ny", False),
        ("x-should-retry", "false", True),
        ("x-should-retry", "maybe", False),
        ("set-cookie", "a=b", False),
    ],
)
def test_advice_on_trying_again_passes_where_it_is_sane(name: str, value: str, kept: bool) -> None:
    headers = error(429, openai("slow"), [(name.encode(), value.encode())]).headers
    assert headers.get(name) == (value if kept else None)


def test_retry_after_of_a_broken_upstream_is_kept() -> None:
    assert error(503, b"", [(b"retry-after", b"3")]).headers["retry-after"] == "3"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"key {KEY} is bad", "key [redacted] is bad"),
        ("sk-proj-abcdef***wxyz", "[redacted]"),
        ("Authorization: Bearer abcdefgh12345", "Authorization: Bearer [redacted]"),
        ("call https://llm.corp.example:8443/v1/x failed", "call [redacted] failed"),
        ("host llm.corp.example refused", "host [redacted] refused"),
        ("dial llm.corp.example:8443: refused", "dial [redacted]: refused"),
        ("see http://10.0.0.7:5000/v1", "see [redacted]"),
        ("see https://vllm.prod.svc/v1", "see [redacted]"),
        ("see https://platform.openai.com/docs/x.", "see https://platform.openai.com/docs/x."),
        ("a task-oriented sk-learn model", "a task-oriented sk-learn model"),
    ],
)
def test_messages_show_neither_secrets_nor_where_the_upstream_is(said: str, shown: str) -> None:
    assert error(400, openai(said)).message == shown
    assert error(500, openai(said)).message.endswith(shown)


def test_codes_and_params_are_redacted_too() -> None:
    told = error(400, openai("x", KEY, KEY, param=KEY))
    assert KEY not in f"{told.code} {told.type} {told.param}"


def test_messages_are_bounded() -> None:
    assert len(error(400, openai("x" * 100_000)).message) == 2_000
    assert len(error(500, openai("x" * 100_000)).message) == 2_000


def test_html_inside_json_is_not_echoed() -> None:
    assert "nginx" not in error(502, openai("<html><center>nginx</center></html>")).message


def test_deep_nesting_is_read_only_so_far() -> None:
    deep = b'{"error":' + b'{"message":' * 900 + b'"x"' + b"}" * 900 + b"}"
    assert error(400, deep).status == 400
    body = b'{"choices":[{"message":{"content":' + b"[" * 900 + b'"abcd"' + b"]" * 900 + b"}}]}"
    assert PROVIDER.answer(CALL, a_target(), body).produced() == 0
    stream = PROVIDER.stream(CALL, a_target())
    stream.feed(b"data: " + body + b"\n\n")
    assert stream.produced() == 0

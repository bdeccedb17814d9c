"""Ollama's whole answers and its errors, as chat has them."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from gateway.core.call import Demand
from gateway.core.errors import GatewayError
from gateway.core.usage import Usage
from providers.ollama import PROVIDER
from tests.providers.calls import EMBEDDINGS, a_call
from tests.providers.ollama import COUNTED, line, local

QUESTION = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def read(document: Any) -> tuple[Any, Usage | None]:
    call = a_call(QUESTION, demand=Demand(likely_prompt=6))
    answer = PROVIDER.answer(call, local(), json.dumps(document).encode())
    return json.loads(answer.body), answer.usage


def test_a_text_and_its_usage() -> None:
    told, usage = read(line("Hé 🙂", done="stop", **COUNTED))
    assert usage == Usage(11, 4)
    assert told == {
        "id": "chatcmpl-req_1",
        "object": "chat.completion",
        "created": 0,
        "model": "qwen3:8b",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hé 🙂", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15},
    }


def test_thoughts_are_reasoning() -> None:
    told, _ = read(line("Yes", done="stop", message_thinking="Hm."))
    assert told["choices"][0]["message"]["reasoning_content"] == "Hm."


def test_calls_have_distinct_ids_and_text_as_arguments() -> None:
    calls = [
        {"function": {"name": "weather", "arguments": {"city": "Oslo", "n": 9007199254740993}}},
        {"id": "own", "function": {"index": 1, "name": "weather", "arguments": {}}},
        {"id": "own", "function": {"name": "clock"}},
    ]
    told, _ = read(line("", done="stop", message_tool_calls=calls))
    (choice,) = told["choices"]
    made = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert len({call["id"] for call in made}) == 3
    assert made[1]["id"] == "own"
    assert [call["function"]["arguments"] for call in made] == ['{"city":"Oslo","n":9007199254740993}', "{}", "{}"]


@pytest.mark.parametrize(
    ("reason", "means"), [("stop", "stop"), ("length", "length"), ("load", "stop"), ("unload", "stop"), ("new", "stop")]
)
def test_every_reason_has_its_like(reason: str, means: str) -> None:
    told, _ = read(line("x", done=reason))
    assert told["choices"][0]["finish_reason"] == means


def test_an_older_answer_has_no_reason() -> None:
    told, _ = read({**line("x"), "done": True})
    assert told["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("text", "counts", "means"),
    [
        ("x", {"prompt_eval_count": 3, "eval_count": 2}, Usage(3, 2)),
        ("x", {"eval_count": 2}, Usage(6, 2, source="estimated")),
        ("", {"prompt_eval_count": 3}, Usage(3, 0)),
        ("x", {"prompt_eval_count": 3}, None),
        ("x", {}, None),
        ("", {}, None),
        ("x", {"prompt_eval_count": -3, "eval_count": "2"}, None),
    ],
)
def test_what_was_not_counted_is_unknown_and_never_zero(text: str, counts: Any, means: Usage | None) -> None:
    told, usage = read(line(text, done="stop", **counts))
    assert usage == means
    assert ("usage" in told) is (means is not None and means.source == "upstream")


def test_log_probabilities_are_told_as_chat_has_them() -> None:
    listed = [
        {"token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169], "top_logprobs": [{"token": "Ho", "logprob": -2}]},
        {"token": "!", "logprob": -1},
        {"token": 3},
    ]
    told, _ = read(line("Hé!", done="stop", logprobs=listed))
    assert told["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "Hé",
                "logprob": -0.5,
                "bytes": [72, 195, 169],
                "top_logprobs": [{"token": "Ho", "logprob": -2, "bytes": [72, 111]}],
            },
            {"token": "!", "logprob": -1, "bytes": [33], "top_logprobs": []},
        ],
        "refusal": None,
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b"3",
        b'{"message":{"content":"half"},"done":false}',
        b'{"message":{"content":"half"}}',
        b'{"message":3}',
        b'{"error":"the model failed"}',
        b'{"a":' * 5000,
    ],
)
def test_what_is_no_answer_is_a_502(body: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        PROVIDER.answer(a_call(QUESTION), local(), body)
    assert (caught.value.status, caught.value.code) == (502, "upstream_error")


ODD = [None, 3, "x", [], {}, [3], {"a": []}, True, 1.5, [{}], [{"function": 3}], [{"function": {"name": 3}}]]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_odd_members_never_break_the_gateway(odd: Any) -> None:
    members = {"message_tool_calls": odd, "message_thinking": odd, "logprobs": odd, "eval_count": odd}
    told, _ = read({**line("x", done="stop", **members), "done_reason": odd})
    assert told["choices"][0]["message"]["content"] == "x"


@pytest.mark.parametrize(
    ("status", "body", "means", "code"),
    [
        (400, b'{"error":"invalid think value"}', 400, "invalid_request"),
        (404, b'{"error":"model \'x\' not found"}', 404, "model_not_found"),
        (400, b'{"error":"the input length exceeds the context length"}', 400, "context_length_exceeded"),
        (401, b'{"error":"unauthorized"}', 502, "upstream_error"),
        (429, b'{"error":"too many requests"}', 429, "rate_limit_exceeded"),
        (499, b'{"error":"request canceled"}', 502, "upstream_error"),
        (500, b'{"error":"llama runner process has terminated"}', 502, "upstream_error"),
        (503, b'{"error":"server busy, please try again"}', 502, "upstream_error"),
        (404, b"404 page not found", 502, "upstream_error"),
    ],
)
def test_errors_have_their_like(status: int, body: bytes, means: int, code: str) -> None:
    error = PROVIDER.error(status, [], body, local())
    assert (error.status, error.code) == (means, code)


# Embeddings


def embedded(document: Any, **members: Any) -> tuple[Any, Usage | None]:
    call = a_call({"model": "m", "input": ["a", "b"], **members}, endpoint=EMBEDDINGS)
    answer = PROVIDER.answer(call, local(), json.dumps(document).encode())
    return json.loads(answer.body), answer.usage


VECTORS = [[0.5, -1], [0.25, 2]]


def test_vectors_come_in_order_with_their_count() -> None:
    told, usage = embedded({"model": "x", "embeddings": VECTORS, "prompt_eval_count": 6})
    assert [item["embedding"] for item in told["data"]] == VECTORS
    assert usage == Usage(6, 0)
    assert embedded({"embeddings": VECTORS})[1] is None


def test_a_client_that_asks_for_base64_gets_it() -> None:
    told, _ = embedded({"embeddings": VECTORS}, encoding_format="base64")
    assert struct.unpack("<2f", base64.b64decode(told["data"][1]["embedding"])) == (0.25, 2.0)


@pytest.mark.parametrize("document", [[], {}, {"embeddings": [[1]]}, {"embeddings": 3}, {"error": "no"}])
def test_what_is_no_embedding_is_a_502(document: Any) -> None:
    with pytest.raises(GatewayError) as caught:
        embedded(document)
    assert caught.value.status == 502

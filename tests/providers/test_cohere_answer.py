from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core import sse
from gateway.core.errors import GatewayError
from gateway.core.usage import Usage
from providers._cohere_answer import CohereStream
from providers.cohere import PROVIDER
from tests.providers.calls import EMBEDDINGS, a_call, a_target
from tests.support.dialects.cohere import CITATION, USAGE, end, event, said

TARGET = a_target(dialect="cohere", base_url="https://api.cohere.com", upstream_model="command-x")
USED = Usage(71, 9, 64)
START = event("message-start", id="c-1", delta={"message": {"role": "assistant"}})
HELLO = START + said("content-start", {"type": "text", "text": ""}) + said("content-delta", {"text": "Grüße 🙂"})
FULL = (
    START
    + said("content-delta", {"thinking": "Hm."})
    + event("tool-plan-delta", delta={"message": {"tool_plan": "I look."}})
    + said("content-delta", {"text": "Grüße 🙂"})
    + event(
        "tool-call-start",
        index=0,
        delta={"message": {"tool_calls": {"id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}}},
    )
    + event("tool-call-delta", index=0, delta={"message": {"tool_calls": {"function": {"arguments": '{"a":"ö"}'}}}})
    + event("citation-start", index=0, delta={"message": {"citations": CITATION}})
    + end("TOOL_CALL")
)


def a_stream(*, wants_usage: bool = True) -> CohereStream:
    return CohereStream(a_call({"messages": [], "stream": True}, wants_usage=wants_usage), TARGET)


def chunks(block: bytes) -> list[Any]:
    payloads = [sse.data(each) for each in sse.events(block)]
    return [json.loads(payload) for payload in payloads if payload and payload != b"[DONE]"]


def answered(document: Any) -> Any:
    return PROVIDER.answer(a_call({"messages": []}), TARGET, json.dumps(document).encode())


def test_a_stream_is_told_as_chat_wherever_it_is_cut() -> None:
    whole = a_stream().feed(FULL)
    for cut in range(len(FULL) + 1):
        stream = a_stream()
        assert stream.feed(FULL[:cut]) + stream.feed(FULL[cut:]) == whole
        assert (stream.complete, stream.usage) == (True, USED)


def test_a_stream_of_single_bytes_is_the_same() -> None:
    stream = a_stream()
    assert b"".join(stream.feed(FULL[i : i + 1]) for i in range(len(FULL))) == a_stream().feed(FULL)


def test_what_a_stream_says_is_the_golden_result() -> None:
    told = chunks(a_stream().feed(FULL))
    assert [chunk["choices"][0]["delta"] for chunk in told if chunk["choices"]] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Hm."},
        {"content": "I look."},
        {"content": "Grüße 🙂"},
        {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":"ö"}'}}]},
        {
            "annotations": [
                {
                    "type": "url_citation",
                    "url_citation": {
                        "start_index": 0,
                        "end_index": 5,
                        "title": "Birds",
                        "url": "https://birds.example",
                    },
                }
            ]
        },
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in told[-2:-1]] == ["tool_calls"]
    assert told[-1]["usage"] == {
        "prompt_tokens": 71,
        "completion_tokens": 9,
        "total_tokens": 80,
        "prompt_tokens_details": {"cached_tokens": 64},
    }


def test_usage_is_read_and_not_told_to_who_did_not_ask() -> None:
    stream = a_stream(wants_usage=False)
    assert b'"usage"' not in stream.feed(HELLO + end("COMPLETE"))
    assert stream.usage == USED


@pytest.mark.parametrize(
    ("reason", "means"),
    [("COMPLETE", "stop"), ("STOP_SEQUENCE", "stop"), ("MAX_TOKENS", "length"), ("NEW_REASON", "stop")],
)
def test_finish_reasons(reason: str, means: str) -> None:
    assert f'"finish_reason":"{means}"'.encode() in a_stream().feed(HELLO + end(reason))


def test_a_failure_in_the_stream_is_raised_with_its_words() -> None:
    stream = a_stream()
    stream.feed(HELLO)
    with pytest.raises(GatewayError, match=r"broke off its answer: It tripped\.") as caught:
        stream.feed(event("message-end", delta={"finish_reason": "ERROR", "error": "It tripped."}))
    assert caught.value.status == 502


def test_an_answer_that_took_too_long_upstream_is_a_timeout() -> None:
    with pytest.raises(GatewayError) as caught:
        a_stream().feed(end("TIMEOUT"))
    assert caught.value.status == 504


@pytest.mark.parametrize("body", [HELLO, HELLO[:-5], START, b""])
def test_a_stream_without_its_end_is_a_failure(body: bytes) -> None:
    stream = a_stream()
    stream.feed(body)
    with pytest.raises(GatewayError, match="broke off"):
        stream.finish()


@pytest.mark.parametrize(
    "body",
    [
        b"data: {\n\n",
        b"data: 1\n\n",
        b"<html>\n\n",
        b'data: {"message":"invalid request"}\n\n',
        event("content-delta", delta=[]),
        event("tool-call-delta", delta={"message": {"tool_calls": {"function": {"arguments": "x"}}}}),
        event("tool-call-start", delta={"message": {"tool_calls": 7}}),
        event("citation-start", delta={"message": {"citations": {"sources": 7}}}),
        event("message-end", delta=None),
        event("message-end", delta={"usage": {"tokens": {"input_tokens": -1.5, "output_tokens": "x"}}}),
    ],
)
def test_absurd_events_are_no_defect_of_ours(body: bytes) -> None:
    stream = a_stream()
    try:
        stream.feed(body)
        stream.finish()
    except GatewayError as error:
        assert error.status in (502, 504)  # noqa: PT017  either outcome is right, a traceback is not
    assert stream.usage is None


def test_a_whole_answer_is_told_as_chat() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    answer = answered(
        {
            "id": "c-1",
            "finish_reason": "TOOL_CALL",
            "message": {
                "tool_plan": "I look. ",
                "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Ü"}],
                "tool_calls": [call],
                "citations": [{"start": 0, "end": 1, "sources": [{"id": "doc:1"}]}],
            },
            "usage": USAGE,
        }
    )
    choice = json.loads(answer.body)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("I look. Ü", "Hm.")
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert choice["message"]["annotations"][0]["url_citation"]["url"] == "doc:1"
    assert answer.usage == USED


@pytest.mark.parametrize("document", [[], {}, {"message": "no"}, {"message": {"content": 7}, "finish_reason": "ERROR"}])
def test_absurd_answers_are_a_502(document: Any) -> None:
    with pytest.raises(GatewayError) as caught:
        answered(document)
    assert caught.value.status == 502


def test_billed_units_stand_in_where_tokens_are_missing() -> None:
    report = {"billed_units": {"input_tokens": 5.0, "output_tokens": 3.0}}
    assert answered({"message": {"content": []}, "usage": report}).usage == Usage(5, 3)
    assert answered({"message": {"content": []}}).usage is None


@pytest.mark.parametrize(
    ("status", "body", "ours", "code"),
    [
        (400, {"id": "1", "message": "invalid request: bad"}, 400, "invalid_request"),
        (400, {"message": "too many tokens: the prompt cannot exceed 128000"}, 400, "context_length_exceeded"),
        (401, {"message": "invalid api token"}, 502, "upstream_error"),
        (404, {"message": "model 'x' not found"}, 404, "model_not_found"),
        (429, {"message": "slow down"}, 429, "rate_limit_exceeded"),
        (498, {"message": "invalid token"}, 502, "upstream_error"),
        (503, {"message": "away"}, 502, "upstream_error"),
        (504, {"message": "late"}, 504, "upstream_timeout"),
    ],
)
def test_errors(status: int, body: Any, ours: int, code: str) -> None:
    error = PROVIDER.error(status, [], json.dumps(body).encode(), TARGET)
    assert (error.status, error.code) == (ours, code)


def test_embeddings_come_in_the_encoding_that_was_asked_for() -> None:
    document = {"embeddings": {"float": [[1.0, 0.5]]}, "meta": {"billed_units": {"input_tokens": 4.0}}}
    call = a_call({"input": "x", "encoding_format": "base64"}, endpoint=EMBEDDINGS)
    answer = PROVIDER.answer(call, TARGET, json.dumps(document).encode())
    assert json.loads(answer.body)["data"][0]["embedding"] == "AACAPwAAAD8="
    assert answer.usage == Usage(4, 0)


@pytest.mark.parametrize("document", [{}, {"embeddings": {"float": 1}}, {"embeddings": []}])
def test_absurd_embeddings_are_a_502(document: Any) -> None:
    call = a_call({"input": "x"}, endpoint=EMBEDDINGS)
    with pytest.raises(GatewayError) as caught:
        PROVIDER.answer(call, TARGET, json.dumps(document).encode())
    assert caught.value.status == 502

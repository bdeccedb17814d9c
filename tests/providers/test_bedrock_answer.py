from __future__ import annotations

import json
import struct
from binascii import crc32
from typing import Any

import pytest

from gateway.core import sse
from gateway.core.errors import GatewayError
from gateway.core.usage import Usage
from providers._bedrock_answer import BedrockStream
from providers._event_stream import Frames
from providers.bedrock import PROVIDER
from tests.providers.calls import EMBEDDINGS, a_call, a_target
from tests.support.dialects.bedrock import USAGE, delta, event, exception, frame

TARGET = a_target(dialect="bedrock", base_url="https://bedrock.example", upstream_model="claude")
USED = Usage(71, 9, 60)
HELLO = event("messageStart", role="assistant") + delta(0, text="Grüße 🙂")
END = event("messageStop", stopReason="end_turn") + event("metadata", usage=USAGE)
FULL = (
    event("messageStart", role="assistant")
    + delta(0, reasoningContent={"text": "Hm."})
    + delta(0, reasoningContent={"signature": "c2ln"})
    + event("contentBlockStop", contentBlockIndex=0)
    + delta(1, text="Grüße 🙂")
    + event("contentBlockStop", contentBlockIndex=1)
    + event("contentBlockStart", start={"toolUse": {"toolUseId": "t1", "name": "f"}}, contentBlockIndex=2)
    + delta(2, toolUse={"input": '{"a":"ö"}'})
    + event("contentBlockStop", contentBlockIndex=2)
    + event("contentBlockStart", start={"toolUse": {"toolUseId": "t2", "name": "g"}}, contentBlockIndex=3)
    + event("contentBlockStop", contentBlockIndex=3)
    + event("messageStop", stopReason="tool_use")
    + event("metadata", usage=USAGE)
)


def a_stream(*, wants_usage: bool = True) -> BedrockStream:
    return BedrockStream(a_call({"messages": [], "stream": True}, wants_usage=wants_usage), TARGET)


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
        {"thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}]},
        {"content": "Grüße 🙂"},
        {"tool_calls": [{"index": 0, "id": "t1", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":"ö"}'}}]},
        {"tool_calls": [{"index": 1, "id": "t2", "type": "function", "function": {"name": "g", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]
    assert told[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert told[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 60}


def test_usage_is_read_and_not_told_to_who_did_not_ask() -> None:
    stream = a_stream(wants_usage=False)
    assert b'"usage"' not in stream.feed(HELLO + END)
    assert stream.usage == USED


@pytest.mark.parametrize(
    ("reason", "means"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("malformed_model_output", "stop"),
    ],
)
def test_finish_reasons(reason: str, means: str) -> None:
    told = a_stream().feed(HELLO + event("messageStop", stopReason=reason))
    assert f'"finish_reason":"{means}"'.encode() in told


def test_an_answer_without_its_metadata_is_whole_when_it_has_stopped() -> None:
    stream = a_stream()
    stream.feed(HELLO + event("messageStop", stopReason="end_turn"))
    assert stream.finish().endswith(b"data: [DONE]\n\n")
    assert stream.usage is None


@pytest.mark.parametrize("body", [b"", HELLO, HELLO[:-3]])
def test_a_stream_without_its_end_is_a_failure(body: bytes) -> None:
    stream = a_stream()
    stream.feed(body)
    with pytest.raises(GatewayError, match="broke off"):
        stream.finish()


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("throttlingException", 429, "rate_limit_exceeded"),
        ("validationException", 400, "invalid_request"),
        ("modelStreamErrorException", 502, "upstream_error"),
        ("internalServerException", 502, "upstream_error"),
        ("serviceUnavailableException", 502, "upstream_error"),
    ],
)
def test_an_exception_in_the_stream_is_raised_as_what_it_amounts_to(name: str, status: int, code: str) -> None:
    with pytest.raises(GatewayError) as caught:
        a_stream().feed(HELLO + exception(name, "It tripped."))
    assert (caught.value.status, caught.value.code) == (status, code)


def damaged(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


@pytest.mark.parametrize(
    "body",
    [
        damaged(HELLO, 2),
        damaged(HELLO, 10),
        damaged(HELLO, 30),
        damaged(HELLO, len(HELLO) - 1),
        b"<html>not found</html>",
        frame({":message-type": "event", ":event-type": "metadata"}, [1]),
    ],
)
def test_what_is_no_frame_is_a_502(body: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        a_stream().feed(body)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    "body",
    [
        event("contentBlockDelta", delta=7),
        event("contentBlockDelta", delta={"toolUse": {"input": "x"}}),
        event("contentBlockStart", start=None),
        event("messageStop"),
        event("metadata", usage={"inputTokens": -1}),
        event("somethingNew", x=1),
        delta(0, citation={"location": 7}),
    ],
)
def test_absurd_events_are_no_defect_of_ours(body: bytes) -> None:
    stream = a_stream()
    stream.feed(body)
    assert stream.usage is None


def test_headers_of_every_kind_are_passed_over() -> None:
    others = b"\x01a\x00" + b"\x01b\x04\x00\x00\x00\x01" + b"\x01c\x06\x00\x02xy" + b"\x01d\x09" + b"0" * 16
    block = others + b"\x04name\x07\x00\x05value"
    prelude = struct.pack(">II", 16 + len(block), len(block))
    body = prelude + struct.pack(">I", crc32(prelude)) + block
    (found,) = Frames().feed(body + struct.pack(">I", crc32(body)))
    assert found == ({"name": "value"}, b"")


def test_a_whole_answer_is_told_as_chat() -> None:
    thought = {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "s"}}}
    cited = {
        "citationsContent": {
            "content": [{"text": "Ü"}],
            "citations": [{"title": "T", "location": {"web": {"url": "https://a.example"}}}],
        }
    }
    content = [thought, {"text": "I look. "}, cited, {"toolUse": {"toolUseId": "t1", "name": "f", "input": {"a": "ö"}}}]
    answer = answered({"output": {"message": {"content": content}}, "stopReason": "tool_use", "usage": USAGE})
    choice = json.loads(answer.body)["choices"][0]
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert (message["content"], message["reasoning_content"]) == ("I look. Ü", "Hm.")
    assert message["thinking_blocks"] == [{"type": "thinking", "thinking": "Hm.", "signature": "s"}]
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":"ö"}'}
    assert message["annotations"][0]["url_citation"] == {
        "start_index": 8,
        "end_index": 9,
        "title": "T",
        "url": "https://a.example",
    }
    assert answer.usage == USED


@pytest.mark.parametrize("document", [[], {}, {"output": {"message": {"content": 1}}, "stopReason": "x"}])
def test_absurd_answers_are_a_502(document: Any) -> None:
    with pytest.raises(GatewayError) as caught:
        answered(document)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("status", "kind", "message", "ours", "code"),
    [
        (400, b"ValidationException:http://x", "bad", 400, "invalid_request"),
        (400, b"ValidationException", "Input is too long for requested model.", 400, "context_length_exceeded"),
        (429, b"ThrottlingException", "slow down", 429, "rate_limit_exceeded"),
        (400, b"ThrottlingException", "slow down", 429, "rate_limit_exceeded"),
        (403, b"AccessDeniedException", "no", 502, "upstream_error"),
        (404, b"ResourceNotFoundException", "no such model", 404, "model_not_found"),
        (408, b"ModelTimeoutException", "late", 504, "upstream_timeout"),
        (424, b"ModelErrorException", "broken", 502, "upstream_error"),
        (500, b"", "broken", 502, "upstream_error"),
    ],
)
def test_errors(status: int, kind: bytes, message: str, ours: int, code: str) -> None:
    body = json.dumps({"message": message}).encode()
    error = PROVIDER.error(status, [(b"x-amzn-errortype", kind)], body, TARGET)
    assert (error.status, error.code) == (ours, code)


def test_embeddings_of_both_makers_are_read() -> None:
    call = a_call({"input": "x"}, endpoint=EMBEDDINGS)
    titan = PROVIDER.answer(call, TARGET, b'{"embedding":[1.0,0.5],"inputTextTokenCount":4}')
    assert (json.loads(titan.body)["data"][0]["embedding"], titan.usage) == ([1.0, 0.5], Usage(4, 0))
    cohere = PROVIDER.answer(call, TARGET, b'{"embeddings":{"float":[[1.0]]}}')
    assert cohere.usage is None
    with pytest.raises(GatewayError):
        PROVIDER.answer(call, TARGET, b"{}")

"""Chat's answers, told as Anthropic's, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core import sse
from gateway.core.call import Demand
from gateway.core.dialect import ANTHROPIC
from gateway.core.errors import GatewayError, upstream_error
from gateway.endpoints.messages import ENDPOINT
from tests.providers.calls import a_call

USAGE = {
    "prompt_tokens": 71,
    "completion_tokens": 9,
    "total_tokens": 80,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
TOLD = {
    "input_tokens": 7,
    "output_tokens": 9,
    "cache_read_input_tokens": 64,
    "cache_creation_input_tokens": None,
    "output_tokens_details": {"thinking_tokens": 0},
    "server_tool_use": None,
}
WHOLE = {"cache_creation": None, "inference_geo": None, "service_tier": None}
UNKNOWN = dict.fromkeys(
    ("cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens_details", "server_tool_use")
)
NOT_MORE = {"stop_sequence": None, "stop_details": None, "container": None}
DIRECT = {"type": "direct"}


def a_message() -> Any:
    return a_call({"model": "m", "messages": []}, endpoint=ENDPOINT, demand=Demand(likely_prompt=33, prompt_tokens=90))


def answered(message: dict[str, Any], finish: str | None = "stop", **members: Any) -> Any:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    document = {"id": "c", "object": "chat.completion", "model": "x", "choices": [choice], **members}
    return told(json.dumps(document).encode())


def told(body: bytes) -> Any:
    assert ENDPOINT.translation is not None
    return json.loads(ENDPOINT.translation.answer(a_message(), body))


def chunk(delta: dict[str, Any], finish: str | None = None, **members: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return sse.event(json.dumps({"id": "c", "model": "x", "choices": [choice], **members}).encode())


def a_call_of(index: int, identity: str | None = None, name: str | None = None, arguments: str | None = None) -> Any:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"tool_calls": [{"index": index, **({"id": identity} if identity else {}), "function": function}]}


def events(*chunks: bytes) -> list[Any]:
    """What a client gets, the same for chunks that come at once and one by one."""
    assert ENDPOINT.translation is not None
    one, other = (ENDPOINT.translation.stream(a_message()) for _ in range(2))
    whole = one.feed(b"".join(chunks)) + one.finish()
    assert b"".join(map(other.feed, chunks)) + other.finish() == whole
    found = [json.loads(data) for _, data in sse.Splitter().feed(whole)]
    assert [name.decode() for name, _ in sse.Splitter().feed(whole)] == [event["type"] for event in found]
    return found


def short(found: list[Any]) -> list[Any]:
    """The events between the beginning and the end, in few words."""
    assert [event["type"] for event in found[:2]] == ["message_start", "ping"]
    assert [event["type"] for event in found[-2:]] == ["message_delta", "message_stop"]
    words: list[Any] = []
    for event in found[2:-2]:
        match event:
            case {"type": "content_block_start", "index": index, "content_block": block}:
                words.append((index, block))
            case {"type": "content_block_delta", "index": index, "delta": {"type": kind, **value}}:
                words.append((index, kind.removesuffix("_delta"), *value.values()))
            case {"type": "content_block_stop", "index": index}:
                words.append((index, "stop"))
    return words


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "citations": None}


TEXT = said("")
THINKING = {"type": "thinking", "thinking": "", "signature": ""}


def tool(identity: str, name: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": identity, "name": name, "input": {}, "caller": DIRECT}


def test_a_whole_answer() -> None:
    assert answered({"content": "Hello"}, usage=USAGE) == {
        "id": "msg_req_1",
        "type": "message",
        "role": "assistant",
        "model": "x",
        "content": [said("Hello")],
        "stop_reason": "end_turn",
        **NOT_MORE,
        "usage": {**TOLD, **WHOLE},
    }


def test_thoughts_and_calls() -> None:
    calls = [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"n":1}'}},
        {"type": "function", "function": {"name": "g", "arguments": '{"cut'}},
        7,
    ]
    found = answered({"content": None, "reasoning_content": "Hm.", "tool_calls": calls}, "tool_calls")
    assert found["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"n": 1}, "caller": DIRECT},
        tool("toolu_1", "g"),
    ]
    assert found["stop_reason"] == "tool_use"
    signed = [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "redacted_thinking", "data": "x"}]
    both = answered({"content": "A", "reasoning_content": "Hm.", "thinking_blocks": signed})
    assert both["content"] == [*signed, said("A")]


def test_content_in_parts_and_a_refusal_are_text() -> None:
    assert answered({"content": [{"type": "text", "text": "A"}, 7, {"text": "B"}]})["content"][0]["text"] == "AB"
    refused = answered({"content": None, "refusal": "No."}, "content_filter")
    assert (refused["content"][0]["text"], refused["stop_reason"]) == ("No.", "refusal")


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("content_filter", "refusal"),
        (None, "end_turn"),
        ("x", "end_turn"),
    ],
)
def test_every_reason_to_finish_has_its_like(finish: str | None, reason: str) -> None:
    assert answered({"content": "Hi"}, finish)["stop_reason"] == reason
    assert events(chunk({"content": "Hi"}), chunk({}, finish))[-2]["delta"]["stop_reason"] == reason


def test_a_call_is_a_call_whatever_the_upstream_says() -> None:
    calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]
    assert answered({"tool_calls": calls}, "stop")["stop_reason"] == "tool_use"
    assert events(chunk(a_call_of(0, "a", "f", "{}")), chunk({}, "stop"))[-2]["delta"]["stop_reason"] == "tool_use"


def test_usage_that_is_unknown_is_estimated() -> None:
    assert answered({"content": "x" * 400})["usage"]["input_tokens"] == 33
    assert answered({"content": "x" * 400})["usage"]["output_tokens"] >= 100
    found = events(chunk({"content": "x" * 400}), chunk({}, "stop"))
    assert found[-2]["usage"] == {"input_tokens": 33, "output_tokens": 100, **UNKNOWN}


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[{}]}', b"\xff"])
def test_what_is_no_answer_is_an_error(body: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        told(body)
    assert caught.value.status == 502


def test_a_stream_begins_with_an_estimate_and_ends_with_the_truth() -> None:
    usage = sse.event(json.dumps({"id": "c", "choices": [], "usage": USAGE}).encode())
    found = events(chunk({"role": "assistant", "content": ""}), chunk({"content": "Hé"}), chunk({}, "stop"), usage)
    assert found[0]["message"] == {
        "id": "msg_req_1",
        "type": "message",
        "role": "assistant",
        "model": "x",
        "content": [],
        "stop_reason": None,
        **NOT_MORE,
        "usage": {"input_tokens": 33, "output_tokens": 0, **UNKNOWN, **WHOLE},
    }
    assert short(found) == [(0, TEXT), (0, "text", "Hé"), (0, "stop")]
    assert found[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", **NOT_MORE},
        "usage": TOLD,
    }


def test_thoughts_text_and_parallel_calls_are_blocks_one_after_the_other() -> None:
    found = events(
        chunk({"reasoning_content": "Hm, "}),
        chunk({"reasoning_content": "so."}),
        chunk({"content": "Wait."}),
        chunk(a_call_of(0, "a", "f", "")),
        chunk(a_call_of(0, arguments='{"n"')),
        chunk(a_call_of(0, arguments=":1}")),
        chunk(a_call_of(1, "b", "g", "{}")),
        chunk({}, "tool_calls"),
    )
    assert short(found) == [
        (0, THINKING),
        (0, "thinking", "Hm, "),
        (0, "thinking", "so."),
        (0, "stop"),
        (1, TEXT),
        (1, "text", "Wait."),
        (1, "stop"),
        (2, tool("a", "f")),
        (2, "input_json", '{"n"'),
        (2, "input_json", ":1}"),
        (2, "stop"),
        (3, tool("b", "g")),
        (3, "input_json", "{}"),
        (3, "stop"),
    ]


def test_a_signature_ends_its_thoughts() -> None:
    signed = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    found = events(
        chunk({"reasoning_content": "Hm."}),
        chunk({"thinking_blocks": [signed]}),
        chunk({"thinking_blocks": [{"type": "redacted_thinking", "data": "xyz"}]}),
        chunk({"thinking_blocks": [signed]}),
        chunk({"content": "A"}, "stop"),
    )
    assert short(found) == [
        (0, THINKING),
        (0, "thinking", "Hm."),
        (0, "signature", "c2ln"),
        (0, "stop"),
        (1, {"type": "redacted_thinking", "data": "xyz"}),
        (1, "stop"),
        (2, THINKING),
        (2, "thinking", "Hm."),
        (2, "signature", "c2ln"),
        (2, "stop"),
        (3, TEXT),
        (3, "text", "A"),
        (3, "stop"),
    ]


def test_upstreams_number_and_name_their_calls_in_many_ways() -> None:
    same_index = events(
        chunk(a_call_of(0, "a", "f", "{}")), chunk(a_call_of(0, "b", "g", "{}")), chunk({}, "tool_calls")
    )
    assert [block for _, block, *_ in short(same_index) if isinstance(block, dict)] == [tool("a", "f"), tool("b", "g")]
    repeated = events(chunk(a_call_of(0, "a", "f", "{")), chunk(a_call_of(0, "a", "f", "}")), chunk({}, "tool_calls"))
    assert short(repeated) == [(0, tool("a", "f")), (0, "input_json", "{"), (0, "input_json", "}"), (0, "stop")]
    nameless = events(chunk(a_call_of(0, None, "f", "{}")), chunk(a_call_of(1, None, "f", "{}")), chunk({}, "stop"))
    assert len({block["id"] for _, block, *_ in short(nameless) if isinstance(block, dict)}) == 2


def test_arguments_that_belong_to_no_open_call_are_an_error() -> None:
    assert ENDPOINT.translation is not None
    translator = ENDPOINT.translation.stream(a_message())
    translator.feed(chunk(a_call_of(0, "a", "f", "{")) + chunk(a_call_of(1, "b", "g", "{")))
    with pytest.raises(GatewayError) as caught:
        translator.feed(chunk(a_call_of(0, arguments="}")))
    assert caught.value.status == 502


@pytest.mark.parametrize(
    "strange",
    [
        b": comment\n\n",
        b"data: [1]\n\n",
        b'data: {"choices":[7]}\n\n',
        chunk({"tool_calls": [7, {"index": 0}], "thinking_blocks": [{"type": "x"}, 7], "content": 7}),
    ],
)
def test_strange_chunks_are_passed_over(strange: bytes) -> None:
    assert short(events(chunk({"content": "A"}), strange, chunk({}, "stop"))) == [
        (0, TEXT),
        (0, "text", "A"),
        (0, "stop"),
    ]


def test_an_answer_without_anything_is_whole_all_the_same() -> None:
    assert short(events(chunk({}, "stop"))) == []
    assert short(events()) == []


def test_a_failure_is_an_event_of_its_own() -> None:
    assert ENDPOINT.translation is not None
    translator = ENDPOINT.translation.stream(a_message())
    translator.feed(chunk({"content": "A"}))
    told = translator.failure(upstream_error("It broke."), "req_1")
    assert told == b"event: error\ndata: " + ANTHROPIC.error_body(upstream_error("It broke."), "req_1") + b"\n\n"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_the_type_of_an_error_follows_its_status(status: int, kind: str) -> None:
    body = json.loads(ANTHROPIC.error_body(GatewayError(status, "x", "It is so."), "req_1"))
    assert body == {"type": "error", "error": {"type": kind, "message": "It is so."}, "request_id": "req_1"}

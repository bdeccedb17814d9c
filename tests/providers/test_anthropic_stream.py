"""Claude's streams as chat completions, wherever the network cuts them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.errors import GatewayError
from gateway.core.ports import Stream
from gateway.core.usage import Usage
from providers.anthropic import PROVIDER
from tests.providers.anthropic_streams import (
    OVERLOADED,
    PING,
    START,
    STOP,
    begin,
    call,
    delta,
    end,
    event,
    over,
    stream,
    text,
    thoughts,
)
from tests.providers.calls import a_call, a_target
from tests.providers.cutting import chunks, deltas, fed, the_same_however_cut

TARGET = a_target(dialect="anthropic", upstream_model="claude-sonnet-4-6")
ROLE = {"role": "assistant", "content": ""}


def a_stream(*, wants_usage: bool = False) -> Stream:
    return PROVIDER.stream(a_call({"messages": [], "stream": True}, wants_usage=wants_usage), TARGET)


def told(*documents: dict[str, Any]) -> list[Any]:
    return deltas(the_same_however_cut(a_stream, stream(START, PING, *documents)))


def test_text_with_everything_that_bytes_can_hold() -> None:
    pieces = ("Grüße 🙂", '\u2028 \\ "quoted"\n', "event: message_stop\ndata: {}")
    assert told(*text(0, *pieces), over("end_turn"), STOP) == [ROLE, *({"content": p} for p in pieces), "stop"]


def test_the_usage_is_the_largest_that_was_told() -> None:
    recorded = stream(
        START,
        *text(0, "Hi"),
        over("end_turn", output_tokens_details={"thinking_tokens": 0}, input_tokens=0, cache_read_input_tokens=4),
        STOP,
    )
    asked = a_stream(wants_usage=True)
    last = chunks(fed(asked, recorded))[-1]
    assert asked.usage == Usage(13, 9, 4, 0)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 13,
        "completion_tokens": 9,
        "total_tokens": 22,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    unasked = a_stream()
    assert all(chunk["choices"] for chunk in chunks(fed(unasked, recorded)))
    assert unasked.usage == asked.usage


def test_every_chunk_has_the_same_identity() -> None:
    documents = chunks(fed(a_stream(wants_usage=True), stream(START, *text(0, "a", "b"), over("end_turn"), STOP)))
    assert {(chunk["id"], chunk["object"], chunk["created"]) for chunk in documents} == {
        ("chatcmpl-req_1", "chat.completion.chunk", 0)
    }


def test_parallel_calls_are_numbered_and_a_call_without_arguments_has_an_empty_object() -> None:
    found = told(
        *text(0, "Wait."),
        *call(1, "toolu_1", "weather", "", '{"city":', ' "Ulm"}'),
        *call(2, "toolu_2", "time"),
        over("tool_use"),
        STOP,
    )

    def first(index: int, identity: str, name: str) -> dict[str, Any]:
        function = {"name": name, "arguments": ""}
        return {"tool_calls": [{"index": index, "id": identity, "type": "function", "function": function}]}

    def more(index: int, piece: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}

    assert found == [
        ROLE,
        {"content": "Wait."},
        first(0, "toolu_1", "weather"),
        more(0, '{"city":'),
        more(0, ' "Ulm"}'),
        first(1, "toolu_2", "time"),
        more(1, "{}"),
        "tool_calls",
    ]


def test_arguments_that_come_with_the_beginning_are_told() -> None:
    whole = begin(0, {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}})
    assert told(whole, end(0), over("tool_use"), STOP)[2] == {
        "tool_calls": [{"index": 0, "function": {"arguments": '{"x":1}'}}]
    }


def test_thoughts_are_told_with_their_signatures() -> None:
    assert told(
        *thoughts(0, "c2lnbmF0dXJl==", "Hm, ", "so."),
        begin(1, {"type": "redacted_thinking", "data": "xyz"}),
        end(1),
        *text(2, "Yes."),
        over("end_turn"),
        STOP,
    ) == [
        ROLE,
        {"reasoning_content": "Hm, "},
        {"reasoning_content": "so."},
        {"thinking_blocks": [{"type": "thinking", "thinking": "Hm, so.", "signature": "c2lnbmF0dXJl=="}]},
        {"thinking_blocks": [{"type": "redacted_thinking", "data": "xyz"}]},
        {"content": "Yes."},
        "stop",
    ]


def test_citations_are_annotations_of_their_passage() -> None:
    cited = {"type": "web_search_result_location", "url": "https://a.example", "title": "A", "cited_text": "x"}
    page = {"type": "page_location", "document_index": 2, "document_title": "Doc", "cited_text": "x"}
    found = told(
        *text(0, "One. "),
        begin(1, {"type": "text", "text": "", "citations": []}),
        delta(1, "citations_delta", "citation", cited),
        delta(1, "text_delta", "text", "Two"),
        delta(1, "citations_delta", "citation", page),
        end(1),
        over("end_turn"),
        STOP,
    )
    assert found[-2] == {
        "annotations": [
            {
                "type": "url_citation",
                "url_citation": {"start_index": 5, "end_index": 8, "url": "https://a.example", "title": "A"},
            },
            {
                "type": "url_citation",
                "url_citation": {"start_index": 5, "end_index": 8, "url": "document:2", "title": "Doc"},
            },
        ]
    }


def test_what_anthropics_own_tools_do_and_what_is_unknown_is_passed_over() -> None:
    assert told(
        begin(0, {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {}}),
        delta(0, "input_json_delta", "partial_json", '{"query":"x"}'),
        end(0),
        begin(1, {"type": "web_search_tool_result", "tool_use_id": "srv", "content": [{"type": "error"}]}),
        end(1),
        {"type": "some_new_event", "error": None},
        *text(2, "Found."),
        over("end_turn"),
        STOP,
    ) == [ROLE, {"content": "Found."}, "stop"]


def test_an_answer_by_the_format_tool_is_text() -> None:
    assert told(*call(0, "toolu_1", "aidock_answer", '{"age":', "3}"), over("tool_use"), STOP) == [
        ROLE,
        {"content": '{"age":'},
        {"content": "3}"},
        "stop",
    ]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("a_new_one", "stop"),
    ],
)
def test_every_reason_to_stop_has_its_like(reason: str, finish: str) -> None:
    assert told(*text(0, "Hi"), over(reason), STOP)[-1] == finish


def test_a_refusal_is_explained() -> None:
    ended = over("refusal")
    ended["delta"]["stop_details"] = {"type": "refusal", "category": "bio", "explanation": "Not this."}
    assert told(ended, STOP) == [ROLE, {"refusal": "Not this."}, "content_filter"]


def test_other_line_ends_and_no_event_lines_are_the_same() -> None:
    recorded = stream(START, *text(0, "Hi"), over("end_turn"), STOP)
    plain = fed(a_stream(), recorded)
    assert the_same_however_cut(a_stream, recorded.replace(b"\n", b"\r\n")) == plain
    nameless = b"".join(line + b"\n" for line in recorded.split(b"\n") if not line.startswith(b"event:"))
    assert fed(a_stream(), nameless) == plain


def test_a_stream_without_its_last_event_is_whole_with_a_reason_to_stop() -> None:
    assert deltas(the_same_however_cut(a_stream, stream(START, *text(0, "Hi"), over("end_turn"))))[-1] == "stop"


def test_a_stream_that_is_cut_is_an_error_wherever_it_is_cut() -> None:
    recorded = stream(START, *text(0, "Hi"), over("end_turn"), STOP)
    whole = recorded.index(b"event: message_stop") - 2  # from there on the reason to stop is known
    for at in range(whole):
        with pytest.raises(GatewayError) as caught:
            fed(a_stream(), recorded[:at])
        assert caught.value.status == 502


def test_nothing_is_told_after_the_end() -> None:
    reader = a_stream()
    reader.feed(stream(START, *text(0, "Hi"), over("end_turn"), STOP))
    assert reader.complete
    assert reader.feed(event(PING)) == b""


@pytest.mark.parametrize("before", [(), (START,), (START, *text(0, "Hi"))])
def test_an_error_inside_the_stream_is_raised(before: tuple[dict[str, Any], ...]) -> None:
    recorded = stream(*before, OVERLOADED)
    for at in range(len(recorded)):
        reader = a_stream()
        with pytest.raises(GatewayError) as caught:
            fed(reader, recorded[:at], recorded[at:])
        assert (caught.value.status, caught.value.code) == (503, "overloaded")
        assert not reader.complete


def test_begun_means_that_a_reader_would_see_something() -> None:
    reader = a_stream()
    reader.feed(stream(START, PING, begin(0, {"type": "text", "text": ""})))
    assert not reader.begun
    assert reader.usage is None
    reader.feed(event(delta(0, "text_delta", "text", "Hi")))
    assert reader.begun
    assert reader.produced() == 1
    assert reader.usage == Usage(13, 1, 4, source="estimated"), "a client may leave here"


@pytest.mark.parametrize(
    "absurd",
    [
        b"event: message_start\ndata: {\n\n",
        b"data: [1]\n\ndata: 3\n\ndata: null\n\n",
        b'data: {"type":"message_start","message":3}\n\ndata: {"type":"content_block_start"}\n\n',
        b'data: {"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{}"}}\n\n',
        b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":7}}\n\n',
        b'data: {"type":"content_block_start","content_block":{"type":"tool_use","name":"x"}}\n\n',
        b'data: {"type":"message_delta","delta":[],"usage":{"input_tokens":-1,"output_tokens":1e99}}\n\n',
        b'data: {"type":"error"}\n\n',
        b"<html>bad gateway</html>",
        b"\xff\xfe\n\n",
        b'data: {"a":"\xff"}\n\n',
    ],
)
def test_absurd_streams_are_errors_and_nothing_else(absurd: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        fed(a_stream(), absurd)
    assert caught.value.status >= 500


def test_thoughts_without_end_are_not_held_without_end() -> None:
    reader = a_stream()
    reader.feed(stream(START, begin(0, {"type": "thinking", "thinking": "", "signature": ""})))
    for _ in range(4):
        reader.feed(event(delta(0, "thinking_delta", "thinking", "x" * 2**20)))
    with pytest.raises(GatewayError, match="cannot be read"):
        reader.feed(event(delta(0, "thinking_delta", "thinking", "x")))


def test_the_model_is_the_one_that_was_asked() -> None:
    (model,) = {
        chunk["model"] for chunk in chunks(fed(a_stream(), stream(START, *text(0, "x"), over("end_turn"), STOP)))
    }
    assert model == "claude-sonnet-4-6"
    assert json.dumps(START).count("claude-x") == 1

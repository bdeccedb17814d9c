import json
from typing import Any

from gateway.core import sse
from gateway.core.usage import Usage
from providers._writer import Choice, ChunkWriter, WrittenAnswer, tool_call
from tests.providers.calls import a_call

HELLO = {"model": "m", "messages": [], "stream": True}


def a_writer(*, wants_usage: bool = False) -> ChunkWriter:
    return ChunkWriter(a_call(HELLO, wants_usage=wants_usage), "their-model")


def chunks(written: bytes) -> list[Any]:
    events = [sse.data(event) for event in sse.events(written)]
    return [json.loads(data) for data in events if data and data != b"[DONE]"]


def deltas(written: bytes) -> list[Any]:
    return [chunk["choices"][0]["delta"] for chunk in chunks(written)]


def test_the_role_comes_first_and_once_for_every_choice() -> None:
    write = a_writer()
    assert deltas(write.text("Hi") + write.text("!")) == [
        {"role": "assistant", "content": ""},
        {"content": "Hi"},
        {"content": "!"},
    ]
    assert deltas(write.text("Ho", 1))[0] == {"role": "assistant", "content": ""}


def test_all_chunks_have_one_id_and_no_usage_unless_it_was_asked_for() -> None:
    write = a_writer()
    written = chunks(write.text("Hi") + write.finish("stop") + write.end(Usage(1, 2)))
    assert {chunk["id"] for chunk in written} == {"chatcmpl-req_1"}
    assert [chunk["choices"][0]["finish_reason"] for chunk in written] == [None, None, "stop"]


def test_usage_comes_last_with_its_zeros_and_without_what_nobody_said() -> None:
    write = a_writer(wants_usage=True)
    end = write.end(Usage(5, 3, cached=0))
    assert end.endswith(b"data: [DONE]\n\n")
    (chunk,) = chunks(end)
    assert chunk["choices"] == []
    assert chunk["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_tool_calls_are_numbered_in_the_order_they_begin() -> None:
    write = a_writer()
    written = (
        write.tool_call("a", "f") + write.arguments('{"x":') + write.arguments("1}") + write.tool_call("b", "g", "{}")
    )
    calls = [delta["tool_calls"][0] for delta in deltas(written) if "tool_calls" in delta]
    assert [call["index"] for call in calls] == [0, 0, 0, 1]
    assert calls[0] == {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
    assert calls[1] == {"index": 0, "function": {"arguments": '{"x":'}}
    assert write.called()


def test_a_choice_ends_once() -> None:
    write = a_writer()
    assert write.finish("length")
    assert write.finish("stop") == b""


def test_a_stream_has_begun_when_there_is_something_to_see() -> None:
    write = a_writer()
    write.role()
    assert not write.begun
    write.reasoning("Hm")
    assert write.begun
    assert write.produced() == 1


def test_an_answer_of_calls_alone_has_no_content() -> None:
    choice = Choice(calls=[tool_call("c", "f", "")], finish="tool_calls")
    answer = WrittenAnswer(a_call(HELLO), "their-model", [choice], Usage(1, 2, reasoning=1))
    document = json.loads(answer.body)
    assert document["object"] == "chat.completion"
    assert document["choices"][0]["message"]["content"] is None
    assert document["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == "{}"
    assert document["usage"]["completion_tokens_details"] == {"reasoning_tokens": 1}
    assert answer.produced() == 1

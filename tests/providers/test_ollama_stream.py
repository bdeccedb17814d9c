"""Ollama's streams as chat chunks, however they arrive."""

from __future__ import annotations

import itertools
import json
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.call import Demand
from gateway.core.errors import GatewayError
from gateway.core.usage import Usage
from providers._ollama_answer import OllamaStream
from tests.providers.calls import a_call
from tests.providers.ollama import COUNTED, line, lines, local
from tests.providers.streams import chunks_of, joined

DONE = b"data: [DONE]\n\n"


class Recorded(NamedTuple):
    """A stream, what a client makes of it, and what was used."""

    name: str
    arrives: bytes
    told: dict[str, Any]
    usage: Usage | None


def reader(*, wants_usage: bool = False) -> OllamaStream:
    body = {"model": "m", "messages": [], "stream": True}
    return OllamaStream(a_call(body, wants_usage=wants_usage, demand=Demand(likely_prompt=6)), local())


def read(stream: OllamaStream, *packets: bytes) -> bytes:
    return b"".join(map(stream.feed, packets)) + stream.finish()


def text(content: str, finish: str = "stop", **members: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "finish": finish, **members}


def call(index: int, identity: str, name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": identity, "type": "function", "function": function}


WEATHER = {"id": "call_w", "function": {"index": 0, "name": "weather", "arguments": {"city": "Ös\u2028lo"}}}
CLOCK = {"id": "call_c", "function": {"index": 0, "name": "clock", "arguments": {}}}
PROBABLE = [{"token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169]}]

RECORDED = [
    Recorded(
        "text",
        lines(line("Hé "), line("🙂 \u2028\u0085"), line("", done="stop", **COUNTED)),
        text("Hé 🙂 \u2028\u0085"),
        Usage(11, 4),
    ),
    Recorded(
        "thoughts, and no count of a prompt that was cached",
        lines(line(message_thinking="Hm"), line(message_thinking="."), line("Yes"), line(done="length", eval_count=9)),
        text("Yes", "length", reasoning_content="Hm."),
        Usage(6, 9, source="estimated"),
    ),
    Recorded(
        "a whole call in each line",
        lines(line(message_tool_calls=[WEATHER]), line(message_tool_calls=[CLOCK]), line(done="stop", **COUNTED)),
        {
            "role": "assistant",
            "finish": "tool_calls",
            "tool_calls": [
                call(0, "call_w", "weather", '{"city":"Ös\u2028lo"}'),
                call(1, "call_c", "clock", "{}"),
            ],
        },
        Usage(11, 4),
    ),
    Recorded(
        "probabilities",
        lines(line("Hé", logprobs=PROBABLE), line(done="stop", **COUNTED)),
        text("Hé", logprobs=[{"token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169], "top_logprobs": []}]),
        Usage(11, 4),
    ),
    Recorded("no counts at all", lines(line("Hi"), line(done="stop")), text("Hi"), None),
    Recorded(
        "CRLF, blank lines, and no newline at the end",
        b"\r\n" + lines(line("Hi"), line(done="stop", **COUNTED)).replace(b"\n", b"\r\n\r\n")[:-4],
        text("Hi"),
        Usage(11, 4),
    ),
]

EVERY = pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded.name)


@EVERY
def test_a_stream_is_told_as_chat(recorded: Recorded) -> None:
    stream = reader()
    written = read(stream, recorded.arrives)
    assert joined(written) == {0: recorded.told}
    assert written.endswith(DONE)
    assert (stream.usage, stream.complete, stream.begun) == (recorded.usage, True, True)
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks_of(written)}) == 1
    assert all("usage" not in chunk for chunk in chunks_of(written))


@EVERY
def test_a_cut_at_any_byte_makes_no_difference(recorded: Recorded) -> None:
    whole = read(reader(), recorded.arrives)
    for at in range(len(recorded.arrives) + 1):
        stream = reader()
        assert read(stream, recorded.arrives[:at], recorded.arrives[at:]) == whole, at
        assert stream.usage == recorded.usage


@EVERY
@pytest.mark.parametrize("size", [1, 3, 7])
def test_small_packets_make_no_difference(recorded: Recorded, size: int) -> None:
    packets = [recorded.arrives[at : at + size] for at in range(0, len(recorded.arrives), size)]
    assert read(reader(), *packets) == read(reader(), recorded.arrives)


@EVERY
def test_usage_comes_last_where_it_was_asked_for_and_is_no_guess(recorded: Recorded) -> None:
    last = chunks_of(read(reader(wants_usage=True), recorded.arrives))[-1]
    if recorded.usage is None or recorded.usage.source == "estimated":
        assert last["choices"]
    else:
        assert last["choices"] == []
        assert last["usage"]["total_tokens"] == recorded.usage.total


def test_text_is_passed_on_as_soon_as_its_line_is_whole() -> None:
    stream = reader()
    packet = lines(line("Hi"))
    assert stream.feed(packet[:-1]) == b""
    assert not stream.begun
    assert joined(stream.feed(packet[-1:])) == {0: {"role": "assistant", "content": "Hi"}}
    assert stream.begun


def test_calls_without_ids_get_distinct_ones() -> None:
    bare = {"function": {"name": "clock", "arguments": {}}}
    packets = lines(line(message_tool_calls=[bare]), line(message_tool_calls=[bare]), line(done="stop"))
    calls = joined(read(reader(), packets))[0]["tool_calls"]
    assert len({made["id"] for made in calls}) == 2
    assert [made["index"] for made in calls] == [0, 1]


def test_nothing_passes_after_the_end() -> None:
    stream = reader()
    written = stream.feed(lines(line("Hi"), line(done="stop"), line("more"), {"error": "late"}))
    assert joined(written) == {0: text("Hi")}
    assert stream.feed(lines(line("more"))) == b""
    assert stream.finish() == b""


@pytest.mark.parametrize("body", [b"", b"\n", lines(line("Hi")), lines(line("Hi")) + lines(line(done="stop"))[:-3]])
def test_a_cut_is_never_made_to_look_like_an_end(body: bytes) -> None:
    stream = reader()
    sent = stream.feed(body)
    with pytest.raises(GatewayError) as caught:
        stream.finish()
    assert (caught.value.status, caught.value.code) == (502, "upstream_error")
    assert not stream.complete
    assert b"[DONE]" not in sent


@pytest.mark.parametrize("before", [b"", lines(line("Hi"))], ids=["first", "later"])
def test_an_error_in_the_stream_is_an_error(before: bytes) -> None:
    stream = reader()
    stream.feed(before)
    with pytest.raises(GatewayError, match="llama runner") as caught:
        stream.feed(lines({"error": "llama runner process has terminated"}))
    assert caught.value.status == 502
    assert not stream.complete


def test_what_was_written_is_estimated_for_a_stream_that_broke() -> None:
    stream = reader()
    stream.feed(lines(line("four" * 5), line(message_thinking="more")))
    assert stream.produced() == 6


@pytest.mark.parametrize(
    "body",
    [b"{oops\n", b"3\n", b"[]\n", b"{}\n", b"\xff\xfe\n", b'{"message":3}\n', b"<html>\n", b'{"a":' * 5000 + b"\n"],
)
def test_what_cannot_be_read_is_a_502(body: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        reader().feed(body)
    assert caught.value.status == 502


def test_a_line_without_end_is_not_held_for_ever() -> None:
    stream = reader()
    endless = itertools.repeat(b"x" * 2**16, 300)
    with pytest.raises(GatewayError):
        read(stream, *endless)
    assert not stream.complete


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_an_error_and_never_an_exception(noise: bytes) -> None:
    for body in (noise, lines(line("Hi")) + noise, json.dumps(line("Hi")).encode() + noise):
        with pytest.raises(GatewayError):
            read(reader(), body)

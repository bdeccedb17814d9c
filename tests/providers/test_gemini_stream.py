"""Gemini's streams as chat chunks, however they arrive."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import GatewayError
from gateway.core.usage import Usage
from providers._gemini_answer import GeminiStream
from providers._gemini_signatures import Signatures
from tests.providers.calls import a_call
from tests.providers.gemini import COUNTED, THOUGHT, events, part, reply, said, studio
from tests.providers.streams import chunks_of, joined

DONE = b"data: [DONE]\n\n"


class Recorded(NamedTuple):
    """A stream, what a client makes of it (see `joined`), and what was used."""

    name: str
    arrives: bytes
    choices: dict[int, dict[str, Any]]
    usage: Usage | None


def reader(*, wants_usage: bool = False, **members: Any) -> GeminiStream:
    call = a_call({"model": "m", "messages": [], "stream": True, **members}, wants_usage=wants_usage)
    return GeminiStream(call, studio(), Signatures())


def text(content: str, finish: str = "stop", **members: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "finish": finish, **members}


def read(stream: GeminiStream, *packets: bytes) -> bytes:
    return b"".join(map(stream.feed, packets)) + stream.finish()


SIGNED = part(functionCall={"id": "c1", "name": "weather", "args": {"city": "Ös\u2028lo"}}, thoughtSignature="c2ln")
SOURCE = {
    "groundingChunks": [{"web": {"uri": "https://a.example.com", "title": "A"}}],
    "groundingSupports": [{"segment": {"endIndex": 4}, "groundingChunkIndices": [0]}],
}
CITED = {"start_index": 0, "end_index": 3, "url": "https://a.example.com", "title": "A"}
CHOSEN = {"chosenCandidates": [{"token": "Hé", "logProbability": -0.5}]}

RECORDED = [
    Recorded(
        "text with usage in every event",
        events(
            reply(said(part(text="Hé ")), usage={"promptTokenCount": 11, "candidatesTokenCount": 1}),
            reply(said(part(text="🙂 \u2028data: [DONE]"), finish="STOP"), usage=COUNTED),
        ),
        {0: text("Hé 🙂 \u2028data: [DONE]")},
        Usage(11, 4),
    ),
    Recorded(
        "a finish in every event, as older models have it",
        events(reply(said(part(text="a"), finish="STOP")), reply(said(part(text="b"), finish="MAX_TOKENS"))),
        {0: text("ab", "length")},
        None,
    ),
    Recorded(
        "thoughts, then a signed text",
        events(
            reply(said(part(text="Hm", thought=True))),
            reply(said(part(text=".", thought=True), part(text="Yes"))),
            reply(said(part(text="", thoughtSignature="c2ln"), finish="STOP"), usage=THOUGHT),
        ),
        {0: text("Yes", reasoning_content="Hm.", extra={"google": {"thought_signature": "c2ln"}})},
        Usage(20, 35, 8, 30),
    ),
    Recorded(
        "parallel calls, the finish in an event of its own",
        events(
            reply(said(SIGNED)),
            reply(said(part(functionCall={"id": "c2", "name": "clock"}))),
            reply(said(part(text=""), finish="STOP"), usage=COUNTED),
        ),
        {
            0: {
                "role": "assistant",
                "finish": "tool_calls",
                "tool_calls": [
                    {
                        "index": 0,
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Ös\u2028lo"}'},
                        "extra_content": {"google": {"thought_signature": "c2ln"}},
                    },
                    {"index": 1, "id": "c2", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
                ],
            }
        },
        Usage(11, 4),
    ),
    Recorded(
        "a call after the finish",
        events(reply(said(part(text="x"), finish="STOP")), reply(said(SIGNED))),
        {
            0: text(
                "x",
                "tool_calls",
                tool_calls=[
                    {
                        "index": 0,
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Ös\u2028lo"}'},
                        "extra_content": {"google": {"thought_signature": "c2ln"}},
                    }
                ],
            )
        },
        None,
    ),
    Recorded(
        "two answers at once",
        events(
            reply(said(part(text="a"), index=0), said(part(text="b"), index=1)),
            reply(said(part(text="B"), index=1, finish="SAFETY")),
            reply(said(part(text="A"), index=0, finish="STOP"), usage=COUNTED),
        ),
        {0: text("aA"), 1: text("bB", "content_filter")},
        Usage(11, 4),
    ),
    Recorded(
        "a blocked prompt",
        events(
            {
                "promptFeedback": {"blockReason": "SAFETY"},
                "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9},
            }
        ),
        {0: {"role": "assistant", "refusal": "The provider blocked the prompt (SAFETY).", "finish": "content_filter"}},
        Usage(9, 0),
    ),
    Recorded(
        "sources, probabilities and a picture",
        events(
            reply(said(part(text="Öl."), logprobsResult=CHOSEN)),
            reply(said(part(inlineData={"mimeType": "image/png", "data": "QUJD"}))),
            reply(said(finish="STOP", groundingMetadata=SOURCE)),
        ),
        {
            0: text(
                "Öl.",
                logprobs=[{"token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169], "top_logprobs": []}],
                images=[{"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}],
                annotations=[{"type": "url_citation", "url_citation": CITED}],
            )
        },
        None,
    ),
    Recorded(
        "comments, LF, and no blank line at the end",
        b": hello\n\n"
        + events(reply(said(part(text="Hi"), finish="STOP"), usage=COUNTED)).replace(b"\r\n", b"\n")[:-1],
        {0: text("Hi")},
        Usage(11, 4),
    ),
]

EVERY = pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded.name)


@EVERY
def test_a_stream_is_told_as_chat(recorded: Recorded) -> None:
    stream = reader()
    written = read(stream, recorded.arrives)
    assert joined(written) == recorded.choices
    assert written.endswith(DONE)
    assert written.count(b"[DONE]\n\n") == 1
    assert (stream.usage, stream.complete, stream.begun) == (recorded.usage, True, True)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks_of(written)}) == 1
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
def test_usage_comes_last_where_it_was_asked_for(recorded: Recorded) -> None:
    last = chunks_of(read(reader(wants_usage=True), recorded.arrives))[-1]
    if recorded.usage is None:
        assert last["choices"]
    else:
        assert last["choices"] == []
        assert last["usage"]["total_tokens"] == recorded.usage.total


def test_text_is_passed_on_as_soon_as_its_event_is_whole() -> None:
    stream = reader()
    event = events(reply(said(part(text="Hi"))))
    assert stream.feed(event[:-1]) == b""
    assert not stream.begun
    assert joined(stream.feed(event[-1:])) == {0: {"role": "assistant", "content": "Hi"}}
    assert stream.begun


def test_no_finish_is_told_before_the_end() -> None:
    stream = reader()
    written = stream.feed(events(reply(said(part(text="Hi"), finish="STOP"), usage=COUNTED)))
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks_of(written)] == [None, None]


CUT = [
    events(reply(said(part(text="Hi")), usage={"promptTokenCount": 3})),
    events(reply(said(part(text="Hi")))) + b'data: {"candidates": [{"content": {"par',
    events(reply(said(part(text="a"), index=0, finish="STOP"), said(part(text="b"), index=1))),
    b"",
    b": only a comment\n\n",
    events({"usageMetadata": COUNTED}),
]


@pytest.mark.parametrize("body", CUT, ids=range(len(CUT)))
def test_a_cut_is_never_made_to_look_like_an_end(body: bytes) -> None:
    stream = reader()
    sent = stream.feed(body)
    with pytest.raises(GatewayError) as caught:
        stream.finish()
    assert (caught.value.status, caught.value.code) == (502, "upstream_error")
    assert not stream.complete
    assert b"[DONE]" not in sent
    assert all(not told.get("finish") for told in joined(sent).values())


def test_what_was_written_is_estimated_for_a_stream_that_broke() -> None:
    stream = reader()
    stream.feed(events(reply(said(part(text="four" * 5), part(text="more", thought=True)))))
    assert stream.produced() == 6


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ({"code": 429, "message": "Slow down.", "status": "RESOURCE_EXHAUSTED"}, 429, "rate_limit_exceeded"),
        ({"code": 400, "message": "Bad.", "status": "INVALID_ARGUMENT"}, 400, "invalid_request"),
        ({"code": 503, "message": "Overloaded.", "status": "UNAVAILABLE"}, 502, "upstream_error"),
        ({"code": 504, "message": "Late.", "status": "DEADLINE_EXCEEDED"}, 504, "upstream_timeout"),
        ({"message": "?"}, 502, "upstream_error"),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("before", [b"", events(reply(said(part(text="Hi"))))], ids=["first", "later"])
def test_an_error_in_the_stream_is_an_error(
    before: bytes, listed: bool, error: dict[str, Any], status: int, code: str
) -> None:
    stream = reader()
    stream.feed(before)
    with pytest.raises(GatewayError) as caught:
        stream.feed(events([{"error": error}] if listed else {"error": error}))
    assert (caught.value.status, caught.value.code) == (status, code)
    assert not stream.complete


@pytest.mark.parametrize(
    "body",
    [
        b"data: {oops\n\n",
        b"data: 3\n\n",
        b"data: []\n\n",
        b"data: \xff\xfe\n\n",
        b'data: {"candidates":3}\n\n',
        b'data: {"candidates":[{"index":4096}]}\n\n',
        b"data: " + b'{"a":' * 5000 + b"\n\n",
    ],
)
def test_what_cannot_be_read_is_a_502(body: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        reader().feed(body)
    assert caught.value.status == 502


def test_an_event_without_end_is_not_held_for_ever() -> None:
    stream = reader()
    endless = itertools.repeat(b"x" * 2**16, 300)
    with pytest.raises(GatewayError):
        read(stream, b"data: ", *endless)
    assert not stream.complete


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_an_error_and_never_an_exception(noise: bytes) -> None:
    for body in (noise, b"data: " + noise + b"\n\n", events(reply(said(part(text="Hi")))) + noise):
        with pytest.raises(GatewayError):
            read(reader(), body)

"""The demo model, read with the eyes of the gateway: its exchange, then the OpenAI dialect's reader."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import struct
import time
import wave
from typing import Any, NamedTuple

import pytest

from gateway.core.deployment import Deadlines
from gateway.core.endpoint import Inference
from gateway.core.errors import GatewayError
from gateway.core.headers import first
from gateway.core.ports import Provider
from gateway.core.upstream import Exchange, Transport, UpstreamFailure, UpstreamRequest
from gateway.core.usage import Usage
from gateway.endpoints import audio_speech, audio_transcriptions, images_generations, moderations, rerank
from providers.demo import PROVIDER
from tests.providers.calls import CHAT, COMPLETIONS, EMBEDDINGS, a_call, a_target

IMAGES, SPEECH = images_generations.ENDPOINT, audio_speech.ENDPOINT
HEARING, MODERATIONS, RERANK = audio_transcriptions.ENDPOINT, moderations.ENDPOINT, rerank.ENDPOINT

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
            "required": ["city", "days"],
        },
    },
}


class Got(NamedTuple):
    """What came back: a whole document, or the events of a stream as the client gets them."""

    status: int
    headers: Any
    raw: bytes
    document: Any
    events: list[Any]
    usage: Usage | None


def request_for(body: dict[str, Any], *, endpoint: Inference = CHAT, **target: Any) -> UpstreamRequest:
    quirks = {"tokens_per_second": target.pop("pace", 0)}
    return PROVIDER.request(a_call(body, endpoint=endpoint), a_target(quirks, dialect="demo", base_url="", **target))


async def read_all(exchange: Exchange) -> bytes:
    parts = []
    while part := await exchange.read():
        parts.append(part)
    return b"".join(parts)


async def ask(body: dict[str, Any], *, endpoint: Inference = CHAT, wants_usage: bool = True) -> Got:
    body = {"model": "gpt-x", **body}
    call = a_call(body, endpoint=endpoint, wants_usage=wants_usage)
    exchange = PROVIDER.exchange(request_for(body, endpoint=endpoint))
    await exchange.start()
    raw = await read_all(exchange)
    if exchange.status != 200 or not call.streamed:
        usage = PROVIDER.answer(call, a_target(), raw).usage if exchange.status == 200 else None
        return Got(exchange.status, exchange.headers, raw, json.loads(raw), [], usage)
    stream = PROVIDER.stream(call, a_target())
    told = stream.feed(raw) + stream.finish()
    assert stream.complete
    assert told.endswith(b"data: [DONE]\n\n")
    events = [json.loads(line[6:]) for line in told.splitlines() if line and not line.endswith(b"[DONE]")]
    return Got(200, exchange.headers, raw, None, events, stream.usage)


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": text}], **more}


def content(events: list[Any], index: int = 0) -> list[str]:
    """The non-empty pieces of one choice."""
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return [piece for choice in choices if (piece := choice["delta"].get("content"))]


def said(document: Any) -> str:
    return str(document["choices"][0]["message"]["content"])


def test_it_fills_both_seams() -> None:
    provider: Provider = PROVIDER
    transport: Transport = PROVIDER
    assert provider.dialect == "demo"
    assert transport.exchange(request_for({})).status == 0


async def test_the_same_question_gets_the_same_answer_streamed_or_not() -> None:
    whole = await ask(chat("Why is the sky blue?"))
    streamed = await ask(chat("Why is the sky blue?", stream=True))
    other = await ask(chat("Why is grass green?"))
    assert "".join(content(streamed.events)) == said(whole.document)
    assert said(whole.document) == said((await ask(chat("Why is the sky blue?"))).document) != said(other.document)
    assert "Why is the sky blue?" in said(whole.document)


async def test_usage_is_exactly_what_was_streamed() -> None:
    whole = await ask(chat("Count me"))
    streamed = await ask(chat("Count me", stream=True))
    assert streamed.usage == whole.usage
    assert streamed.usage is not None
    assert streamed.usage.completion == len(content(streamed.events)) > 10
    assert (streamed.usage.prompt, streamed.usage.cached, streamed.usage.reasoning) == (6, 0, 0)


async def test_its_stream_is_an_openai_stream() -> None:
    events = (await ask(chat("Hi", stream=True))).events
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert {(event["id"], event["model"]) for event in events} == {("chatcmpl-req_1", "gpt-x")}
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    finishes = [event["choices"][0]["finish_reason"] for event in events if event["choices"]]
    assert finishes == [None] * (len(finishes) - 1) + ["stop"]
    assert events[-1]["choices"] == []


async def test_a_client_that_did_not_ask_sees_no_usage() -> None:
    got = await ask(chat("Hi", stream=True), wants_usage=False)
    assert all(event["choices"] and "usage" not in event for event in got.events)
    assert got.usage is not None


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("member", ["max_tokens", "max_completion_tokens"])
async def test_a_cap_on_tokens_is_kept(stream: bool, member: str) -> None:
    got = await ask(chat("Hi", stream=stream, **{member: 7}))
    assert got.usage is not None
    assert got.usage.completion == 7
    last = got.document["choices"][0] if not stream else got.events[-2]["choices"][0]
    assert last["finish_reason"] == "length"


async def test_several_choices_differ_and_are_all_counted() -> None:
    got = await ask(chat("Hi", stream=True, n=3))
    texts = [content(got.events, index) for index in range(3)]
    assert got.usage is not None
    assert got.usage.completion == sum(map(len, texts))
    assert len({"".join(text) for text in texts}) > 1
    whole = await ask(chat("Hi", n=3))
    assert [choice["message"]["content"] for choice in whole.document["choices"]] == ["".join(text) for text in texts]
    assert whole.usage == got.usage


async def test_a_stop_sequence_ends_the_answer_before_it() -> None:
    full = said((await ask(chat("Hi"))).document)
    stopped = await ask(chat("Hi", stop=["demo", "zzz"]))
    assert said(stopped.document) == full.partition("demo")[0]
    assert stopped.document["choices"][0]["finish_reason"] == "stop"


async def test_long_writes_as_many_tokens_as_it_is_told() -> None:
    got = await ask(chat("/long 2000", stream=True))
    assert got.usage is not None
    assert len(content(got.events)) == got.usage.completion == 2000


@pytest.mark.parametrize("status", [400, 429, 500, 503])
async def test_error_answers_with_that_status(status: int) -> None:
    got = await ask(chat(f"/error {status}", stream=True))
    assert got.status == status
    assert set(got.document["error"]) == {"message", "type", "param", "code"}
    assert first(got.headers, b"retry-after") == (b"1" if status in (429, 503) else None)
    told = PROVIDER.error(status, got.headers, got.raw, a_target())
    assert told.status == (status if status < 500 else 502)


@pytest.mark.parametrize(
    "body",
    [
        chat("/error abc"),
        chat("/error 200"),
        chat("/error"),
        chat("/slow -1"),
        chat("/slow nan"),
        chat("/slow 100000"),
        chat("/long 0"),
        chat("/long ٣"),
        chat("/tool"),
        chat("x", max_tokens=0),
        chat("x", n=0),
        chat("/long 100000", n=2),
        chat("x", stop=[1]),
        chat("x", stop=["a"] * 5),
        chat("x", response_format={"type": "poem"}),
        chat("x", tool_choice={"type": "function", "function": {"name": "nope"}}, tools=[TOOL]),
        {"messages": []},
        {"messages": "x"},
        {"messages": ["x"]},
    ],
    ids=lambda body: json.dumps(body)[-60:],
)
async def test_a_request_that_makes_no_sense_is_refused(body: dict[str, Any]) -> None:
    got = await ask(body)
    assert got.status == 400
    assert got.document["error"]["message"]


async def test_a_tool_is_called_with_arguments_that_fit_it() -> None:
    streamed = await ask(chat("/tool", tools=[TOOL], stream=True))
    deltas = [choice["delta"] for event in streamed.events for choice in event["choices"]]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert calls[0] == {
        "index": 0,
        "id": "call_demo_0",
        "type": "function",
        "function": {"name": "weather", "arguments": ""},
    }
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert json.loads(arguments) == {"city": "demo", "days": 2}
    assert streamed.events[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert streamed.usage is not None
    assert streamed.usage.completion == len(calls)
    whole = await ask(chat("/tool", tools=[TOOL]))
    message = whole.document["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"][0]["function"] == {"name": "weather", "arguments": arguments}


async def test_a_tool_without_parameters_is_called_with_an_empty_object() -> None:
    tool = {"type": "function", "function": {"name": "now"}}
    got = await ask(chat("x", tools=[tool], tool_choice="required"))
    assert got.document["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == "{}"


async def test_after_the_tools_answer_it_does_not_call_again() -> None:
    messages = [
        {"role": "user", "content": "/tool"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "tool_call_id": "call_demo_0", "content": "12 degrees"},
    ]
    got = await ask({"messages": messages, "tools": [TOOL]})
    assert "12 degrees" in said(got.document)


async def test_json_mode_gives_json() -> None:
    got = await ask(chat("x", response_format={"type": "json_object"}))
    assert isinstance(json.loads(said(got.document)), dict)


SCHEMA = {
    "type": "object",
    "$defs": {
        "leaf": {"type": ["string", "null"], "minLength": 6},
        "tree": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    },
    "properties": {
        "name": {"$ref": "#/$defs/leaf"},
        "mood": {"enum": ["good", "bad"]},
        "score": {"type": "number", "exclusiveMinimum": 3, "maximum": 9},
        "below": {"type": "integer", "maximum": -5},
        "tags": {"type": "array", "items": {"const": "t"}, "minItems": 2},
        "ok": {"type": "boolean"},
        "when": {"type": "string", "format": "date"},
        "child": {"$ref": "#/$defs/tree"},
        "not_needed": {"type": "string"},
    },
    "required": ["name", "mood", "score", "below", "tags", "ok", "when", "child"],
}


async def test_a_schema_is_met() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
    value = json.loads(said((await ask(chat("x", response_format=form))).document))
    child = value.pop("child")
    assert value == {
        "name": "demooo",
        "mood": "good",
        "score": 4,
        "below": -5,
        "tags": ["t", "t"],
        "ok": True,
        "when": "2026-01-01",
    }
    while child is not None:
        child = child["child"]


async def test_a_schema_without_an_end_is_refused() -> None:
    loop = {"type": "object", "properties": {name: {"$ref": "#"} for name in "abcdefgh"}}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": loop}}
    assert (await ask(chat("x", response_format=form))).status == 400


async def test_completions_work_streamed_and_not_for_every_prompt() -> None:
    body = {"prompt": ["one", "two"], "n": 2, "max_tokens": 5}
    whole = await ask(body, endpoint=COMPLETIONS)
    streamed = await ask({**body, "stream": True}, endpoint=COMPLETIONS)
    assert whole.document["object"] == "text_completion"
    assert len(whole.document["choices"]) == 4
    for choice in whole.document["choices"]:
        pieces = [c["text"] for e in streamed.events for c in e["choices"] if c["index"] == choice["index"]]
        assert "".join(pieces) == choice["text"]
    assert whole.usage == streamed.usage == Usage(2, 20, 0, 0)


async def test_embeddings_are_unit_vectors_the_same_in_both_encodings() -> None:
    body = {"input": ["hello", "hello", "world"], "dimensions": 64}
    floats = await ask(body, endpoint=EMBEDDINGS)
    packed = await ask({**body, "encoding_format": "base64"}, endpoint=EMBEDDINGS)
    vectors = [item["embedding"] for item in floats.document["data"]]
    assert [item["index"] for item in floats.document["data"]] == [0, 1, 2]
    assert vectors[0] == vectors[1] != vectors[2]
    assert all(math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-5) for vector in vectors)
    unpacked = [struct.unpack("<64f", base64.b64decode(item["embedding"])) for item in packed.document["data"]]
    assert [list(vector) for vector in unpacked] == vectors
    assert floats.usage == packed.usage == Usage(6, 0)


@pytest.mark.parametrize(("given", "count"), [("x", 1), ([1, 2, 3], 1), ([[1, 2], [3]], 2), (["a", "b"], 2)])
async def test_embeddings_take_text_and_tokens(given: Any, count: int) -> None:
    got = await ask({"input": given}, endpoint=EMBEDDINGS)
    assert [len(item["embedding"]) for item in got.document["data"]] == [256] * count


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": []},
        {"input": ""},
        {"input": [True]},
        {"input": "x", "dimensions": 0},
        {"input": "x", "dimensions": 10**6},
        {"input": "x", "encoding_format": "int8"},
        {"input": ["a"] * 3000},
    ],
    ids=lambda body: json.dumps(body)[:40],
)
async def test_bad_embedding_requests_are_refused(body: dict[str, Any]) -> None:
    assert (await ask(body, endpoint=EMBEDDINGS)).status == 400


async def test_other_operations_do_not_exist() -> None:
    request = request_for(chat("x"))
    request.target = b"/images/variations"
    exchange = PROVIDER.exchange(request)
    await exchange.start()
    assert exchange.status == 404


async def test_cut_breaks_the_stream_after_so_many_tokens() -> None:
    body = chat("/cut 5", stream=True)
    exchange = PROVIDER.exchange(request_for(body))
    await exchange.start()
    stream = PROVIDER.stream(a_call(body), a_target())
    told = b"".join([stream.feed(await exchange.read()) for _ in range(6)])
    assert told.count(b"data:") == 6
    with pytest.raises(UpstreamFailure) as caught:
        await exchange.read()
    assert caught.value.kind == "cut"
    with pytest.raises(GatewayError):
        stream.finish()


@pytest.mark.parametrize("stream", [True, False])
async def test_stall_falls_silent_until_the_idle_deadline(stream: bool) -> None:
    exchange = PROVIDER.exchange(request_for(chat("/stall 2", stream=stream), deadlines=Deadlines(idle=0.05)))
    await exchange.start()
    with pytest.raises(UpstreamFailure) as caught:
        await read_all(exchange)
    assert caught.value.kind == "idle_timeout"


async def test_slow_waits_before_the_first_byte() -> None:
    started = time.monotonic()
    exchange = PROVIDER.exchange(request_for(chat("/slow 0.2 /long 3")))
    await exchange.start()
    assert time.monotonic() - started >= 0.19
    assert json.loads(await read_all(exchange))["usage"]["completion_tokens"] == 3


async def test_slow_keeps_to_the_first_byte_deadline() -> None:
    exchange = PROVIDER.exchange(request_for(chat("/slow 5"), deadlines=Deadlines(first_byte=0.02)))
    with pytest.raises(UpstreamFailure) as caught:
        await exchange.start()
    assert caught.value.kind == "first_byte_timeout"


async def test_streams_keep_their_pace() -> None:
    exchange = PROVIDER.exchange(request_for(chat("/long 10", stream=True), pace=100))
    started = time.monotonic()
    await exchange.start()
    await read_all(exchange)
    assert time.monotonic() - started >= 0.09


@pytest.mark.parametrize("command", ["/slow 500", "/stall 0"])
async def test_closing_ends_a_wait_at_once(command: str) -> None:
    exchange = PROVIDER.exchange(request_for(chat(command, stream=True)))

    async def run() -> None:
        await exchange.start()
        await read_all(exchange)

    running = asyncio.create_task(run())
    await asyncio.sleep(0.02)
    assert not running.done()
    exchange.close()
    exchange.close()
    with pytest.raises(UpstreamFailure) as caught:
        await asyncio.wait_for(running, 5)
    assert caught.value.kind == "aborted"


async def test_after_closing_nothing_is_read() -> None:
    exchange = PROVIDER.exchange(request_for(chat("Hi", stream=True)))
    await exchange.start()
    assert await exchange.read()
    exchange.close()
    with pytest.raises(UpstreamFailure):
        await exchange.read()


async def test_a_cancelled_wait_leaves_no_timer_behind() -> None:
    exchange = PROVIDER.exchange(request_for(chat("/slow 500")))
    running = asyncio.create_task(exchange.start())
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert exchange._sleeper is None


async def fetched(endpoint: Inference, **body: Any) -> tuple[int, bytes]:
    """What comes back on an endpoint for other things than texts."""
    exchange = PROVIDER.exchange(request_for({"model": "demo", **body}, endpoint=endpoint))
    await exchange.start()
    return exchange.status, await read_all(exchange)


async def test_the_same_prompt_gives_the_same_picture_and_another_another() -> None:
    async def pictures(prompt: str) -> list[str]:
        _, raw = await fetched(IMAGES, prompt=prompt, n=2)
        return [each["b64_json"] for each in json.loads(raw)["data"]]

    one, same, other = [await pictures(prompt) for prompt in ("boat", "boat", "tree")]
    assert one == same
    assert len({*one, *other}) == 4


async def test_speech_is_a_sound_of_the_length_of_its_text() -> None:
    _, raw = await fetched(SPEECH, input="Good evening")
    with wave.open(io.BytesIO(raw)) as sound:
        assert (sound.getframerate(), sound.getnframes()) == (8_000, 12 * 400)
        assert len(set(sound.readframes(400))) > 20, "a tone"
    _, plain = await fetched(SPEECH, input="Good evening", response_format="pcm")
    assert raw.endswith(plain)
    assert len(plain) == 12 * 400


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (IMAGES, {"prompt": "/error 429 x"}),
        (SPEECH, {"input": "/error 429 x"}),
        (HEARING, {"prompt": "/error 429", "file": {"bytes": 1}}),
        (MODERATIONS, {"input": "/error 429 x"}),
        (RERANK, {"query": "/error 429 x", "documents": ["a"]}),
    ],
    ids=lambda value: value.name if isinstance(value, Inference) else "",
)
async def test_every_endpoint_obeys_commands(endpoint: Inference, body: dict[str, Any]) -> None:
    assert (await fetched(endpoint, **body))[0] == 429


async def test_a_sound_breaks_off_or_falls_silent_where_it_is_told_to() -> None:
    broken = PROVIDER.exchange(request_for({"model": "demo", "input": "/cut 2 x y z"}, endpoint=SPEECH))
    await broken.start()
    assert len([await broken.read() for _ in range(2)]) == 2
    with pytest.raises(UpstreamFailure) as cut:
        await broken.read()
    assert cut.value.kind == "cut"
    silent = request_for({"model": "demo", "input": "/stall 1 x y z"}, endpoint=SPEECH, deadlines=Deadlines(idle=0.05))
    exchange = PROVIDER.exchange(silent)
    await exchange.start()
    await exchange.read()
    with pytest.raises(UpstreamFailure) as stalled:
        await exchange.read()
    assert stalled.value.kind == "idle_timeout"


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (IMAGES, {"prompt": "x", "n": 11}),
        (SPEECH, {"input": "x", "response_format": "mp3"}),
        (HEARING, {"file": "x"}),
        (HEARING, {"file": {"bytes": 1}, "response_format": "docx"}),
        (MODERATIONS, {"input": [7]}),
        (RERANK, {"query": "", "documents": ["a"]}),
        (RERANK, {"query": "a", "documents": []}),
    ],
)
async def test_what_makes_no_sense_to_an_endpoint_is_refused(endpoint: Inference, body: dict[str, Any]) -> None:
    assert (await fetched(endpoint, **body))[0] == 400

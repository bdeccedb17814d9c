"""Answers of OpenAI's endpoints for images, sound and rankings: what passes, and what is read out of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.core.call import Call, Demand
from gateway.core.deployment import Model, Target
from gateway.core.endpoint import Inference
from gateway.core.errors import GatewayError
from gateway.core.money import Price, PriceSchedule, Unit
from gateway.core.usage import Usage
from gateway.endpoints import audio_speech, audio_transcriptions, images_generations, rerank
from providers._media import MediaEvents, Passed, passing, read_media
from tests.providers.calls import a_call, a_target

IMAGES, SPEECH = images_generations.ENDPOINT, audio_speech.ENDPOINT
HEARING, RERANK = audio_transcriptions.ENDPOINT, rerank.ENDPOINT
UNITS: dict[str, Unit] = {
    IMAGES.name: "image",
    SPEECH.name: "character",
    HEARING.name: "second",
    RERANK.name: "search",
}
EACH = Price(per_image=1, per_minute=1, per_million_characters=1, per_search=1)


def asked(endpoint: Inference, *, most: int = 9, likely: int = 4, **members: Any) -> Call:
    demand = Demand(likely_prompt=40, unit=UNITS[endpoint.name], units=most, likely_units=likely)
    return a_call({"model": "gpt-x", **members}, endpoint=endpoint, demand=demand)


def sold(price: Price = EACH) -> Target:
    return replace(a_target(), model=Model("gpt-x", "X", frozenset({"user"}), PriceSchedule(((0.0, price),))))


def read(endpoint: Inference, document: Any, price: Price = EACH) -> Usage:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    answer = read_media(asked(endpoint), sold(price), body)
    assert answer.body == body
    assert answer.usage is not None
    return answer.usage


TOKENS = {"input_tokens": 50, "output_tokens": 4160, "total_tokens": 4210, "input_tokens_details": {"text_tokens": 50}}


@pytest.mark.parametrize(
    ("endpoint", "document", "expected"),
    [
        (IMAGES, {"created": 1, "data": [{"b64_json": "AA"}, {"url": "u"}]}, Usage(0, 0, units=2)),
        (IMAGES, {"data": [{}], "usage": TOKENS}, Usage(50, 4160, units=1)),
        (IMAGES, {"created": 1}, Usage(0, 0, units=4, source="estimated")),
        (HEARING, {"text": "hi", "usage": {"type": "duration", "seconds": 61}}, Usage(0, 0, units=61)),
        (HEARING, {"text": "hi", "duration": 8.470000267}, Usage(0, 0, units=9)),
        (HEARING, {"text": "hi", "usage": {"type": "tokens", **TOKENS}}, Usage(50, 4160, units=4, source="estimated")),
        (
            HEARING,
            {"text": "hi", "usage": {"prompt_audio_seconds": 203, "prompt_tokens": 4, "completion_tokens": 6}},
            Usage(4, 6, units=203),
        ),
        (HEARING, {"text": None, "duration": "long"}, Usage(0, 0, units=4, source="estimated")),
        (HEARING, {"text": "hi", "duration": -1}, Usage(0, 0, units=4, source="estimated")),
        (HEARING, {"text": "hi", "duration": 1e300}, Usage(0, 0, units=4, source="estimated")),
        (RERANK, {"results": [], "meta": {"billed_units": {"search_units": 2.0}}}, Usage(0, 0, units=2)),
        (RERANK, {"results": [], "usage": {"total_tokens": 815}}, Usage(815, 0, units=4, source="estimated")),
        (RERANK, {"results": [], "meta": {"billed_units": []}}, Usage(0, 0, units=4, source="estimated")),
        (RERANK, {"results": [], "usage": {"total_tokens": True}}, Usage(0, 0, units=4, source="estimated")),
    ],
)
def test_tokens_and_units_are_read_as_they_are_told(endpoint: Inference, document: Any, expected: Usage) -> None:
    assert read(endpoint, document) == expected._replace(unit=UNITS[endpoint.name])


def test_a_model_sold_by_the_token_is_charged_for_the_text_it_wrote() -> None:
    usage = read(HEARING, {"text": "x" * 400}, Price(6_000_000, 10_000_000))
    assert (usage.prompt, usage.source) == (40, "estimated")
    assert 100 <= usage.completion <= 101


@pytest.mark.parametrize("endpoint", [IMAGES, HEARING, RERANK])
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff", b'{"data": 7', b'{"data": {}, "meta": [], "usage":'])
def test_what_cannot_be_read_is_a_502(endpoint: Inference, body: bytes) -> None:
    with pytest.raises(GatewayError) as broken:
        read_media(asked(endpoint), sold(), body)
    assert broken.value.status == 502


def test_an_error_under_status_200_is_an_error() -> None:
    with pytest.raises(GatewayError, match="policy"):
        read(IMAGES, {"error": {"message": "against the policy", "type": "invalid_request_error"}})


@pytest.mark.parametrize(
    ("kind", "reader"),
    [
        (b"audio/mpeg", Passed),
        (b"text/plain; charset=utf-8", Passed),
        (b"application/octet-stream", Passed),
        (b"text/event-stream; charset=utf-8", MediaEvents),
        (b"application/json; charset=utf-8", type(None)),
    ],
)
def test_the_content_type_says_how_an_answer_is_read(kind: bytes, reader: type) -> None:
    assert type(passing(asked(SPEECH), sold(), [(b"content-type", kind)])) is reader


def test_sound_passes_byte_by_byte_and_is_metered_at_its_end() -> None:
    stream = Passed(asked(SPEECH, most=12, likely=12), sold())
    sound = bytes(range(256))
    assert b"".join(stream.feed(sound[at : at + 1]) for at in range(256)) == sound
    assert (stream.begun, stream.complete, stream.usage) == (True, False, None)
    assert stream.finish() == b""
    assert stream.usage == Usage(0, 0, units=12, unit="character")
    assert stream.failure(GatewayError(502, "x", "x"), "r") == b"", "nothing can be said inside a sound"


def test_sound_that_broke_off_has_produced_something_only_once_it_began() -> None:
    stream = Passed(asked(SPEECH, likely=100), sold())
    assert stream.produced() == 0
    stream.feed(b"x")
    assert stream.produced() == 140


def event(kind: str, *, named: bool = True, **members: Any) -> bytes:
    line = f"event: {kind}\n".encode() if named else b""
    return line + b"data: " + json.dumps({"type": kind, **members}).encode() + b"\n\n"


PICTURE = "A" * 300
TEXT_TOKENS = {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59}
STREAMS: dict[str, tuple[Inference, bytes, Usage]] = {
    "two images": (
        IMAGES,
        event("image_generation.partial_image", b64_json=PICTURE, partial_image_index=0)
        + event("image_generation.completed", b64_json=PICTURE, usage=TOKENS)
        + event("image_generation.completed", b64_json=PICTURE, usage=TOKENS),
        Usage(100, 8320, units=2, unit="image"),
    ),
    "a transcript": (
        HEARING,
        event("transcript.text.delta", named=False, delta='Hé "error": {}')
        + event("transcript.text.done", named=False, text='Hé "error": {}', usage=TEXT_TOKENS)
        + b"data: [DONE]\n\n",
        Usage(14, 45, units=4, unit="second", source="estimated"),
    ),
    "a transcript by the second": (
        HEARING,
        b": hello\n\n"
        + event("transcript.text.delta", delta="Hi")
        + event("transcript.text.done", text="Hi", usage={"type": "duration", "seconds": 7}),
        Usage(0, 0, units=7, unit="second"),
    ),
    "Mistral's transcript": (
        HEARING,
        event("transcription.text.delta", text="Hi")
        + event(
            "transcription.done",
            text="Hi",
            usage={"prompt_audio_seconds": 3, "prompt_tokens": 4, "completion_tokens": 5},
        ),
        Usage(4, 5, units=3, unit="second"),
    ),
    "sound": (
        SPEECH,
        event("speech.audio.delta", audio=PICTURE) + event("speech.audio.done", usage=TOKENS),
        Usage(50, 4160, units=4, unit="character", source="estimated"),
    ),
    "CRLF": (
        SPEECH,
        (event("speech.audio.delta", audio=PICTURE) + event("speech.audio.done")).replace(b"\n", b"\r\n"),
        Usage(0, 0, units=4, unit="character", source="estimated"),
    ),
}


@pytest.mark.parametrize(("endpoint", "sent", "usage"), STREAMS.values(), ids=STREAMS)
def test_events_pass_unchanged_wherever_they_are_cut(endpoint: Inference, sent: bytes, usage: Usage) -> None:
    for cut in range(len(sent) + 1):
        stream = MediaEvents(asked(endpoint), sold())
        passed = [stream.feed(piece) for piece in (sent[:cut], sent[cut:]) if piece]
        if not stream.complete:
            passed.append(stream.finish())
        assert b"".join(passed) == sent, cut
        assert stream.complete
        assert stream.usage == usage


@pytest.mark.parametrize(("endpoint", "sent", "usage"), STREAMS.values(), ids=STREAMS)
def test_events_pass_unchanged_byte_by_byte_and_the_end_waits_for_the_end(
    endpoint: Inference, sent: bytes, usage: Usage
) -> None:
    stream = MediaEvents(asked(endpoint), sold())
    passed = b""
    for at in range(len(sent)):
        passed += stream.feed(sent[at : at + 1])
        assert not stream.usage or stream.complete
    done = passed.count(b".done") + passed.count(b".completed")
    assert stream.complete or done < sent.count(b".done") + sent.count(b".completed"), "the last one waits"
    passed += b"" if stream.complete else stream.finish()
    assert (passed, stream.usage) == (sent, usage)


@pytest.mark.parametrize(("endpoint", "sent", "usage"), STREAMS.values(), ids=STREAMS)
def test_an_answer_without_its_end_is_a_failure(endpoint: Inference, sent: bytes, usage: Usage) -> None:
    last = sent.removesuffix(b"data: [DONE]\n\n")
    for cut in range(last.rstrip().rfind(b"data:"), len(last.rstrip()) - 1, 7):
        stream = MediaEvents(asked(endpoint), sold())
        stream.feed(sent[:cut])
        if b"completed" in sent[:cut]:
            continue  # the first of two images came
        with pytest.raises(GatewayError, match=r"broke off|cannot be read"):
            stream.finish()


@pytest.mark.parametrize(
    "broken",
    [
        b'event: error\ndata: {"type":"error","error":{"message":"overloaded","code":"server_error"}}\n\n',
        b'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n',
    ],
)
def test_an_error_in_band_is_raised(broken: bytes) -> None:
    stream = MediaEvents(asked(IMAGES), sold())
    stream.feed(event("image_generation.partial_image", b64_json=PICTURE))
    with pytest.raises(GatewayError, match="overloaded"):
        stream.feed(broken)


def test_an_event_without_an_end_is_given_up() -> None:
    stream = MediaEvents(asked(IMAGES), sold())
    piece = b"data: " + b"A" * 2**20
    assert not any(stream.feed(piece) for _ in range(63))
    with pytest.raises(GatewayError, match="cannot be read"):
        stream.feed(piece)

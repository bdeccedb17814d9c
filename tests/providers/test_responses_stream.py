"""What a client gets of a streamed response, however it arrives and wherever it breaks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.errors import GatewayError, upstream_error
from gateway.core.usage import Usage
from gateway.endpoints import responses
from providers._passing import HOLD
from providers._responses_reader import ResponsesStream
from providers.openai import PROVIDER
from tests.providers.calls import KEY, a_call, a_target
from tests.providers.responses_streams import RECORDED, TEXT, USAGE, Recorded, numbered, response, text_events, wire
from tests.support.responses_events import check, events_of

EVERY = pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded.name)


def reader() -> ResponsesStream:
    return ResponsesStream(a_target())


def in_pieces(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


def read_to_the_error(stream: ResponsesStream, packets: list[bytes]) -> tuple[bytes, GatewayError]:
    sent = b""
    try:
        for packet in packets:
            sent += stream.feed(packet)
        sent += stream.finish()
    except GatewayError as error:
        return sent, error
    raise AssertionError("no error was raised")


def test_the_provider_reads_responses_where_the_endpoint_asks_for_them() -> None:
    call = a_call({"model": "m", "input": "Hi", "stream": True}, endpoint=responses.ENDPOINT)
    stream = PROVIDER.stream(call, a_target())
    assert isinstance(stream, ResponsesStream)


@EVERY
def test_every_byte_passes_wherever_the_stream_is_cut_and_the_usage_is_read(recorded: Recorded) -> None:
    body = recorded.body
    for cut in range(len(body) + 1):
        stream = reader()
        passed = stream.feed(body[:cut]) + stream.feed(body[cut:])
        assert passed == body
        assert (stream.usage, stream.complete, stream.begun) == (recorded.usage, True, True)


@EVERY
@pytest.mark.parametrize("size", [1, 7, 64])
def test_nor_does_it_matter_how_small_the_pieces_are(recorded: Recorded, size: int) -> None:
    stream = reader()
    assert b"".join(map(stream.feed, in_pieces(recorded.body, size))) == recorded.body
    assert (stream.usage, stream.complete) == (recorded.usage, True)


def test_what_keeps_its_body_open_after_the_last_event_is_let_go_and_nothing_more_passes() -> None:
    stream = reader()
    body = wire(*text_events("Hi"))
    assert stream.feed(body + b"data: [DONE]\n\n" + body) == body
    assert stream.complete
    assert stream.feed(body) == b""
    assert stream.finish() == b""


def test_a_last_event_that_only_the_end_of_the_body_has_ended_is_one() -> None:
    stream = reader()
    body = wire(*text_events("Hi"))
    assert stream.feed(body[:-2]) + stream.finish() == body[:-2] + b"\n\n"
    assert stream.complete


def test_the_answer_has_begun_with_its_first_delta() -> None:
    stream = reader()
    events = text_events("Hi")
    stream.feed(wire(*events[:4]))
    assert not stream.begun
    stream.feed(wire(events[4]))
    assert stream.begun


@pytest.mark.parametrize("events", [0, 1, 2, 5, 8])
@pytest.mark.parametrize("extra", [b"", b"event: response.completed\nda", b"data: [DONE]\n\n"])
def test_a_premature_end_is_an_error_and_told_as_a_failed_response_with_the_next_number(
    events: int, extra: bytes
) -> None:
    sent = text_events("Hel", "lo")[:events]
    stream = reader()
    passed, error = read_to_the_error(stream, [wire(*sent) + extra])
    assert error.code == "upstream_error"
    assert not stream.complete
    told = events_of(passed + stream.failure(error, "r1"))
    assert told[:-1] == sent
    check(told)
    failed = told[-1]["response"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    assert failed["id"] == (response()["id"] if sent else "resp_r1")


def test_a_failed_response_is_raised_for_the_books_and_reaches_the_client_as_its_own() -> None:
    failed = {"error": {"code": "rate_limit_exceeded", "message": f"Slow down, {KEY}."}, "output": [], "usage": USAGE}
    events = text_events("Hi", end="failed", **failed)
    stream = reader()
    body = wire(*events)
    passed, error = read_to_the_error(stream, in_pieces(body, 50))
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert stream.usage == Usage(7, 3, 0, 2)
    told = events_of(passed + stream.failure(error, "r1"))
    check(told)
    assert told[:-1] == events[:-1]
    assert told[-1]["response"]["usage"] == USAGE
    assert told[-1]["response"]["error"]["code"] == "rate_limit_exceeded"
    assert KEY not in told[-1]["response"]["error"]["message"]


ERRORS = {
    "flat": {"type": "error", "code": "rate_limit_exceeded", "message": "slow down", "param": None},
    "nested": {"type": "error", "error": {"type": "rate_limit_error", "code": None, "message": "slow down"}},
}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("shape", ERRORS)
def test_an_error_event_is_raised_and_told_as_a_failed_response(shape: str, named: bool) -> None:
    events = numbered([*text_events("Hi")[:5], ERRORS[shape]])
    for size in (50, 10**6):
        stream = reader()
        passed, error = read_to_the_error(stream, in_pieces(wire(*events, named=named), size))
        assert (error.status, error.message) == (429, "slow down")
        told = passed + stream.failure(error, "r1")
        assert told.startswith(wire(*events[:-1], named=named))
        check(events_of(wire(*events[:-1]) + told.removeprefix(wire(*events[:-1], named=named))))


FIRST = {
    "error body": (b'{"error":{"message":"no","type":"invalid_request_error","code":null}}', 400, "no"),
    "error data": (b'data: {"error":{"message":"no","code":"invalid_request"}}\n\n', 400, "no"),
    "HTML": (b"<html>secret place</html>", 502, "cannot be read"),
    "text": (b"data: Internal Server Error\n\n", 502, "cannot be read"),
    "chat": (b'data: {"id":"c","choices":[]}\n\n', 502, "cannot be read"),
    "a list": (b"data: []\n\n", 502, "cannot be read"),
    "FastAPI": (b'data: {"message":"no such thing"}\n\n', 502, "no such thing"),
    "done": (b"data: [DONE]\n\n", 502, "broke off"),
    "nothing": (b"", 502, "broke off"),
}


@pytest.mark.parametrize("size", [1, 10**6])
@pytest.mark.parametrize("name", FIRST)
def test_what_is_no_stream_of_responses_is_known_before_anything_is_sent(name: str, size: int) -> None:
    body, status, words = FIRST[name]
    sent, error = read_to_the_error(reader(), in_pieces(body, size))
    assert (sent, error.status) == (b"", status)
    assert words in error.message


BROKEN: list[Any] = [None, 1, "x", [], {}, {"usage": 7}, {"usage": {"input_tokens": -1}}, {"error": [1]}]


@pytest.mark.parametrize("end", ["completed", "incomplete", "failed"])
@pytest.mark.parametrize("broken", BROKEN, ids=repr)
def test_no_last_event_however_broken_is_more_than_an_error(end: str, broken: Any) -> None:
    stream = reader()
    stream.feed(wire(*text_events("Hi")[:4]))
    event = wire({"type": f"response.{end}", "sequence_number": 4, "response": broken})
    if isinstance(broken, dict) and end != "failed":
        assert stream.feed(event) == event
        assert stream.usage is None
        return
    with pytest.raises(GatewayError) as raised:
        stream.feed(event)
    assert raised.value.status == 502
    assert stream.usage is None


@pytest.mark.parametrize("name", ["completed", "failed", "output_text.delta"])
def test_broken_json_in_the_middle_is_no_defect_of_ours(name: str) -> None:
    stream = reader()
    stream.feed(wire(*text_events("Hi")[:4]))
    with pytest.raises(GatewayError, match="cannot be read"):
        stream.feed(b"event: response." + name.encode() + b'\ndata: {"response.completed\n\n')


@pytest.mark.parametrize("size", [1_000, 65_536, 10**7])
@pytest.mark.parametrize("named", [True, False])
def test_a_last_event_of_megabytes_passes_in_pieces_and_its_usage_is_read(size: int, named: bool) -> None:
    body = wire(*text_events("Hel", TEXT * 20_000), named=named)
    stream = reader()
    held = 0
    out = []
    for packet in in_pieces(body, size):
        out.append(stream.feed(packet))
        held = max(held, len(stream._held))
    assert b"".join(out) == body
    assert (stream.usage, stream.complete) == (Usage(7, 3, 0, 2), True)
    assert held <= HOLD + size


def test_a_first_event_of_megabytes_says_whose_response_failed() -> None:
    created, *rest = text_events("Hi", end="")
    created["response"]["instructions"] = "x" * 300_000
    stream = reader()
    sent = b"".join(map(stream.feed, in_pieces(wire(created, *rest), 4_096)))
    assert sent == wire(created, *rest)
    told = events_of(sent + stream.failure(upstream_error("gone"), "r1"))
    check(told)
    assert told[-1]["response"]["id"] == created["response"]["id"]


def test_a_client_that_has_a_part_of_an_event_gets_its_end_before_the_failure() -> None:
    stream = reader()
    sent = stream.feed(wire(*text_events("Hi", end="")))
    sent += stream.feed(b'event: response.image_generation_call.partial_image\ndata: {"b64":"' + b"A" * 2 * HOLD)
    with pytest.raises(GatewayError) as raised:
        stream.finish()
    told = (sent + stream.failure(raised.value, "r1")).split(b"\n\n")
    assert json.loads(told[-2].partition(b"data: ")[2])["type"] == "response.failed"
    assert told[-3].endswith(b"A")


def test_an_answer_without_usage_is_estimated_by_its_deltas() -> None:
    stream = reader()
    stream.feed(wire(*text_events(*[" abc"] * 200, end="")))
    assert 190 <= stream.produced() <= 210
    stream = reader()
    stream.feed(wire(*text_events("a" * 400, "b" * 400, end="")))
    assert stream.produced() == 200


def test_nothing_said_is_nothing_produced() -> None:
    stream = reader()
    assert stream.produced() == 0
    stream.feed(wire(*text_events("Hi", end="")[:4]))
    assert stream.produced() == 0

"""What a client gets of a streamed answer, however it arrives."""

from __future__ import annotations

import itertools
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import GatewayError
from gateway.core.usage import Usage
from providers._passing import HOLD
from providers._reader import DONE, OpenAIStream
from providers.openai import PROVIDER
from tests.providers.calls import a_call, a_target
from tests.providers.streams import HEY, RECORDED, ROLE, STOP, USAGE, Recorded, chunk, lf, report

EVERY = pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded.name)


def reader(*, keep_usage: bool = False, choices: int = 1) -> OpenAIStream:
    return OpenAIStream(a_target(), keep_usage=keep_usage, choices=choices)


def read(stream: OpenAIStream, *chunks: bytes) -> bytes:
    return b"".join(map(stream.feed, chunks)) + stream.finish()


def read_to_the_error(stream: OpenAIStream, packets: list[bytes]) -> tuple[bytes, GatewayError]:
    """What was passed on before the reader raised."""
    sent = b""
    try:
        for packet in packets:
            sent += stream.feed(packet)
        sent += stream.finish()
    except GatewayError as error:
        return sent, error
    raise AssertionError("no error was raised")


def in_pieces(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


@EVERY
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10**6])
def test_usage_that_was_not_asked_for_is_read_and_hidden(recorded: Recorded, size: int) -> None:
    stream = reader()
    assert read(stream, *in_pieces(recorded.arrives, size)) == recorded.hidden
    assert (stream.usage, stream.complete) == (recorded.usage, True)


@EVERY
@pytest.mark.parametrize("size", [1, 5, 10**6])
def test_usage_that_was_asked_for_passes_and_every_byte_stays(recorded: Recorded, size: int) -> None:
    stream = reader(keep_usage=True)
    assert read(stream, *in_pieces(recorded.arrives, size)) == recorded.arrives
    assert (stream.usage, stream.complete) == (recorded.usage, True)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(RECORDED), st.data(), st.booleans())
def test_where_a_stream_is_cut_into_packets_makes_no_difference(
    recorded: Recorded, data: st.DataObject, keep: bool
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(recorded.arrives)), max_size=12)))
    edges = [0, *cuts, len(recorded.arrives)]
    stream = reader(keep_usage=keep)
    packets = [recorded.arrives[a:b] for a, b in itertools.pairwise(edges)]
    assert read(stream, *packets) == (recorded.arrives if keep else recorded.hidden)
    assert stream.usage == recorded.usage


def test_one_event_per_packet_is_passed_at_once() -> None:
    stream = reader()
    for payload in (ROLE, HEY, STOP):
        packet = lf(payload, done=False)
        assert stream.feed(packet) == packet


def test_an_event_reaches_the_client_as_soon_as_it_is_whole() -> None:
    stream = reader()
    packet = lf(HEY, done=False)
    assert stream.feed(packet[:-1]) == b""
    assert stream.feed(packet[-1:] + b"data: {") == packet


def test_nothing_passes_after_done() -> None:
    stream = reader()
    assert stream.feed(lf(ROLE, STOP) + lf(HEY)) == lf(ROLE, STOP)
    assert stream.complete
    assert stream.feed(lf(HEY)) == b""
    assert stream.finish() == b""


@pytest.mark.parametrize("ending", [b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]\r\n"])
def test_done_without_a_blank_line_is_done(ending: bytes) -> None:
    stream = reader()
    out = read(stream, lf(ROLE, STOP, done=False) + ending)
    assert out.startswith(lf(ROLE, STOP, done=False) + ending)
    assert out.endswith(b"\n")
    assert out.replace(b"\r", b"").endswith(b"[DONE]\n\n")
    assert stream.complete


@pytest.mark.parametrize("size", [1, 11, 10**6])
def test_a_stream_that_finished_without_done_is_given_one(size: int) -> None:
    stream = reader()
    body = lf(ROLE, HEY, STOP, report(USAGE), done=False)
    assert read(stream, *in_pieces(body, size)) == lf(ROLE, HEY, STOP)
    assert stream.complete
    assert stream.usage == Usage(7, 3)


def test_comments_after_the_finish_do_not_make_it_forgotten() -> None:
    stream = reader()
    assert read(stream, lf(ROLE, STOP, done=False), *[b": ping\n\n"] * 20).endswith(DONE)


@pytest.mark.parametrize(
    "body",
    [lf(ROLE, HEY, done=False), lf(ROLE, HEY, done=False) + b'data: {"choices":[{"delta', b"", b": ping\n\n"],
    ids=["between events", "inside an event", "nothing", "only a comment"],
)
def test_a_cut_is_never_made_to_look_like_an_end(body: bytes) -> None:
    stream = reader()
    assert stream.feed(body) in (b"", lf(ROLE, HEY, done=False))
    with pytest.raises(GatewayError) as caught:
        stream.finish()
    assert (caught.value.status, caught.value.code) == (502, "upstream_error")
    assert not stream.complete


def test_two_choices_must_both_have_finished() -> None:
    one = reader(choices=2)
    one.feed(lf(ROLE, STOP, done=False))
    with pytest.raises(GatewayError):
        one.finish()
    both = reader(choices=2)
    assert read(both, lf(ROLE, STOP, STOP, done=False)).endswith(DONE)


def test_a_cut_inside_the_usage_report_of_a_finished_answer_costs_only_the_report() -> None:
    stream = reader()
    assert read(stream, lf(ROLE, STOP, done=False) + b'data: {"choices":[],"usage":{"pro') == lf(ROLE, STOP)
    assert stream.usage is None


def test_the_last_usage_counts_and_one_that_cannot_be_true_does_not() -> None:
    bad = ['{"prompt_tokens":-1,"completion_tokens":2}', '{"prompt_tokens":true,"completion_tokens":2}']
    bad += ['{"prompt_tokens":1e300,"completion_tokens":2}', '{"prompt_tokens":1.5,"completion_tokens":2}', "{}"]
    stream = reader()
    first, last = '{"prompt_tokens":1,"completion_tokens":1}', '{"prompt_tokens":0,"completion_tokens":0}'
    out = read(stream, lf(ROLE, report(first), report(last), *map(report, bad), STOP))
    assert out == lf(ROLE, STOP)
    assert stream.usage == Usage(0, 0)


@pytest.mark.parametrize("size", [1_000, 65_536, 10**7])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_an_event_of_megabytes_goes_through_in_pieces(size: int, newline: bytes) -> None:
    giant = chunk('{"content":"' + "x" * 3_000_000 + '"}')
    body = lf(ROLE, giant, HEY, STOP, report(USAGE)).replace(b"\n", newline)
    stream = reader()
    held = given_out = 0
    out = []
    for packet in in_pieces(body, size):
        out.append(stream.feed(packet))
        given_out += len(out[-1])
        held = max(held, len(stream._held))
    assert b"".join(out) + stream.finish() == lf(ROLE, giant, HEY, STOP).replace(b"\n", newline)
    assert held <= HOLD
    assert stream.usage == Usage(7, 3)


def test_a_giant_event_that_never_ends_is_a_cut() -> None:
    stream = reader()
    stream.feed(lf(ROLE, done=False))
    assert stream.feed(b'data: {"choices":[{"finish_reason":"stop","x":"' + b"x" * HOLD) != b""
    with pytest.raises(GatewayError):
        stream.finish()


def test_text_about_errors_and_markers_is_only_text() -> None:
    said = chunk(json.dumps({"content": 'data: [DONE]\n\nevent: error\n{"error":{"message":"x"},"usage":{"a":1}}'}))
    word = chunk('{"content":"error"}')
    stream = reader()
    assert read(stream, lf(ROLE, said, word, STOP)) == lf(ROLE, said, word, STOP)
    assert stream.usage is None


FIRST_ERRORS = {
    "OpenAI": (b'data: {"error":{"message":"slow down","type":"rate_limit_error","code":null}}\n\n', 429, "slow down"),
    "spaced": (b'data: { "error" : {"message":"no","code":400}}\n\n', 400, "no"),
    "vLLM": (b'data: {"object":"error","message":"bad","type":"BadRequestError","code":400}\n\n', 400, "bad"),
    "event": (b'event: error\ndata: {"message":"boom"}\n\n', 502, "boom"),
    "string": (b'data: {"error":"model is loading"}\n\n', 502, "model is loading"),
    "FastAPI": (b'data: {"detail":"no such thing"}\n\n', 502, "no such thing"),
    "JSON body": (b'{"error":{"message":"too much","type":"insufficient_quota"}}', 429, "too much"),
    "pretty JSON body": (b'{\n  "error": {"message": "odd", "code": "bad_request"}\n}\n', 400, "odd"),
    "HTML": (b"<!DOCTYPE html>\n\n<html><body>secret place</body></html>", 502, "cannot be read"),
    "not a stream": (b'{"id":"c1","choices":[]}', 502, "cannot be read"),
    "text event": (b"data: Internal Server Error\n\n", 502, "cannot be read"),
    "HTML of a megabyte": (b"<html>" + b"x" * 1_000_000, 502, "cannot be read"),
    "giant error": (b'data: {"error":{"message":"' + b"x" * 100_000, 502, "cannot be read"),
}


@pytest.mark.parametrize("size", [1, 9, 10**7])
@pytest.mark.parametrize("name", FIRST_ERRORS)
def test_an_error_in_place_of_a_stream_is_known_before_anything_is_sent(name: str, size: int) -> None:
    body, status, words = FIRST_ERRORS[name]
    if size == 1 and len(body) > 100_000:
        size = 4_096
    for prelude in (b"", b": ping\n\n") if not body.startswith((b"{", b"<")) else (b"",):
        stream = reader()
        sent, error = read_to_the_error(stream, in_pieces(prelude + body, size))
        assert sent == b""
        assert error.status == status
        assert words in error.message
        assert "secret place" not in error.message


@pytest.mark.parametrize("size", [1, 30, 10**6])
def test_an_error_in_the_middle_is_raised_and_none_of_it_is_sent(size: int) -> None:
    failing = '{"id":"c1","choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}],"error":{"code":502}}'
    stream = reader(keep_usage=True)
    assert stream.feed(lf(ROLE, done=False)) == lf(ROLE, done=False)
    sent, error = read_to_the_error(stream, in_pieces(lf(failing), size))
    assert sent == b""
    assert error.code == "upstream_error"


def test_a_null_error_is_no_error() -> None:
    fine = chunk('{"content":"a"}', extra=',"error":null')
    assert read(reader(), lf(ROLE, fine, STOP)) == lf(ROLE, fine, STOP)


def test_ids_are_taken_out_because_comments_beside_them_break_clients() -> None:
    numbered = lf(ROLE, HEY, STOP).replace(b"data: {", b"id: 1\ndata: {")
    for size in (1, 10, 10**6):
        assert read(reader(keep_usage=True), *in_pieces(b": hi\n\n" + numbered, size)) == b": hi\n\n" + lf(
            ROLE, HEY, STOP
        )


def test_an_upstream_that_sends_an_event_per_token_is_estimated_by_its_events() -> None:
    stream = reader()
    stream.feed(lf(ROLE, done=False))
    for _ in range(200):
        stream.feed(lf(chunk('{"content":" abc"}'), done=False))
    assert 200 <= stream.produced() <= 202


def test_an_upstream_that_sends_many_tokens_at_a_time_is_estimated_by_its_text() -> None:
    stream = reader()
    stream.feed(lf(ROLE, done=False))
    for _ in range(10):
        stream.feed(
            lf(
                chunk('{"reasoning_content":"' + "word " * 80 + '"}', extra=',"logprobs":"' + "x" * 500 + '"'),
                done=False,
            )
        )
    assert 900 <= stream.produced() <= 1_200


def test_an_answer_of_one_event_is_estimated_by_its_text() -> None:
    stream = reader()
    stream.feed(lf(chunk('{"content":"' + "a" * 400 + '"}'), done=False))
    assert stream.produced() == 100


def test_nothing_said_is_nothing_produced() -> None:
    stream = reader()
    assert stream.produced() == 0
    stream.feed(lf(ROLE, done=False))
    assert stream.produced() == 0


def test_the_provider_asks_the_call_what_to_hide() -> None:
    call = a_call({"model": "gpt-x", "messages": [], "stream": True}, wants_usage=True)
    body = lf(ROLE, STOP, report(USAGE))
    assert read(PROVIDER.stream(call, a_target()), body) == body


@pytest.mark.parametrize("extra", ["", ',"usage":null'], ids=["plain", "null usage"])
def test_cost_of_a_chunk_is_printed(extra: str, capsys: pytest.CaptureFixture[str]) -> None:
    packet = lf(chunk('{"content":" word"}', extra=',"system_fingerprint":"fp_44709d6fcb"' + extra), done=False)
    stream = reader()
    stream.feed(packet)
    rounds = 20_000
    best = min(_seconds(stream, packet, rounds) for _ in range(5))
    with capsys.disabled():
        print(f"\n  stream.feed of {len(packet)} bytes{extra}: {best / rounds * 1e6:.2f} us")
    assert stream.feed(packet) == packet


def _seconds(stream: OpenAIStream, packet: bytes, rounds: int) -> float:
    started = time.perf_counter()
    for _ in range(rounds):
        stream.feed(packet)
    return time.perf_counter() - started

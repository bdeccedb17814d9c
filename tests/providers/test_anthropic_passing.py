"""Anthropic's own answers, passed byte for byte to clients that speak its dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.call import Demand
from gateway.core.errors import GatewayError
from gateway.core.usage import Usage
from gateway.endpoints import count_tokens, messages
from providers.anthropic import PROVIDER
from tests.providers.anthropic_streams import OVERLOADED, PING, START, STOP, call, event, over, stream, text, thoughts
from tests.providers.calls import a_call, a_target
from tests.providers.cutting import deliveries, fed

TARGET = a_target(dialect="anthropic", base_url="https://api.anthropic.com", upstream_model="claude-sonnet-4-6")
MESSAGES = messages.ENDPOINT
COUNT = count_tokens.ENDPOINT
ODD = b'{"model": "gpt-x",  "max_tokens":5, "messages":[{"role":"user","content":"\\u00e9 1e2"}], "new":[1.0]}'

RECORDED = {
    "text": stream(
        START, PING, *text(0, "Grüße 🙂", 'say {"type":"message_stop"}', "event: error"), over("end_turn"), STOP
    ),
    "thoughts and calls": stream(
        START, *thoughts(0, "c2ln", "Hm."), *call(1, "toolu_1", "f", '{"a"', ":1}"), over("tool_use"), STOP
    ),
    "CRLF": stream(START, *text(0, "Hi"), over("end_turn"), STOP).replace(b"\n", b"\r\n"),
    "spaces": stream(START, *text(0, "Hi"), over("end_turn"), STOP).replace(b'"type": ', b'"type"  :  '),
    "comments": b": hello\n\n" + stream(START, *text(0, "Hi"), over("max_tokens")) + b": ping\n\n" + event(STOP),
}


def a_message(body: bytes | dict[str, Any], **changes: Any) -> Any:
    return a_call(body, endpoint=MESSAGES, **changes)


def a_stream() -> Any:
    return PROVIDER.stream(a_message({"messages": [], "stream": True}), TARGET)


def body_of(body: bytes | dict[str, Any], **changes: Any) -> bytes:
    return PROVIDER.request(a_message(body, **changes), TARGET).body


def test_it_serves_its_own_operations_and_chat() -> None:
    served = [
        name for name in ("chat/completions", MESSAGES.operation, COUNT.operation) if PROVIDER.serves(name, TARGET)
    ]
    assert len(served) == 3
    assert not PROVIDER.serves("embeddings", TARGET)


def test_only_the_models_name_changes() -> None:
    assert body_of(ODD) == (
        b'{"model":"claude-sonnet-4-6","max_tokens":5,"messages":[{"role":"user","content":"\\u00e9 1e2"}],"new":[1.0]}'
    )
    same = ODD.replace(b"gpt-x", b"claude-sonnet-4-6")
    assert body_of(same) == same


def test_the_clients_version_and_betas_go_unchanged() -> None:
    headers = [(b"anthropic-version", b"2023-01-01"), (b"anthropic-beta", b"a-1,b-2"), (b"x-api-key", b"theirs")]
    told = dict(PROVIDER.request(a_message(ODD, headers=headers), TARGET).headers)
    assert (told[b"anthropic-version"], told[b"anthropic-beta"]) == (b"2023-01-01", b"a-1,b-2")
    assert told[b"x-api-key"] != b"theirs"
    assert dict(PROVIDER.request(a_message(ODD), TARGET).headers)[b"anthropic-version"] == b"2023-06-01"


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [(MESSAGES, b"/v1/messages"), (COUNT, b"/v1/messages/count_tokens")],
    ids=["messages", "count"],
)
def test_each_operation_has_its_path(endpoint: Any, path: bytes) -> None:
    assert PROVIDER.request(a_call(ODD, endpoint=endpoint), TARGET).target == path


@pytest.mark.parametrize(
    ("thinking", "cap", "told"),
    [
        (None, 50, None),
        ({"type": "enabled", "budget_tokens": 8000}, 4000, {"type": "enabled", "budget_tokens": 3999}),
        ({"type": "enabled", "budget_tokens": 8000, "display": "x"}, 1000, None),
        ({"type": "enabled", "budget_tokens": 2000}, 4000, {"type": "enabled", "budget_tokens": 2000}),
        ({"type": "adaptive"}, 50, {"type": "adaptive"}),
    ],
)
def test_a_lowered_cap_is_written_and_thinking_fits_below_it(thinking: Any, cap: int, told: Any) -> None:
    body = {"model": "gpt-x", "max_tokens": 9000, "messages": [], **({"thinking": thinking} if thinking else {})}
    sent = json.loads(body_of(body, demand=Demand(requested_cap=9000, output_cap=cap)))
    assert (sent["max_tokens"], sent.get("thinking")) == (cap, told)


@pytest.mark.parametrize("recorded", RECORDED.values(), ids=RECORDED)
def test_every_byte_passes_wherever_the_stream_is_cut(recorded: bytes) -> None:
    for pieces in deliveries(recorded):
        reader = a_stream()
        assert fed(reader, *pieces) == recorded
        assert reader.complete
        assert reader.usage == Usage(13, 9, 4)


def test_usage_and_begun_and_an_estimate_follow_the_stream() -> None:
    reader = a_stream()
    assert reader.feed(stream(START, PING)) == stream(START, PING)
    assert (reader.begun, reader.produced(), reader.usage) == (False, 0, None)
    reader.feed(stream(*text(0, "one two three four five six", "seven")))
    assert reader.begun
    assert 2 <= reader.produced() <= 12
    assert reader.usage == Usage(13, reader.produced(), 4, source="estimated"), "a client may leave here"
    reader.feed(stream(over("end_turn", output_tokens_details={"thinking_tokens": 3})))
    assert (reader.usage, reader.complete) == (Usage(13, 9, 4, 3), False)
    reader.feed(event(STOP))
    assert reader.complete


def test_a_stream_without_its_last_event_is_whole_with_a_reason_to_stop() -> None:
    recorded = stream(START, *text(0, "Hi"), over("end_turn"))
    assert fed(a_stream(), recorded) == recorded


def test_a_cut_is_an_error_and_the_client_stands_between_two_events() -> None:
    recorded = stream(START, *text(0, "Hi"), over("end_turn"), STOP)
    whole = recorded.index(b"event: message_stop") - 2  # from there on the reason to stop is known
    for at in range(whole):
        reader = a_stream()
        told = reader.feed(recorded[:at]) if at else b""
        with pytest.raises(GatewayError) as caught:
            reader.finish()
        assert caught.value.status == 502
        assert not told or told.endswith(b"\n\n")


@pytest.mark.parametrize("before", [(), (START,), (START, *text(0, "Hi"))])
def test_an_error_inside_the_stream_is_raised_and_what_came_before_is_not_lost(before: tuple[Any, ...]) -> None:
    sound, recorded = stream(*before), stream(*before, OVERLOADED)
    for pieces in deliveries(recorded):
        reader = a_stream()
        told = b""
        with pytest.raises(GatewayError) as caught:  # noqa: PT012  what was told until then is part of the matter
            for piece in pieces:
                told += reader.feed(piece)
        assert (caught.value.status, caught.value.code) == (503, "overloaded")
        ending = reader.failure(caught.value, "req_1")
        assert told + reader.unsent == sound
        assert ending.startswith(reader.unsent + b"event: error\n")
        assert b'"overloaded_error"' in ending


def test_an_event_longer_than_any_other_passes() -> None:
    long = stream(START, *text(0, "x" * 300_000), over("end_turn"), STOP)
    pieces = [long[at : at + 10_000] for at in range(0, len(long), 10_000)]
    reader = a_stream()
    assert fed(reader, *pieces) == long
    assert reader.usage == Usage(13, 9, 4)


def test_a_failure_inside_a_long_event_ends_it_first() -> None:
    reader = a_stream()
    reader.feed(stream(START))
    told = reader.feed(stream(*text(0, "x" * 300_000))[:200_000])
    assert told
    assert reader.failure(GatewayError(502, "upstream_error", "It broke."), "r").startswith(b"\n\nevent: error\n")


@pytest.mark.parametrize(
    "absurd",
    [
        b"<html>bad gateway</html>",
        b"event: message_start\ndata: {\n\n",
        b"data: [1]\n\n",
        b'data: {"choices":[]}\n\n',
        b"event: error\ndata: nonsense\n\n",
        b'{"type":"error","error":{"type":"api_error","message":"It broke."}}',
        stream(START) + b'data: {"type":"message_delta"\n\n',
        b"\xff\xff\n\n",
    ],
)
def test_absurd_streams_are_errors_and_nothing_else(absurd: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        fed(a_stream(), absurd)
    assert caught.value.status >= 500


def test_strange_events_pass() -> None:
    strange = b'data: {"type":"message_start","message":7}\n\ndata: {"type":"message_delta","delta":[],"usage":"x"}\n\n'
    reader = a_stream()
    assert reader.feed(strange) == strange
    assert reader.usage is None


def test_a_whole_answer_keeps_its_bytes() -> None:
    body = b'{"type": "message", "content":[{"type":"text","text":"Hi"}], "usage":{"input_tokens":3,"output_tokens":2}}'
    answer = PROVIDER.answer(a_message({"messages": []}), TARGET, body)
    assert (answer.body, answer.usage) == (body, Usage(3, 2))
    silent = PROVIDER.answer(a_message({"messages": []}), TARGET, b'{"content":[{"type":"text","text":"Hello"}]}')
    assert silent.usage is None
    assert silent.produced() > 0


def test_a_count_of_tokens_uses_none() -> None:
    answer = PROVIDER.answer(a_call({"messages": []}, endpoint=COUNT), TARGET, b'{"input_tokens":77}')
    assert (answer.body, answer.usage, answer.produced()) == (b'{"input_tokens":77}', Usage(0, 0), 0)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"<html>", 502),
        (b"[]", 502),
        (json.dumps(OVERLOADED).encode(), 503),
        (b'{"type":"error","error":{"type":"invalid_request_error","message":"no"}}', 400),
    ],
)
def test_what_is_no_answer_is_an_error(body: bytes, status: int) -> None:
    with pytest.raises(GatewayError) as caught:
        PROVIDER.answer(a_message({"messages": []}), TARGET, body)
    assert caught.value.status == status

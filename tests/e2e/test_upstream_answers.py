"""Answers as odd upstreams send them, and requests as upstreams get them: real sockets on both sides."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e import wire
from tests.e2e.conftest import UPSTREAM_KEY, Proxying
from tests.support.misbehaving import Expect, Send, Step, chunk, head, ok

REPORTED = {
    "kind": "charge",
    "outcome": "ok",
    "usage_source": "upstream",
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "cost_microusd": wire.COST_OF_USAGE,
    "status": 200,
    "attempts": 1,
    "provider": "main",
    "upstream_model": "vendor-model",
    "endpoint": "chat.completions",
}


def part_of(row: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in expected}


async def test_a_plain_answer_arrives_byte_for_byte_and_is_charged_as_reported(proxying: Proxying) -> None:
    body = b'{ "choices" : [], "odd" : 1.50, "n":9007199254740993,\n"usage": ' + json.dumps(wire.USAGE).encode() + b"}"
    async with proxying.upstream([Expect(), Send(ok(body))]):
        answer = await proxying.ask()
    assert answer.content == body
    row = await proxying.row_of(answer)
    assert part_of(row, REPORTED) == REPORTED
    assert (row["streamed"], row["first_token_ms"]) == (0, None)


async def test_cached_and_reasoning_tokens_are_noted_and_the_cached_ones_cost_less(proxying: Proxying) -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 3}}
    body = wire.answer(usage={**wire.USAGE, **details})
    async with proxying.upstream([Expect(), Send(ok(body))]):
        row = await proxying.row_of(await proxying.ask())
    expected = {"cached_tokens": 4, "reasoning_tokens": 3, "cost_microusd": 6 * 1 + 4 // 2 + 5 * 2}
    assert part_of(row, expected) == expected


async def test_an_answer_without_usage_is_charged_by_estimate_and_says_so(proxying: Proxying) -> None:
    body = wire.answer("twenty letters, maybe", usage=None)
    async with proxying.upstream([Expect(), Send(ok(body))]):
        row = await proxying.row_of(await proxying.ask())
    assert part_of(row, {"usage_source": "", "outcome": "", "kind": ""}) == {
        "usage_source": "estimated",
        "outcome": "ok",
        "kind": "charge",
    }
    assert row["completion_tokens"] > 0
    assert row["cost_microusd"] == row["prompt_tokens"] + 2 * row["completion_tokens"]


async def test_usage_that_was_not_asked_for_is_hidden_and_charged(proxying: Proxying) -> None:
    async with proxying.upstream([Expect(), Send(wire.streamed())]) as upstream:
        answer = await proxying.ask(stream=True)
        assert json.loads(upstream.requests[0].partition(b"\r\n\r\n")[2])["stream_options"] == {"include_usage": True}
    assert answer.content == wire.EVENTS.replace(wire.usage_event(), b"")
    assert answer.headers["content-type"].startswith("text/event-stream")
    row = await proxying.row_of(answer)
    assert part_of(row, REPORTED) == REPORTED
    assert row["streamed"] == 1
    assert row["first_token_ms"] is not None


async def test_usage_that_was_asked_for_is_shown(proxying: Proxying) -> None:
    async with proxying.upstream([Expect(), Send(wire.streamed())]):
        answer = await proxying.ask(stream=True, stream_options={"include_usage": True})
    assert answer.content == wire.EVENTS


async def test_usage_inside_the_finishing_event_is_charged_and_hidden(proxying: Proxying) -> None:
    choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
    last = wire.event({"id": "c1", "choices": [choice], "usage": wire.USAGE})
    async with proxying.upstream([Expect(), Send(wire.streamed(wire.delta("Hi") + last + wire.DONE))]):
        answer = await proxying.ask(stream=True)
    assert wire.payloads(answer.content)[1] == {"id": "c1", "choices": [choice]}
    assert b"usage" not in answer.content
    assert part_of(await proxying.row_of(answer), REPORTED) == REPORTED


async def test_a_stream_without_usage_is_charged_by_estimate_and_says_so(proxying: Proxying) -> None:
    events = b"".join(wire.delta(word) for word in ("one ", "two ", "three")) + wire.delta("", "stop") + wire.DONE
    async with proxying.upstream([Expect(), Send(wire.streamed(events))]):
        answer = await proxying.ask(stream=True)
    assert answer.content == events
    expected = {"outcome": "ok", "usage_source": "estimated", "completion_tokens": 3}
    assert part_of(await proxying.row_of(answer), expected) == expected


async def test_a_finished_stream_that_forgot_its_done_gets_one(proxying: Proxying) -> None:
    events = wire.delta("Hi") + wire.delta("", "stop") + wire.usage_event()
    async with proxying.upstream([Expect(), Send(wire.streamed(events))]):
        answer = await proxying.ask(stream=True)
    assert answer.content == wire.delta("Hi") + wire.delta("", "stop") + wire.DONE
    assert part_of(await proxying.row_of(answer), REPORTED) == REPORTED


@pytest.mark.parametrize("piece", [1, 7, None], ids=["byte by byte", "in sevens", "at once"])
async def test_crlf_and_comments_reach_the_client_as_they_are_however_they_are_cut(
    proxying: Proxying, piece: int | None
) -> None:
    events = (b": hello\n\n" + wire.EVENTS).replace(b"\n", b"\r\n")
    response = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + events
    async with proxying.upstream([Expect(), Send(response, piece)]):
        answer = await proxying.ask(stream=True, stream_options={"include_usage": True})
    assert answer.content == events
    assert part_of(await proxying.row_of(answer), REPORTED) == REPORTED


@pytest.mark.parametrize("at", range(1, 4))
async def test_a_character_cut_at_any_byte_reaches_the_client_whole(proxying: Proxying, at: int) -> None:
    events = wire.delta("a🦆b") + wire.delta("", "stop") + wire.usage_event() + wire.DONE
    cut = events.index("🦆".encode()) + at
    script: list[Step] = [
        Expect(),
        Send(wire.STREAM_HEAD + chunk(events[:cut])),
        Send(chunk(events[cut:]) + chunk(b"")),
    ]
    async with proxying.upstream(script):
        answer = await proxying.ask(stream=True)
    assert wire.text_of(answer.content) == "a🦆b"
    assert part_of(await proxying.row_of(answer), REPORTED) == REPORTED


async def test_cookies_are_neither_shown_nor_sent_back(proxying: Proxying) -> None:
    body = wire.answer()
    reply = head(length=len(body), extra=b"set-cookie: tenant=a; Path=/\r\n") + body
    async with proxying.upstream([Expect(), Send(reply), Expect(), Send(reply)]) as upstream:
        for _ in range(2):
            answer = await proxying.ask()
            assert "set-cookie" not in answer.headers
        assert len(upstream.requests) == 2
        assert not any(b"\r\ncookie:" in request.lower() for request in upstream.requests)


async def test_only_the_gateways_own_headers_reach_the_client(proxying: Proxying) -> None:
    body = wire.answer()
    odd = b"server: vendor\r\nopenai-organization: acme\r\nx-request-id: theirs\r\nx-ratelimit-limit-requests: 9\r\n"
    async with proxying.upstream([Expect(), Send(head(length=len(body), extra=odd) + body)]):
        answer = await proxying.ask()
    assert answer.headers.keys() == {
        "content-type",
        "content-length",
        "x-request-id",
        "x-aidock-model",
        "x-aidock-provider",
        "x-aidock-attempts",
    }
    assert answer.headers["x-request-id"] != "theirs"
    assert (answer.headers["x-aidock-model"], answer.headers["x-aidock-provider"]) == ("priced", "main")


async def test_unknown_members_arrive_upstream_as_the_client_wrote_them(proxying: Proxying) -> None:
    members = [
        b'"seed": 9007199254740993',
        b'"temperature": 0.10',
        b'"metadata": {"name": "\\u00e9\\ud83e\\udd86", "z":1,  "a" : [1e2, -0.0]}',
        b'"messages": [ {"role":"user","content":"\\u0048i \xc3\xa9"} ]',
        b'"vendor_option": null',
    ]
    sent = b'{"model": "priced",' + b",".join(members) + b"}"
    async with proxying.upstream([Expect(), Send(wire.WHOLE)]) as upstream:
        answer = await proxying.gateway.ask("/v1/chat/completions", sent)
        assert answer.status_code == 200
        got = upstream.requests[0].partition(b"\r\n\r\n")[2]
    assert json.loads(got)["model"] == "vendor-model"
    for member in members:
        assert member.partition(b": ")[2] in got


async def test_the_upstream_gets_its_own_credential_and_none_of_the_clients(proxying: Proxying) -> None:
    gateway = proxying.gateway
    private = {"cookie": "c=1", "x-forwarded-for": "192.0.2.1", "openai-organization": "o", "idempotency-key": "i"}
    async with proxying.upstream([Expect(), Send(wire.WHOLE)]) as upstream:
        body = {"model": "priced", "messages": [{"role": "user", "content": "Hello"}]}
        headers = {**private, "x-api-key": gateway.key, "traceparent": "00-1-2-01"}
        answer = await gateway.ask("/v1/chat/completions", body, headers=headers)
        received = upstream.requests[0].partition(b"\r\n\r\n")[0].decode()
    fields = dict(line.lower().split(": ", 1) for line in received.split("\r\n")[1:])
    assert fields["authorization"] == f"bearer {UPSTREAM_KEY}"
    assert fields["traceparent"] == "00-1-2-01"
    assert fields["x-request-id"] == answer.headers["x-request-id"]
    assert gateway.key not in received
    assert not fields.keys() & {*private, "x-api-key"}


async def test_azure_has_the_deployment_in_its_path_and_a_header_of_its_own_for_the_key(proxying: Proxying) -> None:
    async with proxying.upstream([Expect(), Send(wire.WHOLE)]) as upstream:
        assert (await proxying.ask("azure")).status_code == 200
        received = upstream.requests[0].decode()
    path = "/openai/deployments/my%20deployment/chat/completions?api-version=2024-10-21"
    assert received.startswith(f"POST {path} HTTP/1.1\r\n")
    assert f"\r\napi-key: {UPSTREAM_KEY}\r\n" in received
    assert "\r\nauthorization:" not in received.lower()


async def test_embeddings_are_passed_on_and_charged_for_their_input(proxying: Proxying) -> None:
    reply = {
        "object": "list",
        "data": [{"index": 0, "embedding": [0.5]}],
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }
    async with proxying.upstream([Expect(), Send(ok(json.dumps(reply).encode()))]) as upstream:
        answer = await proxying.gateway.ask("/v1/embeddings", {"model": "priced", "input": "Hi"})
        assert upstream.requests[0].startswith(b"POST /v1/embeddings ")
    assert answer.json() == reply
    expected = {"endpoint": "embeddings", "prompt_tokens": 8, "completion_tokens": 0, "cost_microusd": 8}
    assert part_of(await proxying.row_of(answer), expected) == expected


def test_nothing_of_all_this_was_an_error_of_the_gateways_own(proxying: Proxying) -> None:
    assert proxying.gateway.errors() == []

"""Upstreams that fail, each on a real socket: what the client is told, and what the ledger says of it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.e2e import wire
from tests.e2e.conftest import UPSTREAM_KEY, Proxying
from tests.support.misbehaving import Expect, Misbehaving, Reset, Send, Stall, Step, Wait, chunk, head, ok

FREE: dict[str, Any] = {"kind": "refund", "usage_source": None, "prompt_tokens": None, "cost_microusd": 0}


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


def part_of(row: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in expected}


@dataclass(frozen=True)
class Failure:
    """An upstream's script and what becomes of it: an answer without a stream."""

    script: list[Step]
    status: int
    code: str
    outcome: str = "upstream_error"
    model: str = "priced"
    said: str = ""
    headers: dict[str, str] = field(default_factory=dict)


def error_reply(status: int, message: str, extra: bytes = b"", **members: Any) -> list[Step]:
    body = json.dumps(
        {"error": {"message": message, "type": "x_error", "param": "n", "code": None, **members}}
    ).encode()
    return [Expect(), Send(head(status, length=len(body), extra=extra) + body)]


HTML = b"<!DOCTYPE html><html><body><h1>Welcome to 10.0.0.7</h1></body></html>"
IN_BAND = b'{"error": {"message": "too many", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}'

FAILURES = {
    "silence before the head": Failure([Expect(), Stall()], 504, "upstream_timeout", "timeout", model="impatient"),
    "silence inside the body": Failure(
        [Expect(), Send(head(length=99) + b'{"id"'), Stall()], 504, "upstream_timeout", "timeout", model="impatient"
    ),
    "a body cut short": Failure([Expect(), Send(head(length=99) + b'{"id"')], 502, "upstream_error"),
    "a reset before the head": Failure([Expect(), Reset()], 502, "upstream_error"),
    "a farewell before the head": Failure([Expect()], 502, "upstream_error"),
    "bytes that are not HTTP": Failure([Expect(), Send(b"SSH-2.0-hello\r\n\r\n"), Stall()], 502, "upstream_error"),
    "HTML with status 200": Failure([Expect(), Send(ok(HTML))], 502, "upstream_error"),
    "HTML with status 502": Failure([Expect(), Send(ok(HTML, 502))], 502, "upstream_error"),
    "a broken document": Failure([Expect(), Send(ok(b'{"choices": [}'))], 502, "upstream_error"),
    "a huge header": Failure(
        [Expect(), Send(head(length=2, extra=b"x-huge: %b\r\n" % (b"h" * 300_000)) + b"{}"), Stall()],
        502,
        "upstream_error",
    ),
    "nobody listens": Failure([], 502, "upstream_error", model="dead"),
    "an error inside a 200": Failure([Expect(), Send(ok(IN_BAND))], 429, "rate_limit_exceeded", said="too many"),
    "400": Failure(error_reply(400, "n is odd"), 400, "invalid_request", said="n is odd"),
    "400, a code of its own": Failure(error_reply(400, "odd", code="odd_n"), 400, "odd_n", said="odd"),
    "400, context too long": Failure(
        error_reply(400, "This model's maximum context length is 8192 tokens."), 400, "context_length_exceeded"
    ),
    "404": Failure(error_reply(404, "nothing here"), 404, "not_found", said="nothing here"),
    "409": Failure(error_reply(409, "in conflict"), 409, "conflict", said="in conflict"),
    "422": Failure(error_reply(422, "not valid"), 422, "invalid_request", said="not valid"),
    "429": Failure(
        error_reply(429, "slow down", b"retry-after: 7\r\n"),
        429,
        "rate_limit_exceeded",
        said="slow down",
        headers={"retry-after": "7"},
    ),
    "401": Failure(error_reply(401, f"Incorrect API key: {UPSTREAM_KEY}"), 502, "upstream_error"),
    "403": Failure(error_reply(403, f"{UPSTREAM_KEY} is not allowed"), 502, "upstream_error"),
    "500": Failure(error_reply(500, "out of memory"), 502, "upstream_error", said="out of memory"),
    "503": Failure(error_reply(503, "overloaded"), 502, "upstream_error"),
    "504": Failure(error_reply(504, "too late"), 504, "upstream_timeout", "timeout"),
}


async def both_ways(proxying: Proxying, failure: Failure) -> list[httpx.Response]:
    """The same failure of a plain call and of a streamed one."""
    async with proxying.upstream(failure.script):
        return await asyncio.gather(*(proxying.ask(failure.model, stream=streamed) for streamed in (False, True)))


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_a_failure_before_the_first_byte_is_a_status(proxying: Proxying, failure: Failure) -> None:
    for answer in await both_ways(proxying, failure):
        assert answer.status_code == failure.status
        error = error_of(answer)
        assert error["code"] == failure.code
        assert failure.said in error["message"]
        assert error["message"]
        assert failure.headers.items() <= answer.headers.items()
        for secret in (UPSTREAM_KEY, "127.0.0.1", "10.0.0.7", "<h1>"):
            assert secret not in answer.text + str(answer.headers)


async def test_a_failure_before_the_first_byte_is_a_row_that_costs_nothing(proxying: Proxying) -> None:
    answers = {what: await both_ways(proxying, failure) for what, failure in FAILURES.items()}
    for what, (plain, streamed) in answers.items():
        failure = FAILURES[what]
        expected = {**FREE, "outcome": failure.outcome, "status": failure.status, "attempts": 1, "streamed": False}
        assert part_of(await proxying.row_of(plain), expected) == expected, what
        expected["streamed"] = True
        assert part_of(await proxying.row_of(streamed), expected) == expected, what


async def test_a_redirect_is_an_error_and_nobody_follows_it(proxying: Proxying) -> None:
    async with Misbehaving([Expect(), Send(wire.WHOLE)]) as elsewhere:
        moved = head(302, length=0, extra=b"location: %b/v1/chat/completions\r\n" % elsewhere.url.encode())
        async with proxying.upstream([Expect(), Send(moved)]):
            answer = await proxying.ask()
        assert answer.status_code == 502
        assert "location" not in answer.headers
        assert elsewhere.url not in answer.text
        assert elsewhere.connections == 0


BEGUN = wire.STREAM_HEAD + chunk(wire.delta("Hel")) + chunk(wire.delta("lo"))

BROKEN_STREAMS: dict[str, tuple[list[Step], str, str]] = {
    "silence": ([Stall()], "upstream_timeout", "timeout"),
    "a farewell": ([], "upstream_error", "upstream_error"),
    "a reset": ([Reset()], "upstream_error", "upstream_error"),
    "the end of the body": ([Send(chunk(b""))], "upstream_error", "upstream_error"),
    "half an event": ([Send(chunk(b'data: {"cho'))], "upstream_error", "upstream_error"),
    "broken framing": ([Send(b"not a chunk\r\n")], "upstream_error", "upstream_error"),
    "an error in band": ([Send(chunk(b"data: " + IN_BAND + b"\n\n"))], "rate_limit_exceeded", "upstream_error"),
}


@pytest.mark.parametrize(("trouble", "code", "outcome"), BROKEN_STREAMS.values(), ids=BROKEN_STREAMS)
async def test_a_failure_inside_a_stream_is_an_error_event_and_what_was_produced_is_charged(
    proxying: Proxying, trouble: list[Step], code: str, outcome: str
) -> None:
    async with proxying.upstream([Expect(), Send(BEGUN), Wait(0.1), *trouble]):
        answer = await proxying.ask("impatient", stream=True)
    assert answer.status_code == 200
    assert wire.text_of(answer.content) == "Hello"
    *_, last = wire.payloads(answer.content)
    assert last["error"]["code"] == code
    assert b"[DONE]" not in answer.content
    row = await proxying.row_of(answer)
    expected = {
        "kind": "charge",
        "status": 200,
        "outcome": outcome,
        "usage_source": "estimated",
        "completion_tokens": 2,
    }
    assert part_of(row, expected) == expected
    assert row["cost_microusd"] == row["prompt_tokens"] + 2 * row["completion_tokens"]


async def test_a_target_that_cannot_be_reached_is_passed_over(proxying: Proxying) -> None:
    async with proxying.upstream([Expect(), Send(wire.WHOLE)]):
        answer = await proxying.ask("failover")
    assert answer.status_code == 200
    assert answer.headers["x-aidock-provider"] == "main"
    assert (answer.headers["x-aidock-attempts"], answer.headers["x-aidock-fallback"]) == ("2", "error")
    failed = await proxying.row_of(answer)
    expected = {"model_id": "failover", "provider": "dead", "attempts": 1, "status": 502, **FREE}
    assert part_of(failed, expected) == expected
    row = await proxying.gateway.row(f"{failed['request_id']}-2")
    expected = {"model_id": "priced", "provider": "main", "attempts": 1, "cost_microusd": wire.COST_OF_USAGE}
    assert part_of(row, expected) == expected


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_target_that_refuses_for_now_is_followed_by_the_fallback(proxying: Proxying, streamed: bool) -> None:
    good = wire.streamed() if streamed else wire.WHOLE
    async with proxying.upstream(error_reply(503, "overloaded")), proxying.spare([Expect(), Send(good)]):
        answer = await proxying.ask("pair", stream=streamed)
    assert answer.status_code == 200
    assert (answer.headers["x-aidock-provider"], answer.headers["x-aidock-model"]) == ("spare", "spare")
    row = await proxying.gateway.row(f"{answer.headers['x-request-id']}-2")
    expected = {"provider": "spare", "attempts": 1, "outcome": "ok", "cost_microusd": wire.COST_OF_USAGE}
    assert part_of(row, expected) == expected


async def test_no_target_is_tried_again_for_the_callers_own_mistake(proxying: Proxying) -> None:
    async with proxying.upstream(error_reply(400, "bad")), proxying.spare([Expect(), Send(wire.WHOLE)]) as spare:
        answer = await proxying.ask("pair")
        assert answer.status_code == 400
        assert spare.connections == 0


async def test_a_call_that_may_have_been_answered_is_made_by_another_model_unless_the_route_forbids(
    proxying: Proxying,
) -> None:
    for model, status, asked in (("pair", 200, 1), ("careful", 502, 0)):
        async with proxying.upstream([Expect()]) as upstream, proxying.spare([Expect(), Send(wire.WHOLE)]) as spare:
            answer = await proxying.ask(model)
            assert answer.status_code == status
            assert (upstream.connections, spare.connections) == (1, asked)


async def test_an_overloaded_upstream_is_asked_again_within_the_call(proxying: Proxying) -> None:
    busy = error_reply(503, "overloaded")
    async with proxying.upstream(busy, busy, [Expect(), Send(wire.WHOLE)]) as upstream:
        answer = await proxying.ask("repeated")
        assert (answer.status_code, answer.headers["x-aidock-attempts"]) == (200, "3")
        assert len(upstream.requests) == 3
    assert len(proxying.gateway.rows("request_id = ?", (await proxying.row_of(answer))["request_id"])) == 1


def test_nothing_of_all_this_was_an_error_of_the_gateways_own(proxying: Proxying) -> None:
    assert proxying.gateway.errors() == []
    assert UPSTREAM_KEY not in str(proxying.gateway.log())

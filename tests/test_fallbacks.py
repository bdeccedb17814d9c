"""Failures that the client does not see: another key, another try, another model; and each in the books."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway import prelude
from gateway.attempt import Carrier
from gateway.core.call import Call
from gateway.core.deployment import Retries, Route, Target
from gateway.core.errors import invalid_request
from gateway.core.limits import LimitSet
from gateway.core.upstream import UpstreamFailure, UpstreamRequest
from gateway.health import Health
from gateway.routing import Standing
from providers.openai import OpenAI
from tests.support.agreement import LIMITS, STREAM, assert_the_books_agree
from tests.support.calls import HELLO, a_limit, a_model, a_route, a_target, priced
from tests.support.stage import DONE, USAGE, Answer, FakePeer, Hang, Stage, Step, event, streamed, whole_answer
from tests.support.until import until

WHOLE = Answer([whole_answer()])
ROLE = event("")
DEAR, CHEAP = priced(3_000_000, 15_000_000), priced(1_000, 2_000)


def spare(name: str = "spare", **how: Any) -> Target:
    return a_target(a_model(name, prices=CHEAP), upstream=name, **how)


def asked(**how: Any) -> Target:
    return a_target(a_model(prices=DEAR, max_output_tokens=100), **how)


def said(status: int, code: str | None = None, **headers: str) -> Answer:
    """An error status."""
    body = {"error": {"message": "as planned", "type": "x", "param": None, "code": code}}
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Answer([json.dumps(body).encode()], status=status, headers=named)


BEFORE_CONTENT: dict[str, list[Step]] = {
    "an error in band": [ROLE, b'data: {"error":{"message":"overloaded","type":"server_error","code":null}}\n\n'],
    "a cut": [ROLE, UpstreamFailure("cut", "closed")],
    "silence": [ROLE, UpstreamFailure("idle_timeout", "silent")],
    "an early end": [ROLE],
    "nothing at all": [],
    "comments and a cut": [b": ping\n\n", b": ping\n\n", UpstreamFailure("cut", "closed")],
    "HTML": [b"<html>no</html>"],
}


@pytest.mark.parametrize("steps", BEFORE_CONTENT.values(), ids=BEFORE_CONTENT)
async def test_a_stream_that_fails_before_its_first_content_is_another_models_turn(
    tmp_path: Path, steps: list[Step]
) -> None:
    stage = Stage(tmp_path, Answer(steps), streamed("Hi"), route=a_route(asked(), fallbacks=[spare()]), limits=LIMITS)
    peer = await stage.play(STREAM)
    assert (peer.status, peer.complete) == (200, True)
    assert peer.body == event("Hi") + event("", finish="stop") + DONE
    assert peer.headers[b"x-aidock-model"] == b"spare"
    failed, answered = stage.journal.outcomes
    assert (failed.kind, failed.outcome in ("upstream_error", "timeout")) == ("refund", True)
    assert (answered.kind, answered.model_id, answered.request_id) == ("charge", "spare", f"{failed.request_id}-2")
    await assert_the_books_agree(stage, "before content")
    await stage.close()


async def test_what_is_held_back_comes_out_in_front_of_the_first_content(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Answer([b": ping\n\n", ROLE, event("Hi"), event("", finish="stop"), DONE]))
    peer = await stage.play(STREAM)
    assert peer.body == b": ping\n\n" + ROLE + event("Hi") + event("", finish="stop") + DONE
    assert peer.sent[1]["body"] == b": ping\n\n" + ROLE + event("Hi"), "in one piece"
    await stage.close()


async def test_an_answer_without_any_content_comes_whole(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Answer([ROLE, event("", finish="stop"), DONE]))
    peer = await stage.play(STREAM)
    assert peer.body == ROLE + event("", finish="stop") + DONE
    await stage.close()


async def test_what_has_been_held_for_long_goes_out_and_a_failure_then_is_told_in_band(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prelude, "LONGEST_S", 0.01)
    route = a_route(asked(), fallbacks=[spare()])
    stage = Stage(tmp_path, Answer([ROLE, Hang()]), streamed(), route=route, limits=LIMITS)
    peer = stage.peer(STREAM)
    playing = asyncio.create_task(stage.play(peer))
    await until(lambda: peer.body == ROLE)
    stage.relay.end_all()
    await playing
    assert b"server_shutdown" in peer.body
    assert len(stage.transport.exchanges) == 1
    await assert_the_books_agree(stage, "held for long")
    await stage.close()


@pytest.mark.parametrize(("after_s", "first"), [(0.0, ROLE), (0.03, ROLE + event("Hi"))], ids=["first", "never"])
async def test_a_stream_goes_on_whether_or_not_the_timer_let_it_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_s: float, first: bytes
) -> None:
    """However long the client takes for what was held, what follows stays behind it."""
    monkeypatch.setattr(prelude, "LONGEST_S", after_s)
    words = [event("Hi"), event(" you"), event("", finish="stop"), DONE]
    stage = Stage(tmp_path, Answer([ROLE, *words]), limits=LIMITS)
    reading = stage.transport.exchange

    def slowly(request: Any) -> Any:
        exchange = reading(request)
        read = exchange.read

        async def later() -> bytes:
            await asyncio.sleep(0.02)
            return bytes(await read())

        exchange.read = later  # type: ignore[method-assign]
        return exchange

    stage.transport.exchange = slowly  # type: ignore[method-assign]
    peer = await stage.play(STREAM)
    assert peer.body == ROLE + b"".join(words)
    assert peer.sent[1]["body"] == first
    await assert_the_books_agree(stage, "begun by the timer")
    await stage.close()


async def test_more_than_may_be_held_goes_out(tmp_path: Path) -> None:
    comments = [b": " + b"x" * 30_000 + b"\n\n"] * 3
    broken = Answer([ROLE, *comments, UpstreamFailure("cut", "closed")])
    stage = Stage(tmp_path, broken, streamed(), route=a_route(asked(), fallbacks=[spare()]), limits=LIMITS)
    peer = await stage.play(STREAM)
    assert peer.status == 200
    assert b'"error"' in peer.body
    assert len(stage.transport.exchanges) == 1
    await assert_the_books_agree(stage, "too much")
    await stage.close()


async def test_an_attempt_that_was_billed_before_it_failed_is_charged_and_not_made_again(tmp_path: Path) -> None:
    billed = Answer([ROLE, event(usage=USAGE), UpstreamFailure("connect", "odd, but possible", unsent=True)])
    route = a_route(asked(max_retries=3), fallbacks=[spare()])
    stage = Stage(tmp_path, billed, streamed(), route=route, limits=LIMITS)
    peer = await stage.play(STREAM)
    assert (peer.status, len(stage.transport.exchanges)) == (200, 2)
    first, second = stage.journal.outcomes
    assert (first.kind, first.prompt_tokens, first.usage_source) == ("charge", 7, "upstream")
    assert first.cost_microusd == 7 * 3 + 3 * 15
    assert second.cost_microusd == 1, "at the price of the model that answered"
    await assert_the_books_agree(stage, "billed twice")
    await stage.close()


async def test_another_key_takes_over_within_the_same_call(tmp_path: Path) -> None:
    model = a_model()
    keys = [a_target(model, key=1), a_target(model, key=2)]
    limited = said(429, retry_after="30")
    for failure in (limited, said(401), said(500), said(429, "insufficient_quota")):
        stage = Stage(tmp_path, failure, WHOLE, WHOLE, route=a_route(*keys), limits=LIMITS)
        peer = await stage.play(HELLO)
        assert (peer.status, peer.headers[b"x-aidock-attempts"]) == (200, b"2")
        used = {dict(request.headers)[b"authorization"] for request in stage.transport.requests}
        assert len(used) == 2
        (row,) = stage.journal.outcomes
        assert (row.attempts, row.kind) == (2, "charge")
        assert b"x-aidock-fallback" not in peer.headers
        await assert_the_books_agree(stage, str(failure.status))
        await stage.close()


async def test_a_key_that_is_barred_is_not_used_by_the_next_calls(tmp_path: Path) -> None:
    model = a_model()
    health = Health()
    route = a_route(a_target(model, key=1), a_target(model, key=2))
    barred = route.targets[0]
    health.failed(barred, "rate_limit", 60.0)  # once is enough where another key is there
    stage = Stage(tmp_path, WHOLE, route=route, health=health)
    for _ in range(20):
        peer = await stage.play(HELLO)
        assert peer.headers[b"x-aidock-attempts"] == b"1"
    key = route.targets[1].upstream.api_key
    assert key is not None
    assert {dict(r.headers)[b"authorization"] for r in stage.transport.requests} == {b"Bearer " + key.reveal().encode()}
    await stage.close()


CLASSES = {
    "context window": (said(400, "context_length_exceeded"), "long", b"context_window"),
    "content policy": (said(400, "content_filter"), "lenient", b"content_policy"),
    "timeout": (Answer([], status=UpstreamFailure("first_byte_timeout", "slow")), "patient", b"timeout"),
    "a status that says timeout": (said(504), "patient", b"timeout"),
    "rate limit": (said(429), "roomy", b"rate_limit"),
    "error": (said(500), "any", b"error"),
    "our credential": (said(401), "any", b"error"),
}


@pytest.mark.parametrize("body", [STREAM, HELLO], ids=["stream", "whole"])
@pytest.mark.parametrize(("failure", "model", "reason"), CLASSES.values(), ids=CLASSES)
async def test_each_class_of_failure_has_its_fallbacks(
    tmp_path: Path, body: dict[str, Any], failure: Answer, model: str, reason: bytes
) -> None:
    route = a_route(
        asked(),
        fallbacks={
            "default": [spare("any")],
            "timeout": [spare("patient")],
            "rate_limit": [spare("roomy")],
            "context_window": [spare("long")],
            "content_policy": [spare("lenient")],
        },
    )
    stage = Stage(tmp_path, failure, streamed() if body is STREAM else WHOLE, route=route, limits=LIMITS)
    peer = await stage.play(body)
    assert (peer.status, peer.headers[b"x-aidock-model"].decode()) == (200, model)
    assert peer.headers[b"x-aidock-fallback"] == reason
    failed, answered = stage.journal.outcomes
    assert (failed.model_id, answered.model_id) == ("m", model)
    assert answered.reserved_cost < failed.reserved_cost, "held for by its own price"
    await assert_the_books_agree(stage, model)
    await stage.close()


class Unable(OpenAI):
    """A dialect that has no like of what is asked for."""

    def request(self, call: Call, target: Target) -> UpstreamRequest:
        raise invalid_request("no such tools here", param="tools")


async def test_a_target_that_cannot_be_told_such_a_call_is_followed_by_one_that_can(tmp_path: Path) -> None:
    for fallbacks, status in (([spare()], 200), ([], 400)):
        stage = Stage(tmp_path, WHOLE, route=a_route(asked(), fallbacks=fallbacks), limits=LIMITS)
        carriers: Any = stage.world.carriers
        carriers["corp"] = Carrier(Unable(), stage.transport)
        for _ in range(4):
            peer = await stage.play(HELLO)
            assert peer.status == status
        if status == 200:
            assert (peer.headers[b"x-aidock-model"], peer.headers[b"x-aidock-attempts"]) == (b"spare", b"1")
        else:
            assert peer.error["param"] == "tools"
        assert stage.health.standing(asked()) is Standing.READY, "nobody asked it anything"
        assert stage.file.open_intents == 0
        await stage.close()


async def test_a_fallback_that_the_callers_quota_has_no_room_for_is_skipped(tmp_path: Path) -> None:
    limits = LimitSet(quota=(a_limit("tokens", 10**6), a_limit("cost", 100)), parallel=(a_limit("parallel", 1),))
    free, dear = a_target(a_model("m")), a_target(a_model("dear", prices=priced(10**9, 10**9)), upstream="dear")
    for spares, status, rows in (([dear], 502, 1), ([dear, spare()], 200, 2)):
        stage = Stage(tmp_path, said(500), WHOLE, route=a_route(free, fallbacks=spares), limits=limits)
        peer = await stage.play(HELLO)
        assert peer.status == status
        assert "as planned" in peer.error["message"] if status == 502 else peer.headers[b"x-aidock-model"] == b"spare"
        assert len(stage.journal.outcomes) == rows
        used = await stage.used()
        assert used["parallel", "none"] == 0
        assert used["cost", "month"] == sum(row.cost_microusd for row in stage.journal.outcomes)
        assert stage.metric("aidock_requests_total") == 1
        assert stage.metric("aidock_inflight_requests") == 0
        await stage.close()


async def test_a_caller_whose_quota_is_used_up_is_served_by_a_cheaper_model(tmp_path: Path) -> None:
    limits = LimitSet(quota=(a_limit("tokens", 10**6), a_limit("cost", 100)))
    dear = a_target(a_model(prices=priced(10**9, 10**9)))
    route = a_route(dear, fallbacks={"quota": [dear_too(), spare()]})
    stage = Stage(tmp_path, WHOLE, route=route, limits=limits)
    peer = await stage.play(HELLO)
    assert (peer.status, peer.headers[b"x-aidock-model"]) == (200, b"spare")
    assert peer.headers[b"x-aidock-fallback"] == b"quota"
    (row,) = stage.journal.outcomes
    assert (row.model_id, row.request_id.encode()) == ("spare", peer.headers[b"x-request-id"])
    assert stage.metric("aidock_quota_rejections_total") == 0, "nobody was turned away"
    assert (await stage.used())["cost", "month"] == row.cost_microusd
    await stage.close()


def dear_too() -> Target:
    return a_target(a_model("dear too", prices=priced(10**9, 10**9)), upstream="dear too")


async def test_without_a_cheaper_model_the_first_limit_without_room_is_what_is_told(tmp_path: Path) -> None:
    limits = LimitSet(quota=(a_limit("cost", 100),))
    dear = a_target(a_model(prices=priced(10**9, 10**9)))
    for fallbacks in ({"quota": [dear_too()]}, {"default": [spare()]}):
        stage = Stage(tmp_path, WHOLE, route=a_route(dear, fallbacks=fallbacks), limits=limits)  # type: ignore[arg-type]
        peer = await stage.play(HELLO)
        assert (peer.status, peer.error["code"]) == (429, "insufficient_quota")
        assert stage.metric("aidock_quota_rejections_total", metric="cost") == 1
        assert stage.transport.exchanges == []
        await stage.close()


async def test_an_upstream_without_room_is_asked_again_when_it_says(tmp_path: Path) -> None:
    route = a_route(asked(retries=Retries(0, 1, 0, 0)))
    for wait in ({"retry_after_ms": "20"}, {"retry_after": "0"}, {}):
        stage = Stage(tmp_path, said(429, **wait), WHOLE, route=route, limits=LIMITS)
        peer = await stage.play(HELLO)
        assert (peer.status, peer.headers[b"x-aidock-attempts"]) == (200, b"2")
        (row,) = stage.journal.outcomes
        assert row.attempts == 2
        await assert_the_books_agree(stage, str(wait))
        await stage.close()


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({"retry_after": "30"}, {}),
        ({"retry_after": "0", "x_should_retry": "false"}, {}),
        ({"retry_after": "0"}, {b"x-stainless-retry-count": b"1"}),
    ],
    ids=["too long", "told not to", "the client repeats it"],
)
async def test_a_wait_that_is_too_long_or_not_wanted_is_the_clients(
    tmp_path: Path, headers: dict[str, str], client: dict[bytes, bytes]
) -> None:
    route = a_route(asked(retries=Retries(5, 5, 5, 5)))
    stage = Stage(tmp_path, said(429, **headers), WHOLE, route=route, limits=LIMITS)
    peer = stage.peer(HELLO)
    peer.scope["headers"] = [*peer.scope["headers"], *client.items()]  # type: ignore[misc]
    await stage.play(peer)
    assert (peer.status, len(stage.transport.exchanges)) == (429, 1)
    assert peer.headers[b"retry-after"] == headers["retry_after"].encode()
    await assert_the_books_agree(stage, "no wait")
    await stage.close()


async def test_a_client_that_leaves_during_the_wait_ends_it(tmp_path: Path) -> None:
    route = a_route(asked(retries=Retries(0, 1, 0, 0)))
    stage = Stage(tmp_path, said(429, retry_after="3"), WHOLE, route=route, limits=LIMITS)
    peer = stage.peer(HELLO)
    playing = asyncio.create_task(stage.play(peer))
    await until(lambda: stage.metric("aidock_upstream_attempts_total") == 1)
    peer.leave()
    async with asyncio.timeout(2):
        await playing
    assert len(stage.transport.exchanges) <= 1
    await assert_the_books_agree(stage, "left while waiting")
    await stage.close()


async def test_a_barred_model_is_told_without_asking_its_upstream(tmp_path: Path) -> None:
    stage = Stage(tmp_path, said(429, retry_after="40"), route=a_route(asked()), limits=LIMITS)
    told = [await stage.play(HELLO) for _ in range(6)]
    assert {(peer.status, peer.error["code"]) for peer in told} == {(429, "rate_limit_exceeded")}
    assert all(39 <= int(peer.headers[b"retry-after"]) <= 44 for peer in told)
    assert len(stage.transport.exchanges) == 3
    assert len(stage.journal.outcomes) == 3, "what was not begun has no row"
    await stage.close()


async def test_a_model_at_rest_is_passed_over_and_the_first_row_is_the_fallbacks(tmp_path: Path) -> None:
    stage = Stage(tmp_path, said(500), WHOLE, route=a_route(asked(), fallbacks=[spare()]), limits=LIMITS)
    for _ in range(3):
        stage.transport.exchanges.clear()
        await stage.play(HELLO)
    stage.transport.exchanges.clear()
    stage.transport._answers = [WHOLE]
    peer = await stage.play(HELLO)
    assert peer.headers[b"x-aidock-attempts"] == b"1"
    assert peer.headers[b"x-aidock-fallback"] == b"error"
    row = stage.journal.outcomes[-1]
    assert (row.model_id, row.request_id.encode()) == ("spare", peer.headers[b"x-request-id"])
    await stage.close()


async def test_of_calls_that_come_together_one_tries_what_has_rested(tmp_path: Path) -> None:
    moment = [1000.0]
    health = Health(lambda: moment[0], jitter=lambda: 1.0)
    route = a_route(asked(), fallbacks=[spare()])
    for _ in range(3):
        health.failed(route.targets[0], "server_error")
    moment[0] += 30
    stage = Stage(tmp_path, Answer([Hang()]), streamed(), route=route, health=health)
    trying = stage.peer(STREAM)
    first = asyncio.create_task(stage.play(trying))
    await until(lambda: "hang" in stage.plot.told)
    others = [await stage.play(STREAM) for _ in range(5)]
    assert {peer.headers[b"x-aidock-model"] for peer in others} == {b"spare"}
    trying.leave()
    await first
    stage.transport._answers = [streamed()]
    again = await stage.play(STREAM)
    assert again.headers[b"x-aidock-model"] == b"m", "who left gave the trial back"
    await stage.close()


def failing_route() -> Route:
    return a_route(asked(), fallbacks=[spare("second"), spare("third")])


FAILING = (said(500), Answer([ROLE, UpstreamFailure("cut", "closed")]))


async def points_of(tmp_path: Path, body: dict[str, Any], last: Answer) -> Sequence[str]:
    stage = Stage(tmp_path, *FAILING, last, route=failing_route(), limits=LIMITS)
    peer = await stage.play(body)
    assert (peer.status, peer.headers[b"x-aidock-attempts"]) == (200, b"3")
    await stage.close()
    return [point for point in stage.plot.told if point.startswith(("receive", "reserve", "start", "read", "send"))]


@pytest.mark.parametrize("act", ["raise", "cancel", "leave", "end"])
@pytest.mark.parametrize(("body", "last"), [(STREAM, streamed()), (HELLO, WHOLE)], ids=["stream", "whole"])
async def test_every_call_of_a_request_settles_once_whatever_goes_wrong_wherever_it_waits(
    tmp_path: Path, body: dict[str, Any], last: Answer, act: str
) -> None:
    points = await points_of(tmp_path, body, last)
    assert points.count("reserve") == 3
    for index, point in enumerate(points):
        if act == "raise" and point == "receive":
            continue  # a server's receive does not fail
        stage = Stage(tmp_path, *FAILING, last, route=failing_route(), limits=LIMITS)
        peer = stage.peer(body)
        await play_with_a_twist(stage, peer, points[: index + 1], act)
        story = f"{act} at {point}, the {index + 1}th"
        await assert_the_books_agree(stage, story)
        assert peer.status in (0, 200, 500, 502, 503), story
        await stage.close()


async def play_with_a_twist(stage: Stage, peer: FakePeer, points: Sequence[str], act: str) -> None:
    """Something goes wrong where the last of these points is reached as often as they name it."""
    left = points.count(points[-1])

    def fail() -> None:
        raise RuntimeError("a defect")

    def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    acts = {"raise": fail, "cancel": cancel, "leave": peer.leave, "end": stage.relay.end_all}

    def count_down() -> None:
        nonlocal left
        left -= 1
        if left:
            stage.plot.twist(points[-1], count_down)
        else:
            acts[act]()

    stage.plot.twist(points[-1], count_down)
    await stage.play(peer)

"""Every way a call can end: it settles exactly once, and its outcome is written before the last byte goes out."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.books import Books, Run
from gateway.client import Client
from gateway.core.records import Outcome
from gateway.core.upstream import UpstreamFailure
from gateway.relay import Relay
from tests.support.agreement import LIMITS, STREAM, assert_the_books_agree
from tests.support.calls import HELLO, a_model, a_route, a_target, priced
from tests.support.stage import DONE, Answer, FakePeer, Hang, Stage, event, streamed, whole_answer
from tests.support.until import until

WHOLE = Answer([whole_answer()])


def a_priced_route() -> Any:
    return a_route(a_target(a_model(prices=priced(3_000_000, 15_000_000), max_output_tokens=100)))


async def points_of(tmp_path: Path, body: dict[str, Any], answer: Answer) -> list[str]:
    stage = Stage(tmp_path, answer, route=a_priced_route(), limits=LIMITS)
    peer = await stage.play(body)
    assert (peer.status, peer.complete) == (200, True)
    await stage.close()
    awaited = ("receive", "reserve", "start", "read", "send")
    return [point for point in stage.plot.told if point.startswith(awaited)]


async def play_with_a_twist(
    stage: Stage, body: dict[str, Any], point: str, act: str, peer: FakePeer | None = None
) -> FakePeer:
    peer = peer or stage.peer(body)

    def fail() -> None:
        raise RuntimeError(f"a defect at {point}")

    def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    stage.plot.twist(point, {"raise": fail, "cancel": cancel, "leave": peer.leave, "end": stage.relay.end_all}[act])
    return await stage.play(peer)


@pytest.mark.parametrize("calls_back", [True, False], ids=["server calls back", "receive tells"])
@pytest.mark.parametrize("act", ["raise", "cancel", "leave", "end"])
@pytest.mark.parametrize(("body", "answer"), [(STREAM, streamed()), (HELLO, WHOLE)], ids=["stream", "whole"])
async def test_a_call_settles_once_whatever_goes_wrong_wherever_it_waits(
    tmp_path: Path, body: dict[str, Any], answer: Answer, act: str, calls_back: bool
) -> None:
    points = await points_of(tmp_path, body, answer)
    assert len(points) > 6
    for point in points:
        if act == "raise" and point == "receive":
            continue  # a server's receive does not fail
        stage = Stage(tmp_path, answer, route=a_priced_route(), limits=LIMITS, calls_back=calls_back)
        peer = await play_with_a_twist(stage, body, point, act)
        await assert_the_books_agree(stage, f"{act} at {point}")
        reached = peer.status in (0, 200, 500, 503) and (peer.complete or act != "end")
        assert reached, f"{act} at {point}: {peer.status}"
        await stage.close()


@pytest.mark.parametrize("body", [STREAM, HELLO], ids=["stream", "whole"])
async def test_a_client_that_leaves_while_the_upstream_is_silent_closes_it_at_once(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    silent = [Answer([], status=Hang()), Answer([Hang()]), Answer([event("Hi"), Hang()])]
    for answer in silent:
        stage = Stage(tmp_path, answer, route=a_priced_route(), limits=LIMITS)
        peer = stage.peer(body)
        playing = asyncio.create_task(stage.play(peer))
        await until(lambda stage=stage: "hang" in stage.plot.told)
        peer.leave()
        await playing
        await assert_the_books_agree(stage, "left while silent")
        assert stage.journal.outcomes[0].outcome == "client_gone"
        assert stage.metric("aidock_client_disconnects_total") == 1
        await stage.close()


async def test_a_client_that_left_pays_for_what_was_produced(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Answer([event("four words of text"), Hang()]), route=a_priced_route(), limits=LIMITS)
    peer = stage.peer(STREAM)
    playing = asyncio.create_task(stage.play(peer))
    await until(lambda: "hang" in stage.plot.told)
    peer.leave()
    await playing
    (row,) = stage.journal.outcomes
    assert (row.outcome, row.kind, row.usage_source, row.status) == ("client_gone", "charge", "estimated", 200)
    assert row.prompt_tokens
    assert row.completion_tokens
    assert row.cost_microusd > 0
    assert row.first_token_ms is not None
    assert stage.metric("aidock_client_disconnects_total", phase="streaming") == 1
    await stage.close()


async def test_an_upstream_that_bills_its_whole_answer_is_read_to_its_end(tmp_path: Path) -> None:
    route = a_route(a_target(on_client_gone="drain"))
    stage = Stage(tmp_path, streamed("one", "two"), route=route, limits=LIMITS)
    await play_with_a_twist(stage, STREAM, "read 2", "leave")
    (row,) = stage.journal.outcomes
    assert (row.outcome, row.usage_source, row.prompt_tokens, row.completion_tokens) == (
        "client_gone",
        "upstream",
        7,
        3,
    )
    await assert_the_books_agree(stage, "drained")
    await stage.close()


@pytest.mark.parametrize(("body", "answer"), [(STREAM, streamed()), (HELLO, WHOLE)], ids=["stream", "whole"])
async def test_the_intent_precedes_the_upstream_and_the_outcome_the_last_byte(
    tmp_path: Path, body: dict[str, Any], answer: Answer
) -> None:
    stage = Stage(tmp_path, answer, limits=LIMITS)
    await stage.play(body)
    assert_in_order(stage.plot.told)
    await stage.close()


def assert_in_order(told: list[str]) -> None:
    order = [told.index(point) for point in ("reserved", "intent", "exchange", "start", "outcome", "settle")]
    assert order == sorted(order)
    assert told.index("outcome") < told.index("send last")


class LateBooks(Books):
    """Books that a hurried author would write: closed when the call is over, that is, after the last byte."""

    def close(self, run: Run, outcome: Outcome) -> None:
        if run.call.request_id in self.kept:
            super().close(run, outcome)
        self.kept.add(run.call.request_id)

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.kept: set[str] = set()


async def test_the_order_test_notices_books_that_are_closed_after_the_last_byte(tmp_path: Path) -> None:
    """The control for the test above: with the settlement moved behind the last byte its assertion fails."""
    stage = Stage(tmp_path, limits=LIMITS, books=LateBooks)
    await stage.play(STREAM)
    assert len(stage.journal.outcomes) == 1, "it does settle, only too late"
    with pytest.raises(AssertionError):
        assert_in_order(stage.plot.told)
    await stage.close()


async def test_a_failure_after_the_stream_began_is_told_in_band_and_ends_without_done(tmp_path: Path) -> None:
    broken: list[Exception] = [
        UpstreamFailure("cut", "closed in the middle"),
        UpstreamFailure("idle_timeout", "silent"),
        ValueError("a defect"),
    ]
    for failure in broken:
        stage = Stage(tmp_path, Answer([event("Hi"), failure]), limits=LIMITS)
        peer = await stage.play(STREAM)
        assert (peer.status, peer.complete) == (200, True)
        assert peer.body.startswith(event("Hi"))
        assert b'"error"' in peer.body.removeprefix(event("Hi"))
        assert DONE not in peer.body
        assert stage.journal.outcomes[0].outcome == (
            "timeout" if "timeout" in str(getattr(failure, "kind", "")) else "upstream_error"
        )
        await assert_the_books_agree(stage, str(failure))
        await stage.close()


@pytest.mark.parametrize("body", [STREAM, HELLO], ids=["stream", "whole"])
async def test_a_failure_before_the_first_byte_is_a_status(tmp_path: Path, body: dict[str, Any]) -> None:
    cases: list[tuple[Answer, int, str]] = [
        (Answer([], status=UpstreamFailure("connect", "refused", unsent=True)), 502, "upstream_error"),
        (Answer([], status=UpstreamFailure("first_byte_timeout", "slow")), 504, "upstream_timeout"),
        (Answer([UpstreamFailure("cut", "closed")]), 502, "upstream_error"),
        (Answer([b"<html>no</html>"]), 502, "upstream_error"),
        (Answer([b'{"error":{"message":"no"}}'], status=500), 502, "upstream_error"),
    ]
    for answer, status, code in cases:
        stage = Stage(tmp_path, answer, limits=LIMITS)
        peer = await stage.play(body)
        assert (peer.status, peer.error["code"]) == (status, code), answer
        assert stage.journal.outcomes[0].status == status
        assert stage.journal.outcomes[0].kind == "refund"
        await assert_the_books_agree(stage, str(answer))
        await stage.close()


async def test_a_provably_unsent_request_is_tried_again_and_then_elsewhere(tmp_path: Path) -> None:
    refused = Answer([], status=UpstreamFailure("connect", "refused", unsent=True))
    route = a_route(a_target(max_retries=1), fallbacks=[a_target(a_model("spare"), upstream="spare")])
    stage = Stage(tmp_path, refused, refused, streamed(), route=route, limits=LIMITS)
    peer = await stage.play(STREAM)
    assert peer.status == 200
    assert peer.headers[b"x-aidock-attempts"] == b"3"
    assert peer.headers[b"x-aidock-model"] == b"spare"
    assert peer.headers[b"x-aidock-fallback"] == b"error"
    assert stage.metric("aidock_fallbacks_total") == 1
    failed, answered = stage.journal.outcomes
    assert (failed.provider, failed.model_id, failed.attempts, failed.outcome) == ("corp", "m", 2, "upstream_error")
    assert (failed.kind, failed.status) == ("refund", 502)
    assert (answered.provider, answered.model_id, answered.attempts, answered.outcome) == ("spare", "spare", 1, "ok")
    assert answered.request_id == f"{failed.request_id}-2"
    assert peer.headers[b"x-request-id"].decode() == failed.request_id
    await assert_the_books_agree(stage, "fallback")
    await stage.close()


@pytest.mark.parametrize(
    ("answer", "attempts"),
    [
        (Answer([b"{}"], status=503), 3),
        (Answer([b"{}"], status=429, headers=[(b"retry-after", b"1")]), 2),
        (Answer([b"{}"], status=400), 1),
        (Answer([UpstreamFailure("cut", "after it was sent")]), 2),
        (Answer([], status=UpstreamFailure("first_byte_timeout", "slow")), 2),
    ],
    ids=["503 again, then elsewhere", "429 elsewhere", "400 never", "cut elsewhere", "slow elsewhere"],
)
async def test_what_the_upstream_may_have_worked_on_goes_to_another_model_and_is_not_repeated(
    tmp_path: Path, answer: Answer, attempts: int
) -> None:
    route = a_route(a_target(max_retries=1), fallbacks=[a_target(a_model("spare"), upstream="spare")])
    stage = Stage(tmp_path, answer, route=route, limits=LIMITS)
    await stage.play(STREAM)
    assert len(stage.transport.exchanges) == attempts
    await assert_the_books_agree(stage, "repeated")
    await stage.close()


async def test_nothing_is_repeated_once_a_byte_has_reached_the_client(tmp_path: Path) -> None:
    cut = Answer([event("Hi"), UpstreamFailure("connect", "odd, but possible", unsent=True)])
    route = a_route(a_target(max_retries=3), fallbacks=[a_target(upstream="spare")])
    stage = Stage(tmp_path, cut, route=route, limits=LIMITS)
    peer = await stage.play(STREAM)
    assert len(stage.transport.exchanges) == 1
    assert peer.status == 200
    await stage.close()


async def test_the_first_failure_is_what_the_client_is_told(tmp_path: Path) -> None:
    route = a_route(a_target(), fallbacks=[a_target(upstream="spare")])
    limited = Answer([b'{"error":{"message":"slow down"}}'], status=429, headers=[(b"retry-after", b"7")])
    refused = Answer([], status=UpstreamFailure("connect", "refused", unsent=True))
    stage = Stage(tmp_path, limited, refused, route=route, limits=LIMITS)
    peer = await stage.play(HELLO)
    assert (peer.status, peer.headers.get(b"retry-after")) == (429, b"7")
    await stage.close()


async def test_calls_that_the_shutdown_ends_are_told_so_and_settled(tmp_path: Path) -> None:
    for body in (STREAM, HELLO):
        stage = Stage(tmp_path, Answer([event("Hi"), Hang()]), limits=LIMITS)
        peer = stage.peer(body)
        playing = asyncio.create_task(stage.play(peer))
        await until(lambda stage=stage: "hang" in stage.plot.told)
        stage.relay.end_all()
        await playing
        assert b"server_shutdown" in peer.body
        assert peer.complete
        await assert_the_books_agree(stage, "shut down")
        await stage.close()


async def test_books_closed_by_force_stay_closed_when_the_call_ends_later(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Answer([event("Hi"), Hang()]), limits=LIMITS)
    peer = stage.peer(STREAM)
    playing = asyncio.create_task(stage.play(peer))
    await until(lambda: "hang" in stage.plot.told)
    stage.relay.close_books()
    assert len(stage.journal.outcomes) == 1
    peer.leave()
    await playing
    await assert_the_books_agree(stage, "forced")
    await stage.close()


async def test_a_client_that_left_before_the_upstream_was_asked_costs_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, limits=LIMITS)
    await play_with_a_twist(stage, STREAM, "reserved", "leave")
    assert "start" not in stage.plot.told
    (row,) = stage.journal.outcomes
    assert (row.kind, row.outcome, row.status, row.cost_microusd) == ("refund", "client_gone", 0, 0)
    assert (await stage.used())["requests", "minute"] == 0
    assert stage.metric("aidock_client_disconnects_total", phase="waiting") == 1
    assert stage.metric("aidock_requests_total", code="499") == 1
    await stage.close()


async def test_usage_beyond_all_reason_is_settled_all_the_same(tmp_path: Path) -> None:
    absurd = {"prompt_tokens": 2**50, "completion_tokens": 2**50, "total_tokens": 2**51}
    stage = Stage(tmp_path, Answer([whole_answer(absurd)]), route=a_priced_route(), limits=LIMITS)
    peer = await stage.play(HELLO)
    assert peer.status == 200
    assert stage.metric("aidock_inflight_requests") == 0
    assert (await stage.used())["parallel", "none"] == 0
    await stage.close()


async def test_an_answer_without_usage_is_charged_by_estimate(tmp_path: Path) -> None:
    for body, answer in (
        (HELLO, Answer([whole_answer(None)])),
        (STREAM, Answer([event("Hi there"), event("", finish="stop"), DONE])),
    ):
        stage = Stage(tmp_path, answer, route=a_priced_route(), limits=LIMITS)
        await stage.play(body)
        (row,) = stage.journal.outcomes
        assert (row.usage_source, row.outcome) == ("estimated", "ok")
        assert row.completion_tokens
        await assert_the_books_agree(stage, "estimated")
        await stage.close()


async def test_an_answer_names_its_model_its_provider_and_what_is_left(tmp_path: Path) -> None:
    stage = Stage(tmp_path, WHOLE, limits=LIMITS)
    peer = await stage.play(HELLO)
    headers = peer.headers
    assert headers[b"x-request-id"].decode() == stage.journal.outcomes[0].request_id
    assert (headers[b"x-aidock-model"], headers[b"x-aidock-provider"]) == (b"m", b"corp")
    assert headers[b"x-ratelimit-limit-requests"] == b"100"
    assert headers[b"x-ratelimit-remaining-requests"] == b"99"
    assert headers[b"x-ratelimit-reset-requests"].endswith(b"s")
    assert headers[b"x-ratelimit-limit-tokens"] == b"1000000"
    assert int(headers[b"content-length"]) == len(peer.body)
    await stage.close()


async def test_a_relay_with_nothing_to_end_ends_quietly(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.relay.end_all()
    stage.relay.close_books()
    assert isinstance(stage.relay, Relay)
    assert stage.relay.running == []
    await stage.close()


async def test_a_write_that_waits_for_a_slow_client_ends_with_the_client(tmp_path: Path) -> None:
    """A client that takes nothing holds its call only as long as the server keeps it."""
    stage = Stage(tmp_path, streamed(), limits=LIMITS)
    peer = stage.peer(STREAM)
    taken = asyncio.Event()
    send = peer.send

    async def slow(message: Any) -> None:
        if message["type"] == "http.response.body":
            await taken.wait()
        await send(message)

    client = Client(peer.scope, peer.receive, slow)
    task = asyncio.create_task(stage.pipeline.serve(_chat(), client))
    await until(lambda: bool(peer.sent))
    assert stage.journal.outcomes == []
    peer.leave()
    taken.set()
    await task
    assert stage.journal.outcomes[0].outcome == "client_gone"
    await assert_the_books_agree(stage, "slow client")
    await stage.close()


def _chat() -> Any:
    from tests.support.calls import CHAT

    return CHAT

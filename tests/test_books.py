"""What a call's record says: who, what, how much, at which price, and how it ended."""

from pathlib import Path
from typing import Any

import pytest

from gateway.books import Run
from gateway.core.limits import Claim, LimitSet
from gateway.core.money import MAX_AMOUNT
from gateway.core.usage import Usage
from tests.support.calls import HELLO, a_call, a_limit, a_model, a_route, a_target, priced
from tests.support.stage import Answer, Stage, event, whole_answer

STREAM = HELLO | {"stream": True}
LIMITS = LimitSet(quota=(a_limit("cost", 10**12), a_limit("tokens", 10**9)))


def a_priced_route(cached_input: int | None = None) -> object:
    return a_route(a_target(a_model(prices=priced(3_000_000, 15_000_000, cached_input), max_output_tokens=100)))


async def test_the_row_says_what_the_upstream_reported_and_what_it_costs(tmp_path: Path) -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 40},
        "completion_tokens_details": {"reasoning_tokens": 20},
    }
    route = a_priced_route(cached_input=300_000)
    stage = Stage(tmp_path, Answer([whole_answer(usage)]), route=route, limits=LIMITS)  # type: ignore[arg-type]
    await stage.play(HELLO)
    (row,) = stage.journal.outcomes
    (intent,) = stage.journal.intents
    cost = 60 * 3 + 12 + 50 * 15
    assert row[3:11] == ("ada@example.com", "research", "k1", "chat.completions", "m", "corp", "m", False)
    assert (row.kind, row.outcome, row.status, row.attempts) == ("charge", "ok", 200, 1)
    assert (row.prompt_tokens, row.completion_tokens, row.cached_tokens, row.reasoning_tokens) == (100, 50, 40, 20)
    assert (row.usage_source, row.cost_microusd, row.price_version) == ("upstream", cost, "p1")
    assert row.first_token_ms is None, "it was not streamed"
    assert row.latency_ms >= 0
    assert (intent.request_id, intent.created_at, intent.streamed) == (row.request_id, row.created_at, False)
    assert intent.reserved_cost >= 100 * 15, "the most it could have cost"
    assert await stage.used() == {("cost", "month"): cost, ("tokens", "month"): 150}
    assert stage.metric("aidock_cost_usd_total", department="research") == cost / 1_000_000
    for kind, tokens in (("prompt", 100), ("completion", 50), ("cached", 40), ("reasoning", 20)):
        assert stage.metric("aidock_tokens_total", kind=kind) == tokens
    await stage.close()


async def test_what_is_not_known_is_not_zero(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    await stage.play(STREAM)
    (row,) = stage.journal.outcomes
    assert (row.cached_tokens, row.reasoning_tokens) == (None, None)
    assert row.streamed
    assert row.first_token_ms is not None
    await stage.close()


async def test_a_call_that_produced_nothing_is_a_refund_without_usage(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Answer([b"{}"], status=500), route=a_priced_route(), limits=LIMITS)  # type: ignore[arg-type]
    await stage.play(STREAM)
    (row,) = stage.journal.outcomes
    assert (row.kind, row.outcome, row.cost_microusd) == ("refund", "upstream_error", 0)
    assert (row.prompt_tokens, row.completion_tokens, row.usage_source) == (None, None, None)
    assert set((await stage.used()).values()) == {0}
    await stage.close()


async def test_closing_twice_writes_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path, limits=LIMITS)
    closed = []
    close = stage.books.close

    def note(run: object, outcome: object) -> None:
        closed.append(outcome)
        close(run, outcome)  # type: ignore[arg-type]

    stage.books.close = note  # type: ignore[method-assign]
    await stage.play(STREAM)
    assert len(closed) > 1, "the relay closes on every path"
    assert len(stage.journal.outcomes) == 1
    assert len(stage.store.settled) == 1
    assert stage.metric("aidock_requests_total") == 1
    await stage.close()


async def test_usage_that_no_call_can_have_is_estimated_instead(tmp_path: Path) -> None:
    absurd = {"prompt_tokens": 2**50 - 1, "completion_tokens": 2**50 - 1, "total_tokens": 2**51 - 2}
    stage = Stage(tmp_path, Answer([whole_answer(absurd)]), route=a_priced_route(), limits=LIMITS)  # type: ignore[arg-type]
    await stage.play(HELLO)
    (row,) = stage.journal.outcomes
    assert (row.usage_source, row.completion_tokens) == ("estimated", 2)
    assert (row.prompt_tokens or 0) < 100
    await stage.close()


@pytest.mark.parametrize(
    ("reported", "counted"),
    [
        (Usage(MAX_AMOUNT, MAX_AMOUNT, MAX_AMOUNT, MAX_AMOUNT), Usage(MAX_AMOUNT - 1, 0, MAX_AMOUNT - 1, 0)),
        (Usage(MAX_AMOUNT - 10, 50, 5), Usage(MAX_AMOUNT - 10, 9, 5)),
        (Usage(MAX_AMOUNT - 10, 9), Usage(MAX_AMOUNT - 10, 9)),
    ],
)
async def test_the_row_says_what_the_counters_were_told_whatever_a_provider_reports(
    tmp_path: Path, reported: Usage, counted: Usage
) -> None:
    stage = Stage(tmp_path, limits=LIMITS)
    call = a_call(limits=LIMITS)
    call.claims = [Claim(limit, 1) for limit in LIMITS.quota]
    stage.books.close(Run(call.request_id, call, a_target(), call.started, [], usage=reported), "ok")
    (row,) = stage.journal.outcomes
    ((_, actual),) = stage.store.settled
    assert (row.prompt_tokens, row.completion_tokens, row.cached_tokens, row.reasoning_tokens) == counted[:4]
    assert (actual.tokens, actual.cost) == (counted.total, row.cost_microusd)
    await stage.close()


@pytest.mark.parametrize(
    ("members", "most"),
    [({"max_tokens": 40}, 40), ({"max_tokens": 40, "n": 3}, 120), ({"max_tokens": 5_000}, 100), ({}, 100)],
    ids=["client's cap", "for each choice", "model's lower cap", "model's cap"],
)
async def test_an_estimate_stays_within_the_cap_that_the_upstream_was_told(
    tmp_path: Path, members: dict[str, Any], most: int
) -> None:
    route: Any = a_priced_route()
    stage = Stage(
        tmp_path,
        Answer([event(" " * 4_000), event("", finish="stop"), b"data: [DONE]\n\n"]),
        route=route,
        limits=LIMITS,
    )
    await stage.play(STREAM | members)
    (row,) = stage.journal.outcomes
    assert (row.usage_source, row.completion_tokens) == ("estimated", most)
    assert (await stage.used())[("tokens", "month")] == (row.prompt_tokens or 0) + most
    await stage.close()

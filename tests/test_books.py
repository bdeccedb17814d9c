"""What a call's record says: who, what, how much, at which price, and how it ended."""

from pathlib import Path

from gateway.core.limits import LimitSet
from tests.support.calls import HELLO, a_limit, a_model, a_route, a_target, priced
from tests.support.stage import Answer, Stage, whole_answer

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

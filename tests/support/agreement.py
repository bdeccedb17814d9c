"""Whether the books of a call on the stage agree."""

from __future__ import annotations

from gateway.core.limits import LimitSet
from tests.support.calls import HELLO, a_limit
from tests.support.stage import Stage

STREAM = HELLO | {"stream": True}
LIMITS = LimitSet(
    rate=(a_limit("requests", 100, "minute"),),
    quota=(a_limit("tokens", 1_000_000), a_limit("cost", 10**12)),
    parallel=(a_limit("parallel", 5),),
)


async def assert_the_books_agree(stage: Stage, story: str) -> None:
    """Nothing is held, every intent has one outcome, and the counters say what the ledger will say."""
    intents = [record.request_id for record in stage.journal.intents]
    assert len(set(intents)) == len(intents), story
    outcomes = stage.journal.outcomes
    assert [record.request_id for record in outcomes] == intents, story
    assert stage.file.open_intents == 0, story
    assert stage.metric("aidock_inflight_requests") == 0, story
    assert len(stage.relay) == 0, story
    assert all(exchange.closed for exchange in stage.transport.exchanges), story
    used = await stage.used()
    assert used["parallel", "none"] == 0, f"{story}: still holds its place"
    assert used["tokens", "month"] == sum((o.prompt_tokens or 0) + (o.completion_tokens or 0) for o in outcomes), story
    assert used["cost", "month"] == sum(o.cost_microusd for o in outcomes), story
    assert used["requests", "minute"] <= max(1, sum(o.kind == "charge" for o in outcomes)), story
    if outcomes:
        assert stage.metric("aidock_requests_total") == 1, f"{story}: counted once"

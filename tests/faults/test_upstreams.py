"""Upstreams that stall, break off or do not say what they used: the client is told, and what is owed is booked."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from tests.faults.books import SOAK, Books
from tests.faults.fleet import caller, configuration
from tests.support.billing_upstream import SILENT, BillingUpstream, Plan
from tests.support.gateway import Gateway, running_gateway

EACH = 40 if SOAK else 6


@pytest.fixture(scope="module")
def gateway(shared_upstream: BillingUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("upstreams"), configuration(shared_upstream)) as running:
        yield running
        assert running.errors() == []


STALLS = (SILENT, Plan(chunks=9, stall=0), Plan(chunks=9, stall=4))


async def test_a_stalled_upstream_is_given_up_and_what_it_produced_is_charged(
    gateway: Gateway, shared_upstream: BillingUpstream
) -> None:
    who = await caller(gateway, model="impatient")
    other = await caller(gateway)
    stalled = [
        asyncio.create_task(who.call(gateway.port, plan, stream=n % 2 > 0)) for plan in STALLS for n in range(EACH)
    ]
    meanwhile = await asyncio.gather(*(other.call(gateway.port, Plan()) for _ in range(EACH)))
    seen = await asyncio.gather(*stalled)
    assert {each.error for each in seen} == {"upstream_timeout"}
    assert all(each.whole for each in meanwhile), "one upstream's silence is no other call's business"
    await Books(shared_upstream, [gateway], [who, other]).agree(
        "upstream stalls", recovery_s=max(each.seconds for each in seen)
    )


async def test_an_answer_that_is_cut_anywhere_is_never_taken_for_whole(
    gateway: Gateway, shared_upstream: BillingUpstream
) -> None:
    """Inside UTF-8 and inside JSON too: a stream of ten tokens has some 1,200 bytes."""
    who = await caller(gateway)
    chance = random.Random(29)
    cuts = [chance.randrange(1, 1100) for _ in range(1000 if SOAK else 60)]
    for start in range(0, len(cuts), 20):
        plans = [Plan(chunks=10, cut=cut) for cut in cuts[start : start + 20]]
        await asyncio.gather(*(who.call(gateway.port, plan, stream=chance.random() < 0.7) for plan in plans))
    for seen in who.seen:
        if seen.plan.cut < 180:
            assert not seen.whole
        assert seen.whole or seen.error == "upstream_error"
    await Books(shared_upstream, [gateway], [who]).agree("upstream cuts its answer")
    ended = {row["request_id"]: row for row in gateway.rows() if row["kind"] == "charge"}
    broken = [ended[seen.request_id] for seen in who.seen if not seen.whole and seen.request_id in ended]
    assert broken
    assert {row["usage_source"] for row in broken} == {"estimated"}


async def test_usage_that_is_nothing_is_not_usage_that_is_missing(
    gateway: Gateway, shared_upstream: BillingUpstream
) -> None:
    who = await caller(gateway)
    plans = [Plan(chunks=5, usage=usage) for usage in (1, 0, -1)] * EACH
    await asyncio.gather(*(who.call(gateway.port, plan, stream=n % 2 > 0) for n, plan in enumerate(plans)))
    assert all(seen.whole for seen in who.seen)
    await Books(shared_upstream, [gateway], [who]).agree("usage given, 0, missing")
    for seen in who.seen:
        row = await gateway.row(seen.request_id)
        assert row["usage_source"] == ("estimated" if seen.plan.usage < 0 else "upstream")
        assert (row["completion_tokens"] == 0) == (seen.plan.usage == 0)


async def test_an_upstreams_refusal_costs_nothing(gateway: Gateway, shared_upstream: BillingUpstream) -> None:
    who = await caller(gateway)
    plans = [Plan(status=status) for status in (400, 429, 500, 503)] * EACH
    await asyncio.gather(*(who.call(gateway.port, plan, stream=n % 2 > 0) for n, plan in enumerate(plans)))
    await Books(shared_upstream, [gateway], [who]).agree("upstream says 400, 429, 500, 503")
    rows = [await gateway.row(seen.request_id) for seen in who.seen]
    assert {(row["kind"], row["cost_microusd"]) for row in rows} == {("refund", 0)}

"""A budget that many race for, on several gateways: none of it is overspent, whatever the upstream takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.faults.books import SOAK, Books
from tests.faults.callers import Caller, load
from tests.faults.fleet import caller, configuration, fleet
from tests.support.billing_upstream import BillingUpstream, Plan
from tests.support.calls import a_limit
from tests.support.gateway import Gateway, chat, running_gateways
from tests.support.redis_server import RedisServer
from tests.support.until import until

DIRECTORY_S = 2.5
"""By then a gateway has read limits that were set by hand."""
BUDGET = a_limit("tokens", 6000, "total", subject="research", scope="department")
"""Of some 75 calls."""
PLANS = (Plan(chunks=64), Plan(chunks=64, every=2), Plan(chunks=64, usage=-1))

CAPS: tuple[tuple[dict[str, int], int], ...] = (
    ({"max_tokens": 40}, 40),
    ({"max_completion_tokens": 40}, 40),
    ({"max_completion_tokens": 40, "max_tokens": 900}, 40),
    ({"max_completion_tokens": 900, "max_tokens": 40}, 40),
    ({"max_tokens": 40, "n_predict": 3000}, 40),
    ({"max_tokens": 40, "n_predict": -1}, 40),
    ({"max_tokens": 40, "n_predict": 0}, 40),
    ({"max_tokens": 40, "n_predict": 7}, 7),
    ({"max_completion_tokens": 40, "max_new_tokens": 3000}, 40),
)


async def test_however_a_client_words_its_cap_an_answer_is_no_longer_than_what_is_held(
    upstream: BillingUpstream, tmp_path: Path
) -> None:
    (gateway,) = fleet(tmp_path, configuration(upstream), 1)
    with running_gateways(gateway):
        callers = []
        for words, most in CAPS:
            who = await caller(gateway, "tight", words=words)
            callers.append(who)
            for stream in (False, True):
                seen = await who.call(gateway.port, Plan(chunks=3000), stream=stream)
                (bill,) = upstream.book[seen.request_id]
                row = await gateway.row(seen.request_id)
                assert bill.produced == most, words
                assert bill.prompt + bill.produced <= row["reserved_tokens"]
        await Books(upstream, [gateway], callers).agree("a cap in other words")


async def test_a_cap_that_an_upstream_could_read_otherwise_is_never_sent(
    upstream: BillingUpstream, tmp_path: Path
) -> None:
    (gateway,) = fleet(tmp_path, configuration(upstream), 1)
    with running_gateways(gateway):
        who = await caller(gateway, "tight")
        body = json.dumps(chat(Plan(chunks=3000).text("n"), model="billed"))[:-1].encode()
        for words in (b'"max_tokens":3000,"max_tokens":1', b'"max_tokens":0', b'"max_completion_tokens":0'):
            answer = await gateway.ask("/v1/chat/completions", body + b"," + words + b"}", key=who.key)
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["param"] in ("max_tokens", "max_completion_tokens")
        assert not upstream.bills
        await Books(upstream, [gateway], [who]).agree("a cap that says two things")


async def uncounted(who: Caller, gateway: Gateway, calls: int = 20) -> None:
    """Calls one after the other while no limit binds: a third of the budget."""
    for _ in range(calls):
        assert (await who.call(gateway.port, Plan(chunks=64))).whole


async def spent(who: Caller, gateways: Sequence[Gateway], plans: Sequence[Plan] = PLANS) -> None:
    """Many race for what is left of a budget until there is nothing."""
    async with load(who, [gateway.port for gateway in gateways], plans, callers=40 if SOAK else 12) as seen:
        await until(lambda: sum(each.error == "insufficient_quota" for each in seen) > 20, 60)
    assert any(each.whole for each in seen)


async def test_a_budget_that_is_set_while_the_store_stands_still_knows_what_was_used_before_and_meanwhile(
    upstream: BillingUpstream, redis: RedisServer, tmp_path: Path
) -> None:
    gateways = fleet(tmp_path, configuration(upstream, redis=redis.url, quotas=()), one_host=True)
    with running_gateways(*gateways):
        who = await caller(gateways[0])
        await uncounted(who, gateways[0], 10)
        redis.pause()
        await gateways[0].set_limits(BUDGET)
        await uncounted(who, gateways[0], 10)
        await asyncio.sleep(DIRECTORY_S)
        redis.resume()
        await asyncio.gather(*(gateway.bound(who.key, BUDGET) for gateway in gateways))
        await spent(who, gateways)
        await Books(upstream, gateways, [who]).agree("a budget set while Redis is stopped", dead_hold=12)


async def test_a_budget_that_is_taken_away_and_comes_back_under_load_knows_what_was_used_meanwhile(
    upstream: BillingUpstream, redis: RedisServer, tmp_path: Path
) -> None:
    quota = {
        "scope": "department",
        "subject": "research",
        "metric": "tokens",
        "limit": BUDGET.amount,
        "window": "total",
    }
    with_it = configuration(upstream, redis=redis.url, quotas=(quota,))
    without = configuration(upstream, redis=redis.url, quotas=())
    gateways = fleet(tmp_path, with_it, one_host=True)
    with running_gateways(*gateways):
        who = await caller(gateways[0])
        await uncounted(who, gateways[0], 5)
        async with load(who, [gateways[1].port], (Plan(chunks=4, every=40),), callers=2):
            for config, limits in ((without, 0), (with_it, 1)):
                for gateway in gateways:
                    gateway.write_config(config)
                for gateway in gateways:
                    await until(partial(has_limits, gateway, who, limits), 20)
                if not limits:
                    await uncounted(who, gateways[0])
        await spent(who, gateways)
        await Books(upstream, gateways, [who]).agree("a budget taken away and back", dead_hold=12)


async def has_limits(gateway: Gateway, who: Caller, count: int) -> bool:
    return len((await gateway.me(who.key))["limits"]) == count

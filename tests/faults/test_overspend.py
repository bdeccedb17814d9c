"""A budget that many race for, on several gateways: none of it is overspent, whatever the upstream takes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.faults.books import SOAK, Books
from tests.faults.callers import load
from tests.faults.fleet import caller, configuration, fleet
from tests.support.billing_upstream import BillingUpstream, Plan
from tests.support.gateway import running_gateways
from tests.support.redis_server import RedisServer

PLANS = (Plan(chunks=64), Plan(chunks=64, every=2), Plan(chunks=64, usage=-1))


async def test_a_strict_budget_is_never_overspent_though_the_store_forgets_and_a_gateway_dies(
    upstream: BillingUpstream, redis: RedisServer, tmp_path: Path
) -> None:
    gateways = fleet(tmp_path, configuration(upstream, redis=redis.url), one_host=True)
    with running_gateways(*gateways):
        who = await caller(gateways[0], "tight")
        async with load(who, [gateway.port for gateway in gateways], PLANS, callers=40 if SOAK else 12) as seen:
            await asyncio.sleep(0.15)
            redis.ask("FLUSHALL")
            await asyncio.sleep(1)
            gateways[1].kill()
            await asyncio.to_thread(gateways[1].start)
            await asyncio.sleep(0.5)
        assert sum(each.whole for each in seen) > 10
        assert any(each.error == "insufficient_quota" for each in seen)
        await Books(upstream, gateways, [who]).agree("a strict budget, 2 gateways", dead_hold=12)

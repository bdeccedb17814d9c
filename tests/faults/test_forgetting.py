"""A strict budget that many race for on two gateways, while the store forgets what was granted: none of it is granted
twice. The gateways gather within a second what each of them has granted, so the machine is theirs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.recount import Pace
from tests.faults.books import SOAK, Books
from tests.faults.callers import load
from tests.faults.fleet import caller, configuration, fleet
from tests.support.billing_upstream import BillingUpstream, Plan
from tests.support.gateway import running_gateways
from tests.support.redis_server import RedisServer, redis_server
from tests.support.until import until

PAST_THE_LINE_S = Pace().ahead + 1.5
PLANS = (Plan(chunks=64), Plan(chunks=64, every=2), Plan(chunks=64, usage=-1))

pytestmark = pytest.mark.alone


async def test_a_store_that_comes_back_with_what_it_knew_long_ago_grants_nothing_twice(
    upstream: BillingUpstream, tmp_path: Path
) -> None:
    with redis_server(options={"dbfilename": "old.rdb"}) as store:
        gateways = fleet(tmp_path, configuration(upstream, redis=store.url), one_host=True)
        with running_gateways(*gateways):
            who = await caller(gateways[0], "tight")
            assert (await who.call(gateways[0].port, Plan(chunks=1))).whole
            await asyncio.sleep(PAST_THE_LINE_S)
            assert store.ask("SAVE").startswith(b"+OK")
            ports = [gateway.port for gateway in gateways]
            async with load(who, ports, (Plan(chunks=1),)) as seen:
                await until(lambda: any(each.error == "insufficient_quota" for each in seen), 60)
                store.crash()
                await asyncio.to_thread(store.start)
                await asyncio.sleep(3 * Pace().pulse + 1)
            await Books(upstream, gateways, [who]).agree("Redis killed, back with old data", dead_hold=12)


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

"""A gateway that leaves in the middle of a fault: those that stay set right what it could not."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from gateway.recount import Pace
from tests.faults.books import Books
from tests.faults.callers import load
from tests.faults.fleet import caller, configuration, fleet, running
from tests.support.billing_upstream import BillingUpstream, Plan
from tests.support.redis_server import RedisServer
from tests.support.tcp_proxy import fault_proxy
from tests.support.until import until

CALLS = CALLERS = 8
PAST_THE_LINE_S = Pace().ahead + 1.5
"""What calls use that begin sooner after a start is counted from the ledger in any case."""


async def test_settlements_that_a_leaving_gateway_cannot_deliver_are_counted_by_the_one_that_stays(
    redis: RedisServer, upstream: BillingUpstream, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(fault_proxy(redis.port))
        config = configuration(upstream, redis=redis.url, on_store_error="allow")
        cut_off = {"AIDOCK_STORAGE__COUNTERS": f"redis://127.0.0.1:{proxy.port}/0"}
        stays, leaves = fleet(tmp_path, config, 2, one_host=True, last_environ=cut_off)
        await stack.enter_async_context(running(stays, leaves))
        who = await caller(stays)
        async with load(who, [stays.port, leaves.port], (Plan(chunks=2),), callers=CALLERS) as seen:
            await asyncio.sleep(PAST_THE_LINE_S)
            proxy.blackhole = True
            uncounted = len(seen)
            await until(lambda: len(seen) > uncounted + CALLS)
        leaves.signal(15)
        assert await leaves.ended() == 0
        assert any("could not be delivered" in line["message"] for line in leaves.log())
        await Books(upstream, [stays], [who]).agree("a gateway leaves while cut off from Redis", dead_hold=CALLERS)

"""Wall clocks that jump, and a peer whose clock is off: no stream is cut, and no row lands in the wrong day."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.faults.books import SOAK, Books
from tests.faults.callers import load
from tests.faults.fleet import caller, configuration, fleet
from tests.support.billing_upstream import BillingUpstream, Plan
from tests.support.clock import Clock
from tests.support.gateway import running_gateway, running_gateways
from tests.support.redis_server import RedisServer

PLANS = (Plan(chunks=3), Plan(chunks=20, every=10), Plan(chunks=100, every=20))
JUMPS = (7200, -86_400, 0) * (10 if SOAK else 1)
EACH_S = 1.2
"""The preloaded clock looks once a second whether it has been moved."""


async def test_a_clock_that_jumps_cuts_no_stream_and_moves_no_row(upstream: BillingUpstream, tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock")
    with running_gateway(tmp_path / "gateway", configuration(upstream), environ=clock.environ) as gateway:
        who = await caller(gateway)
        async with load(who, [gateway.port], PLANS) as seen:
            for jump in JUMPS:
                clock.jump(jump)
                await asyncio.sleep(EACH_S)
        assert all(each.whole for each in seen)
        rows = gateway.rows()
        assert all(abs(row["created_at"] - time.time()) < 3600 for row in rows), "rows moved with the clock"
        assert all(0 <= row["latency_ms"] < 60_000 for row in rows)
        await Books(upstream, [gateway], [who]).agree("clock jumps +2 h, -1 day and back")


async def test_a_peer_whose_clock_is_off_books_by_the_stores_clock(
    upstream: BillingUpstream, redis: RedisServer, tmp_path: Path
) -> None:
    clock = Clock(tmp_path / "clock")
    clock.jump(300)
    config = configuration(upstream, redis=redis.url)
    first, skewed = fleet(tmp_path, config, one_host=True, last_environ=clock.environ)
    with running_gateways(first, skewed):
        who = await caller(first)
        async with load(who, [first.port, skewed.port], PLANS, callers=4) as seen:
            await asyncio.sleep(2)
        assert all(each.whole for each in seen)
        rows = first.rows()
        assert all(abs(row["created_at"] - time.time()) < 60 for row in rows), "rows went by the skewed clock"
        await Books(upstream, [first, skewed], [who]).agree("a peer's clock is 5 min ahead")

"""A network between gateway and Redis, or gateway and upstream, that loses, delays and strangles what passes."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from tests.faults.books import SOAK, Books
from tests.faults.callers import answered, load
from tests.faults.fleet import caller, configuration, fleet, running
from tests.support.billing_upstream import BillingUpstream, Plan
from tests.support.redis_server import RedisServer, redis_server
from tests.support.tcp_proxy import fault_proxy
from tests.support.until import until

PLANS = (Plan(chunks=3), Plan(chunks=6, every=5), Plan(chunks=20, every=10), Plan(chunks=4, usage=-1))
DURING_S = 30.0 if SOAK else 1.5
BEFORE_S = 0.3
CALLERS = 8


async def test_a_network_that_loses_replies_delays_and_strangles_makes_no_counter_wrong(
    redis: RedisServer, upstream: BillingUpstream, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(fault_proxy(redis.port))
        config = configuration(upstream, redis=f"redis://127.0.0.1:{proxy.port}/0")
        (gateway,) = fleet(tmp_path, config, 1)
        await stack.enter_async_context(running(gateway))
        who = await caller(gateway)
        books = Books(upstream, [gateway], [who])

        async with load(who, [gateway.port], PLANS):
            proxy.drop_reply = 0.02
            await asyncio.sleep(DURING_S)
            proxy.drop_reply = 0
        assert proxy.lost, "some replies were to be lost"
        await books.agree("2 % of Redis replies lost")

        async with load(who, [gateway.port], PLANS) as seen:
            proxy.latency_s = 0.025
            await asyncio.sleep(DURING_S)
            print(f"{sum(each.whole for each in seen)} of {len(seen)} calls answered at 50 ms")
            proxy.latency_s, proxy.bytes_per_s = 0.0, 10_000
            await asyncio.sleep(DURING_S)
            proxy.bytes_per_s = 0
            recovery = await answered(who, gateway.port)
        await books.agree("Redis slow: 50 ms, then 10 kB/s", recovery_s=recovery)

        async with load(who, [gateway.port], PLANS):
            await asyncio.sleep(BEFORE_S)
            proxy.half_open()
            recovery = await answered(who, gateway.port)
            proxy.blackhole = True
            await asyncio.sleep(DURING_S / 2)
            proxy.blackhole = False
            recovery = max(recovery, await answered(who, gateway.port))
        await books.agree("Redis connection half open, then a black hole", recovery_s=recovery)


async def test_a_failover_to_a_replica_that_lags_is_counted_anew(upstream: BillingUpstream, tmp_path: Path) -> None:
    """The replica knows nothing of the last seconds when the primary dies; whoever relied on it must recount."""
    async with AsyncExitStack() as stack:
        primary = stack.enter_context(redis_server())
        replica = stack.enter_context(redis_server(replica_of=primary))
        await until(lambda: b"master_link_status:up" in replica.ask("INFO replication"), 20)
        proxy = await stack.enter_async_context(fault_proxy(primary.port))
        config = configuration(upstream, redis=f"redis://127.0.0.1:{proxy.port}/0")
        gateways = fleet(tmp_path, config, one_host=True)
        await stack.enter_async_context(running(*gateways))
        who = await caller(gateways[0])
        async with load(who, [gateway.port for gateway in gateways], PLANS, callers=CALLERS):
            await asyncio.sleep(BEFORE_S)
            replica.pause()
            await asyncio.sleep(DURING_S)
            primary.crash()
            replica.resume()
            replica.ask("REPLICAOF NO ONE")
            proxy.upstream_port = replica.port
            proxy.reset_all()
            recovery = await answered(who, gateways[0].port)
            await asyncio.sleep(BEFORE_S)
        books = Books(upstream, gateways, [who])
        await books.agree("failover to a stale replica", recovery_s=recovery, dead_hold=CALLERS)


async def test_an_upstream_that_is_half_open_is_given_up_and_charged_for_what_it_said(
    upstream: BillingUpstream, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(fault_proxy(upstream.port))
        (gateway,) = fleet(tmp_path, configuration(upstream, upstream_port=proxy.port), 1)
        await stack.enter_async_context(running(gateway))
        who = await caller(gateway, model="impatient")
        count = 50 if SOAK else 10
        calls = [asyncio.create_task(who.call(gateway.port, Plan(chunks=40, every=100))) for _ in range(count)]
        await until(lambda: sum(bill.produced > 1 for bill in upstream.bills) >= count, 20)
        proxy.half_open()
        began = time.monotonic()
        seen = await asyncio.gather(*calls)
        assert {each.error for each in seen} == {"upstream_timeout"}
        assert (await who.call(gateway.port, Plan())).whole, "the pool was to have room again"
        recovery = time.monotonic() - began
        await Books(upstream, [gateway], [who]).agree("upstream half open", recovery_s=recovery)

"""A strict budget that many race for on two gateways, while the store forgets what was granted: none of it is granted
twice, however slow one of them is to tell what it has granted."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from gateway.recount import Pace
from tests.faults.books import SOAK, Books
from tests.faults.callers import Caller, Seen, load
from tests.faults.fleet import caller, configuration, fleet, running
from tests.support.billing_upstream import BillingUpstream, Plan
from tests.support.gateway import running_gateways
from tests.support.postgres_server import postgres_server
from tests.support.redis_server import RedisServer, redis_server
from tests.support.tcp_proxy import fault_proxy
from tests.support.until import until

PAST_THE_LINE_S = Pace().ahead + 1.5
SLOW_S = 3.0
PLANS = (Plan(chunks=64), Plan(chunks=64, every=2), Plan(chunks=64, usage=-1))


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


async def test_rows_that_a_gateway_is_slow_to_deliver_are_waited_for(
    upstream: BillingUpstream, redis: RedisServer, tmp_path: Path
) -> None:
    """It has spent all of the budget, and nothing of that is in the ledger when the store forgets it."""
    with postgres_server() as postgres:
        database = postgres.empty_database()
        async with fault_proxy(postgres.port) as proxy:
            quick, slow = gateways = fleet(tmp_path, configuration(upstream, redis=redis.url, database=database))
            behind = database.replace(f":{postgres.port}/", f":{proxy.port}/")
            slow.write_config(configuration(upstream, redis=redis.url, database=behind))
            async with running(*gateways):
                who = await caller(quick, "tight")
                assert (await who.call(slow.port, Plan(chunks=1))).whole
                await asyncio.sleep(PAST_THE_LINE_S)
                proxy.blackhole = True
                await spent(who, slow.port)
                os.kill(slow.pid, signal.SIGSTOP)  # the other one notices first
                redis.ask("FLUSHALL")
                await asyncio.sleep(4 * Pace().pulse)
                os.kill(slow.pid, signal.SIGCONT)
                during = await refused_for(SLOW_S, who, quick.port)
                assert {each.error for each in during} == {"accounting_unavailable"}
                proxy.blackhole = False
                recovery = await decided(who, quick.port)
                await spent(who, quick.port)
                books = Books(upstream, gateways, [who])
                await books.agree("Redis emptied, a gateway slow to deliver", recovery_s=recovery, dead_hold=12)
            assert recovery < SLOW_S


async def test_what_a_gateway_granted_that_is_killed_as_the_store_forgets_is_brought_in_first(
    upstream: BillingUpstream, redis: RedisServer, tmp_path: Path
) -> None:
    one, other = gateways = fleet(tmp_path, configuration(upstream, redis=redis.url), one_host=True)
    with running_gateways(*gateways):
        who = await caller(one, "tight")
        await spent(who, other.port)
        other.kill()
        redis.ask("FLUSHALL")
        recovery = await decided(who, one.port)
        await spent(who, one.port)
        await Books(upstream, gateways, [who]).agree(
            "Redis emptied, a gateway killed", recovery_s=recovery, dead_hold=12
        )


async def spent(who: Caller, port: int) -> None:
    """Many race for what there is until there is nothing."""
    async with load(who, [port], PLANS, callers=12) as seen:
        await until(lambda: any(each.error == "insufficient_quota" for each in seen), 60)


async def decided(who: Caller, port: int) -> float:
    """Return when a gateway can say again whether there is anything left; the seconds that took."""
    began = time.monotonic()

    async def said() -> bool:
        return (await who.call(port, Plan(chunks=1))).error != "accounting_unavailable"

    await until(said, 60)
    return time.monotonic() - began


async def refused_for(seconds: float, who: Caller, port: int) -> Sequence[Seen]:
    """What calls are told meanwhile."""
    async with load(who, [port], PLANS, callers=4) as seen:
        await asyncio.sleep(seconds)
    return seen

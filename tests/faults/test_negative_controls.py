"""A bar that cannot fail is worth nothing: with a guard taken out of the gateway, the books must be found to differ.

Each test is a fault that the gateway as it is passes in a test elsewhere; a soak shows that it passes it here too.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from tests.faults.books import SOAK, Books, BooksDiffer
from tests.faults.callers import load
from tests.faults.fleet import caller, configuration, running
from tests.support.billing_upstream import BillingUpstream, Plan
from tests.support.gateway import Gateway, running_gateways
from tests.support.redis_server import RedisServer
from tests.support.tcp_proxy import fault_proxy

PLANS = (Plan(chunks=3), Plan(chunks=6, every=5))
PATIENCE_S = 3.0
UNHARMED = (None,) if SOAK else ()


def program(sabotage: str | None) -> Sequence[str]:
    return ("-m", "gateway") if sabotage is None else ("-m", "tests.faults.sabotaged", sabotage)


async def verdict(books: Books, sabotage: str | None, fault: str) -> None:
    """The books agree, or differ where the gateway was sabotaged."""
    if sabotage is None:
        await books.agree(fault)
        return
    with pytest.raises(BooksDiffer) as differ:
        await books.agree(f"{fault}, {sabotage.replace('_', ' ')}", within_s=PATIENCE_S, counters_within_s=PATIENCE_S)
    print(differ.value)


@pytest.mark.parametrize("sabotage", [*UNHARMED, "tombstones_off"])
async def test_lost_replies(
    upstream: BillingUpstream, redis: RedisServer, tmp_path: Path, sabotage: str | None
) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(fault_proxy(redis.port))
        config = configuration(upstream, redis=f"redis://127.0.0.1:{proxy.port}/0")
        gateway = Gateway(tmp_path, config, program=program(sabotage))
        await stack.enter_async_context(running(gateway))
        who = await caller(gateway)
        proxy.drop_reply = 0.05
        async with load(who, [gateway.port], PLANS):
            await asyncio.sleep(2)
        proxy.drop_reply = 0
        assert proxy.lost > 3
        await verdict(Books(upstream, [gateway], [who]), sabotage, "Redis replies lost")


@pytest.mark.parametrize("sabotage", [*UNHARMED, "settled_by_the_request"])
async def test_a_kill_right_after_the_answer(upstream: BillingUpstream, tmp_path: Path, sabotage: str | None) -> None:
    gateway = Gateway(tmp_path, configuration(upstream), program=program(sabotage))
    with running_gateways(gateway):
        who = await caller(gateway)
        async with load(who, [gateway.port], PLANS):
            await asyncio.sleep(1)
            gateway.kill()
            await asyncio.sleep(0.2)
        await asyncio.to_thread(gateway.start)
        await verdict(Books(upstream, [gateway], [who]), sabotage, "kill -9 right after an answer")


@pytest.mark.parametrize("sabotage", [*UNHARMED, "acknowledged_before_commit"])
async def test_a_kill_while_the_database_is_locked(
    upstream: BillingUpstream, tmp_path: Path, sabotage: str | None
) -> None:
    gateway = Gateway(tmp_path, configuration(upstream), program=program(sabotage))
    with running_gateways(gateway):
        who = await caller(gateway)
        with closing(sqlite3.connect(gateway.data / "aidock.db", timeout=10, isolation_level=None)) as lock:
            async with load(who, [gateway.port], PLANS):
                await asyncio.sleep(0.3)
                lock.execute("BEGIN EXCLUSIVE")
                await asyncio.sleep(1.5)
                gateway.kill()
                lock.execute("ROLLBACK")
        await asyncio.to_thread(gateway.start)
        await verdict(Books(upstream, [gateway], [who]), sabotage, "kill -9 while SQLite is locked")


@pytest.mark.parametrize("sabotage", [*UNHARMED, "reseeded_by_adding"])
async def test_an_emptied_store(
    upstream: BillingUpstream, redis: RedisServer, tmp_path: Path, sabotage: str | None
) -> None:
    gateway = Gateway(tmp_path, configuration(upstream, redis=redis.url), program=program(sabotage))
    with running_gateways(gateway):
        who = await caller(gateway)
        async with load(who, [gateway.port], PLANS):
            await asyncio.sleep(0.5)
            redis.ask("FLUSHALL")
            await asyncio.sleep(1)
        await verdict(Books(upstream, [gateway], [who]), sabotage, "Redis emptied")

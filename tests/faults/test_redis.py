"""Redis that stops, dies, forgets, fills up or turns read-only under load: the counters are right afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.books import SOAK, Books
from tests.faults.callers import Caller, Seen, answered, load
from tests.faults.fleet import caller, configuration, fleet
from tests.support.billing_upstream import BillingUpstream, Plan
from tests.support.calls import a_limit
from tests.support.gateway import Gateway, running_gateway, running_gateways
from tests.support.redis_server import RedisServer, redis_server

PLANS = (Plan(chunks=3), Plan(chunks=6, every=5), Plan(chunks=20, every=10), Plan(chunks=4, usage=-1))
BEFORE_S = 0.4
DURING_S = 10.0 if SOAK else 1.2
AFTER_S = 2.0 if SOAK else 0.4
LIMITS = [a_limit(metric, 10**9, "month", subject="research") for metric in ("requests", "tokens", "cost")]
DECIDED_S = 0.3
"""A policy decides so soon when the counters are away; a busy machine is given as much again, twice."""


@pytest.fixture(scope="module")
def counters() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    counters: RedisServer, shared_upstream: BillingUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    config = configuration(shared_upstream, redis=counters.url, workers=2)
    with running_gateway(tmp_path_factory.mktemp("redis"), config) as running:
        yield running


@pytest.fixture
async def who(gateway: Gateway) -> Caller:
    return await caller(gateway)


@pytest.fixture
def books(shared_upstream: BillingUpstream, gateway: Gateway, who: Caller) -> Books:
    return Books(shared_upstream, [gateway], [who])


@asynccontextmanager
async def under_load(who: Caller, gateway: Gateway, seed: int = 1) -> AsyncIterator[list[Seen]]:
    """Calls before, during and after the block."""
    async with load(who, [gateway.port], PLANS, callers=8, seed=seed) as seen:
        await asyncio.sleep(BEFORE_S)
        assert any(each.whole for each in seen), "the load was to run before the fault"
        yield seen
        await asyncio.sleep(AFTER_S)


def refused_quickly(seen: Sequence[Seen]) -> None:
    """Calls that found the counters away were told so, and soon."""
    refused = [each for each in seen if each.error == "accounting_unavailable"]
    assert refused, "some calls were to be refused"
    assert {each.status for each in refused} == {503}
    seconds = sorted(each.seconds for each in refused)
    print(f"{len(refused)} refused: p50 {seconds[len(seconds) // 2]:.3f} s, most {seconds[-1]:.3f} s")
    assert seconds[len(seconds) // 2] < DECIDED_S * 3


def nothing_else_went_wrong(seen: Sequence[Seen]) -> None:
    assert {each.error for each in seen} <= {"", "accounting_unavailable"}


async def test_a_stopped_store_refuses_calls_soon_and_loses_none(
    gateway: Gateway, counters: RedisServer, who: Caller, books: Books
) -> None:
    async with under_load(who, gateway) as seen:
        counters.pause()
        try:
            await asyncio.sleep(DURING_S)
        finally:
            counters.resume()
        recovery = await answered(who, gateway.port)
    refused_quickly(seen)
    nothing_else_went_wrong(seen)
    await books.agree("Redis stopped, deny", recovery_s=recovery)


async def test_calls_that_a_policy_lets_pass_uncounted_are_counted_afterwards(
    redis: RedisServer, upstream: BillingUpstream, tmp_path: Path
) -> None:
    config = configuration(upstream, redis=redis.url, on_store_error="allow", workers=2)
    with running_gateway(tmp_path, config) as gateway:
        who = await caller(gateway)
        async with under_load(who, gateway) as seen:
            redis.pause()
            paused = len(seen)
            try:
                await asyncio.sleep(DURING_S)
            finally:
                during = seen[paused:]
                redis.resume()
            recovery = await answered(who, gateway.port)
        assert all(each.whole for each in seen)
        assert len(during) > 8, "calls were to be answered while the counters were away"
        assert await gateway.metric("aidock_quota_allowed_unmetered_total") > 0
        await Books(upstream, [gateway], [who]).agree("Redis stopped, allow", recovery_s=recovery)


async def test_a_store_that_comes_back_empty_is_rebuilt_from_the_ledger(
    gateway: Gateway, counters: RedisServer, who: Caller, books: Books
) -> None:
    async with under_load(who, gateway) as seen:
        counters.crash()
        await asyncio.sleep(DURING_S / 4)
        await asyncio.to_thread(counters.start)
        recovery = await answered(who, gateway.port)
    nothing_else_went_wrong(seen)
    await books.agree("Redis killed, back empty", recovery_s=recovery)


async def test_a_store_that_is_emptied_under_load_is_rebuilt_from_the_ledger(
    gateway: Gateway, counters: RedisServer, who: Caller, books: Books
) -> None:
    recovery = 0.0
    async with under_load(who, gateway) as seen:
        for _ in range(10 if SOAK else 2):
            counters.ask("FLUSHALL")
            recovery = max(recovery, await answered(who, gateway.port))
            await asyncio.sleep(AFTER_S)
    nothing_else_went_wrong(seen)
    await books.agree("FLUSHALL", recovery_s=recovery)


async def test_scripts_that_the_store_forgets_are_told_again_unnoticed(
    gateway: Gateway, counters: RedisServer, who: Caller, books: Books
) -> None:
    async with under_load(who, gateway) as seen:
        ending = time.monotonic() + DURING_S
        while time.monotonic() < ending:
            counters.ask("SCRIPT FLUSH")
            await asyncio.sleep(0.02)
    assert all(each.whole for each in seen)
    await books.agree("SCRIPT FLUSH in a loop")


@pytest.mark.parametrize(
    ("fault", "broken", "mended"),
    [
        pytest.param("Redis full", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", id="full"),
        pytest.param("Redis read-only", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", id="read only"),
    ],
)
async def test_a_store_that_takes_nothing_refuses_calls_and_takes_what_it_was_owed_afterwards(
    gateway: Gateway, counters: RedisServer, who: Caller, books: Books, fault: str, broken: str, mended: str
) -> None:
    async with under_load(who, gateway) as seen:
        counters.ask(broken)
        await asyncio.sleep(DURING_S)
        counters.ask(mended)
        recovery = await answered(who, gateway.port)
    refused_quickly(seen)
    nothing_else_went_wrong(seen)
    await books.agree(fault, recovery_s=recovery)


async def test_a_store_that_evicts_counters_under_load_is_noticed_and_counted_anew(
    gateway: Gateway, counters: RedisServer, who: Caller, books: Books
) -> None:
    async with under_load(who, gateway) as seen:
        used = int(counters.ask("INFO memory").split(b"used_memory:")[1].split(b"\r\n")[0])
        counters.ask("CONFIG SET maxmemory-policy allkeys-random")
        counters.ask(f"CONFIG SET maxmemory {used - 20_000}")
        await asyncio.sleep(DURING_S)
        counters.ask("CONFIG SET maxmemory 0")
        counters.ask("CONFIG SET maxmemory-policy noeviction")
        recovery = await answered(who, gateway.port)
    nothing_else_went_wrong(seen)
    await books.agree("Redis evicts", recovery_s=recovery)


def counter_keys(store: RedisServer) -> list[str]:
    """Where it counts what departments use."""
    return [key.decode() for key in re.findall(rb"\{aidock\}:used:department:\S+", store.ask("KEYS *:used:*:research"))]


async def test_keys_of_another_program_in_the_place_of_counters_are_replaced_under_load(
    gateway: Gateway, counters: RedisServer, who: Caller, books: Books
) -> None:
    recovery = 0.0
    async with under_load(who, gateway) as seen:
        keys = counter_keys(counters)
        assert len(keys) == 3
        for key in (*keys, "{aidock}:leases"):
            counters.ask(f"DEL {key}")
            assert counters.ask(f"SET {key} foreign").startswith(b"+OK")
            recovery = max(recovery, await answered(who, gateway.port))
            await asyncio.sleep(AFTER_S)
    nothing_else_went_wrong(seen)
    await books.agree("Redis keys of another program", recovery_s=recovery)


async def test_a_check_finds_and_mends_a_counter_that_another_program_has_written_over(
    gateway: Gateway, counters: RedisServer, who: Caller, books: Books
) -> None:
    assert (await who.call(gateway.port, Plan())).whole
    await books.rest()
    (key, *_) = counter_keys(counters)
    counters.ask(f"SET {key} foreign")
    found = json.loads(await gateway.cli("reconcile", "--json", "--wait", "0", check=False))
    assert "has not been counted up" in found["checks"][0]["first"][0]["says"]
    await gateway.reconcile("--fix", within_s=2)
    assert counters.ask(f"TYPE {key}").startswith(b"+hash")
    await books.agree("a Redis key of another program, --fix")


def test_a_store_that_may_evict_counters_is_refused_at_the_start(
    redis: RedisServer, upstream: BillingUpstream, tmp_path: Path
) -> None:
    redis.ask("CONFIG SET maxmemory-policy allkeys-lru")
    redis.ask("CONFIG SET maxmemory 100mb")
    (gateway,) = fleet(tmp_path, configuration(upstream, redis=redis.url), 1)
    with pytest.raises(AssertionError, match=r"the gateway ended with 1: (.|\n)*noeviction"):
        gateway.start()


async def test_counters_that_six_processes_find_missing_are_counted_up_once(
    redis: RedisServer, upstream: BillingUpstream, tmp_path: Path
) -> None:
    gateways = fleet(tmp_path, configuration(upstream, redis=redis.url), 6, one_host=True)
    first = gateways[0]
    with contextlib.ExitStack() as stack:
        with running_gateways(first):
            who = await caller(first)
            async with load(who, [first.port], PLANS, callers=6):
                await asyncio.sleep(1)
        redis.ask("FLUSHALL")
        began = time.monotonic()
        await asyncio.gather(*(asyncio.to_thread(gateway.start) for gateway in gateways))
        for gateway in gateways:
            stack.callback(gateway.stop)
        ready = time.monotonic() - began
        async with load(who, [gateway.port for gateway in gateways], PLANS, callers=6):
            await asyncio.sleep(DURING_S / 2)
        await Books(upstream, gateways, [who]).agree("6 processes, one cold counter", recovery_s=ready)
    assert all(gateway.exit_code == 0 for gateway in gateways)


async def test_a_quota_that_is_set_under_load_counts_what_came_before(
    redis: RedisServer, upstream: BillingUpstream, tmp_path: Path
) -> None:
    gateways = fleet(tmp_path, configuration(upstream, redis=redis.url, quotas=()), 2, one_host=True)
    with running_gateways(*gateways):
        first = gateways[0]
        who = await caller(first)
        ports = [gateway.port for gateway in gateways]
        async with load(who, ports, PLANS, callers=6):
            await asyncio.sleep(BEFORE_S)
            await first.limit(who.key, *LIMITS)
            await asyncio.sleep(AFTER_S)
        assert len((await first.me(who.key))["limits"]) == len(LIMITS)
        await Books(upstream, gateways, [who]).agree("quota set under load")

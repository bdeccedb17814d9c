"""Clients that misbehave: what they cost is in the books, and nothing that they hold stays held."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.books import SOAK, Books
from tests.faults.callers import Caller, Seen
from tests.faults.fleet import caller, configuration, fleet
from tests.support.billing_upstream import SILENT, BillingUpstream, Plan
from tests.support.gateway import Gateway, running_gateway, running_gateways
from tests.support.raw_http import Guarded
from tests.support.redis_server import RedisServer
from tests.support.until import until

STREAM = Plan(chunks=40, every=10)
WRITE_TIMEOUT_S = 1.0
MOST_BYTES_A_STREAM = 400_000
LEAVES = ("reset", "farewell")


@pytest.fixture(scope="module")
def gateway(shared_upstream: BillingUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = configuration(shared_upstream, write_timeout=WRITE_TIMEOUT_S, max_inflight=5000)
    with running_gateway(tmp_path_factory.mktemp("clients"), config) as running:
        yield running
        assert running.errors() == []


async def leave(who: Caller, gateway: Gateway, seconds: float, plan: Plan, *, stream: bool, leaves: str) -> None:
    await who.call(gateway.port, plan, stream=stream, leave_after=seconds, leaves=leaves)


@pytest.mark.parametrize("model", ["billed", "drained"])
async def test_clients_that_leave_at_random_moments_are_charged_once(
    gateway: Gateway, shared_upstream: BillingUpstream, model: str
) -> None:
    who = await caller(gateway, model=model)
    chance = random.Random(35)
    count, at_once = (1000, 100) if SOAK else (100, 50)
    places = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with places:
            stream, leaves = chance.random() < 0.7, chance.choice(LEAVES)
            await leave(who, gateway, chance.uniform(0, 0.5), STREAM, stream=stream, leaves=leaves)

    await asyncio.gather(*(one() for _ in range(count)))
    left = time.monotonic()
    if model == "billed":
        await until(lambda: not shared_upstream.open, 10)
    await Books(shared_upstream, [gateway], [who]).agree(f"clients leave, {model}", recovery_s=time.monotonic() - left)


async def test_clients_that_leave_before_the_first_byte_leave_nothing_held(
    gateway: Gateway, shared_upstream: BillingUpstream
) -> None:
    who = await caller(gateway)
    chance = random.Random(36)
    count = 1000 if SOAK else 100
    for start in range(0, count, 50):
        leaving = [
            leave(who, gateway, (start + n) / count * 0.05, SILENT, stream=n % 2 > 0, leaves=chance.choice(LEAVES))
            for n in range(50)
        ]
        await asyncio.gather(*leaving)
    await until(lambda: not shared_upstream.open, 10)
    await Books(shared_upstream, [gateway], [who]).agree("clients leave before the first byte")


async def test_a_client_that_reads_nothing_is_let_go_and_charged(
    gateway: Gateway, shared_upstream: BillingUpstream
) -> None:
    who = await caller(gateway, max_tokens=50_000)
    plan = Plan(chunks=50_000)
    readers = []
    for number in range(20 if SOAK else 4):
        peer = await Guarded(gateway.port, None).connect(receive_buffer=4096)  # type: ignore[arg-type]  # only the port
        await peer.send(request_of(who, plan, f"slow{number}"))
        who.seen.append(Seen(plan, f"slow{number}", streamed=True))
        readers.append(peer)
    began = time.monotonic()
    await until(lambda: sum(bill.nonce.startswith("slow") for bill in shared_upstream.bills) == len(readers), 60)
    await until(lambda: not shared_upstream.open, 120)
    recovery = time.monotonic() - began
    await Books(shared_upstream, [gateway], [who]).agree("slow readers", recovery_s=recovery)
    rows = [await gateway.row(bill.request_id) for bill in shared_upstream.bills if bill.nonce.startswith("slow")]
    assert {(row["kind"], row["outcome"]) for row in rows} == {("charge", "client_gone")}
    for peer in readers:
        peer.close()


async def test_many_idle_streams_take_little_and_are_all_charged(
    redis: RedisServer, upstream: BillingUpstream, tmp_path: Path
) -> None:
    """A gateway keeps a thousand connections to one upstream; a soak asks two of them for all they have."""
    each, plan = (1000, Plan(chunks=16, every=5000)) if SOAK else (100, Plan(chunks=4, every=500))
    gateways = fleet(tmp_path, configuration(upstream, redis=redis.url, max_inflight=5000), one_host=True)
    with running_gateways(*gateways):
        who = await caller(gateways[0])
        before = sum(resident_bytes(gateway.pid) for gateway in gateways)
        calls = []
        for _ in range(each):
            calls += [asyncio.create_task(who.call(gateway.port, plan)) for gateway in gateways]
            await asyncio.sleep(0.002)  # they come within seconds, not within one turn of a loop
        await until(lambda: upstream.open >= len(calls), 60)
        taken = sum(resident_bytes(gateway.pid) for gateway in gateways) - before
        print(f"{taken / len(calls) / 1000:.0f} kB a stream")
        assert taken < len(calls) * MOST_BYTES_A_STREAM
        assert [(await gateway.ask("/livez")).status_code for gateway in gateways] == [200, 200]
        assert all(seen.whole for seen in await asyncio.gather(*calls))
        await Books(upstream, gateways, [who]).agree(f"{len(calls)} idle streams")


def request_of(who: Caller, plan: Plan, nonce: str) -> bytes:
    """A request that its sender will not read the answer of."""
    message = {"role": "user", "content": plan.text(nonce)}
    body = json.dumps({"model": "billed", "messages": [message], "stream": True, "max_tokens": who.max_tokens}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {who.key}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as statm:  # noqa: PTH123  no path of ours
        return int(statm.read().split()[1]) * 4096

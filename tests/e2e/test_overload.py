"""More calls than there is room for: what fits is served at full rate, the rest is told at once, nobody starves."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

import pytest

from tests.e2e import wire
from tests.support.gateway import Gateway, chat, running_gateway
from tests.support.misbehaving import Misbehaving, Serve
from tests.support.processes import free_port
from tests.support.until import until

PLACES = 4
QUEUE = 8
SERVICE_S = 0.1
CAPACITY = PLACES / SERVICE_S
"""Calls a second."""
PROBE_S = 0.1
BUSY_BOX_S = 0.3
"""What other programs on the machine may add."""

pytestmark = pytest.mark.alone


@dataclass
class Crowded:
    gateway: Gateway
    port: int

    def upstream(self) -> Misbehaving:
        return Misbehaving([Serve(wire.WHOLE, SERVICE_S)], port=self.port)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowded]:
    port = free_port()
    config = {
        "server": {"max_inflight": PLACES, "max_queue": QUEUE, "queue_timeout": 5},
        "providers": {"main": {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "k-0123456789", "max_retries": 0}},
        "models": [{"model_id": "m", "provider": "main"}],
    }
    with running_gateway(tmp_path_factory.mktemp("crowded"), config) as gateway:
        yield Crowded(gateway, port)


@dataclass
class Caller:
    """One keep-alive connection that asks and notes what it was told, and after how many seconds."""

    gateway: Gateway
    key: str
    told: list[tuple[int, float]] = field(default_factory=list)
    retry_after: set[int] = field(default_factory=set)
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        reader, writer = self._streams
        body = json.dumps(chat(model="m")).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {self.key}\r\n"
        began = time.monotonic()
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer)
        assert length is not None
        said = await reader.readexactly(int(length[1]))
        status = int(answer[9:12])
        self.told.append((status, time.monotonic() - began))
        if status == 503:
            assert json.loads(said)["error"]["code"] == "overloaded"
            hint = re.search(rb"retry-after: (\d+)", answer)
            assert hint is not None
            self.retry_after.add(int(hint[1]))
        return status

    async def keep_asking(self, until_: float, pause_s: float = 0.0) -> None:
        """One call after the other; a pause after each that was refused."""
        while time.monotonic() < until_:
            if await self.ask() != 200:
                await asyncio.sleep(pause_s)

    def leave(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


async def probed(gateway: Gateway, until_: float) -> dict[str, list[float]]:
    """How long operations' and callers' questions took, asked all the time."""
    took: dict[str, list[float]] = {}
    async with gateway.client() as client:
        while time.monotonic() < until_:
            for path in ("/livez", "/readyz", "/metrics", "/v1/models", "/v1/me"):
                began = time.monotonic()
                assert (await client.get(path)).status_code == 200
                took.setdefault(path, []).append(time.monotonic() - began)
            await asyncio.sleep(0.05)
    return took


async def test_at_twice_the_capacity_the_gateway_serves_what_it_can_and_sheds_the_rest_at_once(
    crowded: Crowded,
) -> None:
    gateway, seconds = crowded.gateway, 3.0
    async with crowded.upstream():
        warm = Caller(gateway, gateway.key)
        await warm.ask()
        steady = [Caller(gateway, gateway.key) for _ in range(PLACES)]
        end = time.monotonic() + seconds / 2
        await asyncio.gather(*(caller.keep_asking(end) for caller in steady))
        peak = sum(len(caller.told) for caller in steady) / (seconds / 2)

        began = time.monotonic()
        end = began + seconds
        watching = asyncio.create_task(probed(gateway, end))
        callers = [Caller(gateway, gateway.key) for _ in range(int(2 * CAPACITY * seconds))]
        asked: list[asyncio.Task[int]] = []
        for number, caller in enumerate(callers):
            await asyncio.sleep(max(0.0, began + number / (2 * CAPACITY) - time.monotonic()))
            asked.append(asyncio.create_task(caller.ask()))
        statuses = Counter(await asyncio.gather(*asked))
        goodput = statuses[200] / (time.monotonic() - began)
        took = await watching
    for caller in (warm, *steady, *callers):
        caller.leave()
    shed = sorted(seconds for caller in callers for status, seconds in caller.told if status == 503)
    served = sorted(seconds for caller in callers for status, seconds in caller.told if status == 200)
    print(
        f"peak {peak:.1f}/s, goodput {goodput:.1f}/s, {dict(statuses)}; shed p50 {median(shed) * 1000:.1f} ms, "
        f"max {shed[-1] * 1000:.1f} ms; served p50 {median(served) * 1000:.0f} ms, max {served[-1] * 1000:.0f} ms; "
        f"probes max {max(map(max, took.values())) * 1000:.0f} ms"
    )
    assert statuses.keys() == {200, 503}
    assert goodput >= 0.8 * peak
    assert median(shed) < 0.02 + BUSY_BOX_S / 10
    assert shed[-1] < 0.05 + BUSY_BOX_S
    assert served[-1] < SERVICE_S + QUEUE / CAPACITY + BUSY_BOX_S
    assert max(map(max, took.values())) < PROBE_S + BUSY_BOX_S
    assert set().union(*(caller.retry_after for caller in callers)) <= {1, 2}, "the queue empties in 0.2 s"
    assert await gateway.metric("aidock_shed_total", reason="queue_full") == statuses[503]
    assert await gateway.metric("aidock_queue_depth") == 0
    await gateway.quiet()
    assert gateway.errors() == []


async def test_five_hundred_callers_of_one_key_do_not_starve_the_single_one_of_another(crowded: Crowded) -> None:
    gateway = crowded.gateway
    key = await gateway.issue("modest@example.com", department="sales")
    async with crowded.upstream():
        modest = Caller(gateway, key)
        await modest.ask()
        modest.told.clear()
        greedy = [Caller(gateway, gateway.key) for _ in range(500)]
        end = time.monotonic() + 4.0
        asking = [asyncio.create_task(caller.keep_asking(end, pause_s=1.0)) for caller in greedy]

        async def crowd() -> bool:
            return await gateway.metric("aidock_queue_depth") == QUEUE

        await until(crowd)
        await modest.keep_asking(end)
        await asyncio.gather(*asking)
    for caller in (modest, *greedy):
        caller.leave()
    took = sorted(seconds for _, seconds in modest.told)
    refused = sum(status == 503 for caller in greedy for status, _ in caller.told)
    print(f"modest: {len(took)} calls, p50 {median(took) * 1000:.0f} ms, max {took[-1] * 1000:.0f} ms; shed {refused}")
    assert {status for status, _ in modest.told} == {200}, "it is never turned away"
    assert len(took) >= 5
    assert median(took) < SERVICE_S + 3 / CAPACITY + BUSY_BOX_S
    assert refused > 500
    assert await gateway.metric("aidock_shed_total", reason="displaced") >= 1
    await gateway.quiet()
    assert gateway.errors() == []


async def test_a_client_that_leaves_the_queue_reaches_no_upstream(crowded: Crowded) -> None:
    gateway = crowded.gateway

    async def waiting(number: int) -> None:
        async def so_many() -> bool:
            return await gateway.metric("aidock_queue_depth") == number

        await until(so_many)

    async with Misbehaving([Serve(wire.WHOLE, 1.0)], port=crowded.port) as upstream:
        running = [Caller(gateway, gateway.key) for _ in range(PLACES)]
        calls = [asyncio.create_task(caller.ask()) for caller in running]
        await until(lambda: len(upstream.requests) == PLACES)
        leaving = Caller(gateway, gateway.key)
        lost = asyncio.create_task(leaving.ask())
        await waiting(1)
        leaving.leave()
        await waiting(0)
        await asyncio.gather(*calls)
        assert len(upstream.requests) == PLACES
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await lost
    for caller in running:
        caller.leave()
    assert await gateway.metric("aidock_client_disconnects_total", phase="sending") == 1

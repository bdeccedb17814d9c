"""All at once, by a seed: two hosts on Redis and PostgreSQL, and whatever can happen to them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from tests.faults.books import SOAK, Books
from tests.faults.callers import Caller, answered, load
from tests.faults.fleet import caller, configuration, fleet, running
from tests.support.billing_upstream import BillingUpstream, Plan
from tests.support.gateway import Gateway
from tests.support.postgres_server import PostgresServer, postgres_server
from tests.support.redis_server import RedisServer
from tests.support.tcp_proxy import FaultProxy, fault_proxy

PLANS = (
    Plan(chunks=3),
    Plan(chunks=6, every=5),
    Plan(chunks=40, every=20),
    Plan(chunks=4, usage=-1),
    Plan(chunks=9, cut=700),
    Plan(status=500),
)
SEED = int(os.environ.get("AIDOCK_SOAK_SEED", "48"))
FOR_S = float(os.environ.get("AIDOCK_SOAK_SECONDS", "900")) if SOAK else 4.0
CALLERS = 8
KILLED_AT_MOST = 1000


class Nemesis:
    """One fault after the other, each mended before the next."""

    def __init__(
        self,
        hosts: list[Gateway],
        redis: RedisServer,
        postgres: PostgresServer,
        proxy: FaultProxy,
        chance: random.Random,
    ) -> None:
        self._hosts = hosts
        self._redis = redis
        self._postgres = postgres
        self._proxy = proxy
        self._chance = chance
        self.faults: list[Callable[[], Awaitable[None]]] = [
            self.kill_a_host,
            self.stop_a_host,
            self.stop_redis,
            self.empty_redis,
            self.restart_redis,
            self.forget_scripts,
            self.lose_replies,
            self.stop_postgres,
            self.kill_postgres,
        ]

    async def strike(self) -> str:
        fault = self._chance.choice(self.faults)
        await fault()
        return fault.__name__

    async def _while(self) -> None:
        await asyncio.sleep(self._chance.uniform(0.2, 2.0))

    async def kill_a_host(self) -> None:
        host = self._hosts[-1]
        host.kill()
        await self._while()
        await asyncio.to_thread(host.start)

    async def stop_a_host(self) -> None:
        host = self._chance.choice(self._hosts)
        host.signal(signal.SIGSTOP)
        await self._while()
        host.signal(signal.SIGCONT)

    async def stop_redis(self) -> None:
        self._redis.pause()
        await self._while()
        self._redis.resume()

    async def empty_redis(self) -> None:
        self._redis.ask("FLUSHALL")

    async def restart_redis(self) -> None:
        self._redis.crash()
        await self._while()
        await asyncio.to_thread(self._redis.start)

    async def forget_scripts(self) -> None:
        self._redis.ask("SCRIPT FLUSH")

    async def lose_replies(self) -> None:
        self._proxy.drop_reply = 0.02
        await self._while()
        self._proxy.drop_reply = 0.0

    async def stop_postgres(self) -> None:
        self._postgres.pause()
        await self._while()
        self._postgres.resume()

    async def kill_postgres(self) -> None:
        self._postgres.crash()
        await self._while()
        await asyncio.to_thread(self._postgres.start)


async def leave_on_and_on(who: Caller, ports: list[int], chance: random.Random) -> None:
    """Clients that never wait for the end of an answer."""
    while True:
        await who.call(chance.choice(ports), Plan(chunks=40, every=20), leave_after=chance.uniform(0, 0.5))


async def test_whatever_happens_the_books_agree(upstream: BillingUpstream, redis: RedisServer, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(postgres_server())
        proxy = await stack.enter_async_context(fault_proxy(redis.port, seed=SEED))
        address = f"redis://127.0.0.1:{proxy.port}/0"
        hosts = fleet(tmp_path, configuration(upstream, redis=address, database=postgres.empty_database()))
        await stack.enter_async_context(running(*hosts))
        who, tight = await caller(hosts[0]), await caller(hosts[0], "tight")
        nemesis = Nemesis(hosts, redis, postgres, proxy, chance)
        ports = [host.port for host in hosts]
        leaving = asyncio.create_task(leave_on_and_on(who, ports, chance))
        struck = []
        async with load(who, ports, PLANS, callers=CALLERS, seed=SEED), load(tight, ports, PLANS, callers=2, seed=SEED):
            ending = time.monotonic() + FOR_S
            while time.monotonic() < ending:
                struck.append(await nemesis.strike())
                recovery = await answered(who, hosts[0].port, 60)
                await asyncio.sleep(chance.uniform(0.1, 0.5))
        leaving.cancel()
        with suppress(asyncio.CancelledError):
            await leaving
        print(f"seed {SEED}: {', '.join(struck)}")
        await Books(upstream, hosts, [who, tight]).agree(
            f"combined, seed {SEED}, {len(struck)} faults", recovery_s=recovery, dead_hold=KILLED_AT_MOST
        )

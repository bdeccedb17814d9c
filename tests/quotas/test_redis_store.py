"""What can go wrong between a gateway and its Redis. What the verbs mean is in tests/contract."""

from __future__ import annotations

import asyncio
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from redis.asyncio import Redis

from gateway.core.limits import NOTHING, Actual, Claim, Denied, Granted, Limit
from gateway.core.ports import StoreUnavailable
from gateway.quotas import redis as redis_store
from gateway.quotas.batcher import DECISION_S
from gateway.quotas.redis import DIGESTS, RedisStore
from gateway.quotas.windows import Calendar
from tests.support.redis_server import RedisServer, redis_server
from tests.support.tcp_proxy import lossy_proxy
from tests.support.until import until

UTC = ZoneInfo("UTC")
LEASE_S = 60.0
TOKENS = Limit("user", "ada", "tokens", "month", 10**9)
CALLS = Limit("user", "ada", "parallel", "none", 1000)


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    """For tests that leave the server as it was."""
    with redis_server() as server:
        yield server


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """For tests that stop or change the server; what it counted outlives a restart."""
    with redis_server(durable=True) as server:
        yield server


@asynccontextmanager
async def opened(
    url: str, prefix: str = "", clock: Callable[[], float] = time.monotonic, decision_s: float = 5.0
) -> AsyncIterator[RedisStore]:
    """A started store, patient unless the test is about time: a busy machine is not a store that is down."""
    store = RedisStore(url, Calendar(UTC), prefix=prefix or uuid.uuid4().hex, clock=clock, decision_s=decision_s)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def used(store: RedisStore, *limits: Limit) -> list[int]:
    return [level.used for level in await store.peek(limits)]


async def back(store: RedisStore) -> None:
    """Wait until the store answers again."""

    async def answers() -> bool:
        try:
            await store.peek([TOKENS])
        except StoreUnavailable:
            return False
        return True

    await until(answers)


async def test_no_call_fails_while_the_servers_scripts_keep_vanishing(shared: RedisServer) -> None:
    async with opened(shared.url) as store, Redis.from_url(shared.url) as other:
        flushing = True

        async def flush() -> None:
            while flushing:
                await other.script_flush()
                await asyncio.sleep(0.001)

        flusher = asyncio.create_task(flush())
        for i in range(100):
            rids = [f"r{i}-{j}" for j in range(5)]
            answers = await asyncio.gather(*(store.reserve(rid, [Claim(TOKENS, 10)], LEASE_S) for rid in rids))
            assert all(isinstance(answer, Granted) for answer in answers)
            for rid in rids:
                store.settle(rid, Actual(tokens=3))
        flushing = False
        await flusher
        assert await used(store, TOKENS) == [1500]


async def test_a_stopped_server_is_known_in_a_quarter_of_a_second_and_nothing_leaks(own: RedisServer) -> None:
    async with opened(own.url, decision_s=DECISION_S) as store:
        await store.reserve("before", [Claim(TOKENS, 100)], LEASE_S)
        own.pause()
        store.settle("before", Actual(tokens=40))

        async def decide(i: int) -> float:
            await asyncio.sleep(i * 0.02)
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await store.reserve(f"r{i}", [Claim(TOKENS, 7)], LEASE_S)
            return time.monotonic() - began

        delays = await asyncio.gather(*(decide(i) for i in range(30)))
        assert max(delays) <= 0.45
        own.resume()
        await back(store)
        assert await used(store, TOKENS) == [40]
        assert isinstance(await store.reserve("after", [Claim(TOKENS, 5)], LEASE_S), Granted)


async def test_a_settlement_waits_for_a_server_that_restarts(own: RedisServer) -> None:
    async with opened(own.url) as store:
        await store.reserve("a", [Claim(TOKENS, 100), Claim(CALLS, 1)], LEASE_S)
        own.crash()
        store.settle("a", Actual(tokens=40))
        await asyncio.sleep(0.3)
        own.start()
        await back(store)
        assert await used(store, TOKENS, CALLS) == [40, 0]


async def test_a_server_that_restarts_at_once_costs_no_call(own: RedisServer) -> None:
    async with opened(own.url) as store, Redis.from_url(own.url) as other:
        for i in range(5):
            await other.client_kill_filter(_type="normal", skipme=True)
            assert isinstance(await store.reserve(f"r{i}", [Claim(TOKENS, 1)], LEASE_S), Granted)
        assert await used(store, TOKENS) == [5]


async def test_closing_delivers_what_is_queued(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    async with opened(shared.url, prefix) as store:
        for i in range(300):
            store.settle(f"r{i}", NOTHING)
        await store.reserve("a", [Claim(TOKENS, 100)], LEASE_S)
        store.settle("a", Actual(tokens=1))
    async with opened(shared.url, prefix) as store:
        assert await used(store, TOKENS) == [1]


async def test_a_reply_lost_with_its_connection_is_asked_for_again_and_counted_once(shared: RedisServer) -> None:
    async with lossy_proxy(shared.port) as proxy, opened(f"redis://127.0.0.1:{proxy.port}/0") as store:
        for i in range(20):
            proxy.cut = 1
            assert isinstance(await store.reserve(f"r{i}", [Claim(TOKENS, 10)], LEASE_S), Granted)
            proxy.cut = 1
            store.settle(f"r{i}", Actual(tokens=3))
            await store.peek([TOKENS])
        assert proxy.lost == 40
        assert await used(store, TOKENS) == [60]


async def test_a_reservation_of_unknown_fate_is_refunded(shared: RedisServer) -> None:
    async with (
        lossy_proxy(shared.port) as proxy,
        opened(f"redis://127.0.0.1:{proxy.port}/0", decision_s=DECISION_S) as store,
    ):
        proxy.swallow = 1
        with pytest.raises(StoreUnavailable):
            await store.reserve("a", [Claim(TOKENS, 10)], LEASE_S)
        assert proxy.lost == 1
        await back(store)
        assert await used(store, TOKENS) == [0]


async def test_callers_who_leave_never_make_others_get_a_wrong_reply(shared: RedisServer) -> None:
    chance = random.Random(7)
    async with opened(shared.url) as store:

        async def call(i: int) -> bool:
            """Each has a counter and an amount of its own, so a stranger's reply would show."""
            limit = Limit("user", f"u{i}", "tokens", "total", 10**6)
            answer = await store.reserve(f"r{i}", [Claim(limit, i + 1)], LEASE_S)
            assert isinstance(answer, Granted)
            assert [(level.limit, level.used) for level in answer.levels] == [(limit, i + 1)]
            return True

        callers = [asyncio.create_task(call(i)) for i in range(1500)]
        for caller in chance.sample(callers, 700):
            if chance.random() < 0.3:
                await asyncio.sleep(0)
            caller.cancel()
        answers = await asyncio.gather(*callers, return_exceptions=True)
        stayed = [answer is True for answer in answers]
        assert all(answer is True or isinstance(answer, asyncio.CancelledError) for answer in answers)
        assert 0 < sum(stayed) < 1500
        limits = [Limit("user", f"u{i}", "tokens", "total", 10**6) for i in range(1500)]
        assert await used(store, *limits) == [i + 1 if stayed[i] else 0 for i in range(1500)]


async def test_of_two_gateways_callers_exactly_as_many_fit_as_one_would_let_in(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    command = [sys.executable, str(Path(__file__).with_name("claimants.py")), shared.url, prefix, "10", "100"]
    gateways = [
        await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        for _ in range(2)
    ]
    for gateway in gateways:
        assert gateway.stdout is not None
        assert await gateway.stdout.readline() == b"ready\n"
    told = await asyncio.gather(*(gateway.communicate(b"go\n") for gateway in gateways))
    assert sum(int(stdout) for stdout, _ in told) == 10


async def test_a_dead_gateways_holds_are_swept_by_another(shared: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "SWEEP_S", 0.05)
    prefix = uuid.uuid4().hex
    async with opened(shared.url, prefix) as dead:
        await dead.reserve("a", [Claim(TOKENS, 10), Claim(CALLS, 1)], 0.1)
    async with opened(shared.url, prefix), Redis.from_url(shared.url) as other:

        async def swept() -> bool:
            return not await other.zcard(f"{{{prefix}}}:0:leases")

        await until(swept)
        (key,) = [key async for key in other.scan_iter(match=f"{{{prefix}}}:0:used:*")]
        assert await other.hget(key, "r") == b"0"


async def test_a_gateway_whose_clock_jumps_still_counts_in_the_servers_window(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    jump = 0.0
    async with (
        opened(shared.url, prefix, lambda: time.monotonic() + jump) as skewed,
        opened(shared.url, prefix) as right,
    ):
        for jump in (0.0, 40 * 86_400.0, -300.0):
            assert isinstance(await skewed.reserve(f"r{jump}", [Claim(TOKENS, 10)], LEASE_S), Granted)
            assert (await skewed.peek([TOKENS]))[0].resets_in == pytest.approx(
                (await right.peek([TOKENS]))[0].resets_in, abs=2
            )
        assert await used(right, TOKENS) == [30]


async def test_counters_outlive_their_window_by_two_days_and_calls_at_once_leave_nothing(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    minute, total = Limit("user", "ada", "tokens", "minute", 100), Limit("user", "ada", "tokens", "total", 100)
    async with opened(shared.url, prefix) as store, Redis.from_url(shared.url) as other:
        await store.reserve("a", [Claim(minute, 1), Claim(total, 1), Claim(CALLS, 1)], LEASE_S)
        store.settle("a", Actual(tokens=1))
        await store.peek([minute])
        keys = {key.split(b":")[5]: key async for key in other.scan_iter(match=f"{{{prefix}}}:0:used:*")}
        assert set(keys) == {b"minute", b"total"}
        assert 2 * 86_400 < await other.ttl(keys[b"minute"]) <= 2 * 86_400 + 60
        assert await other.ttl(keys[b"total"]) == -1
        assert 0 < await other.ttl(f"{{{prefix}}}:0:call:a") <= 48 * 3600


async def test_a_full_server_is_an_unavailable_store_until_there_is_room(own: RedisServer) -> None:
    async with opened(own.url) as store, Redis.from_url(own.url) as other:
        await store.reserve("a", [Claim(TOKENS, 100)], LEASE_S)
        await other.config_set("maxmemory", "1")
        store.settle("a", Actual(tokens=40))
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await store.reserve("b", [Claim(TOKENS, 1)], LEASE_S)
        assert await used(store, TOKENS) == [100]
        await other.config_set("maxmemory", "0")

        async def delivered() -> bool:
            return await used(store, TOKENS) == [40]

        await until(delivered)


async def test_a_server_turned_replica_is_an_unavailable_store_not_a_crash(own: RedisServer) -> None:
    async with opened(own.url) as store, Redis.from_url(own.url) as other:
        await other.replicaof("127.0.0.1", "1")
        with pytest.raises(StoreUnavailable):
            await store.reserve("a", [Claim(TOKENS, 1)], LEASE_S)
        await other.replicaof("NO", "ONE")
        await back(store)
        assert isinstance(await store.reserve("b", [Claim(TOKENS, 1)], LEASE_S), Granted)


async def test_a_server_that_may_evict_counters_is_warned_about(
    own: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with Redis.from_url(own.url) as other:
        async with opened(own.url):
            assert not caplog.records
        await other.config_set("maxmemory-policy", "allkeys-lru")
        async with opened(own.url):
            assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_starting_without_a_server_says_so(own: RedisServer) -> None:
    own.stop()
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await RedisStore(own.url, Calendar(UTC)).start()


async def test_a_script_takes_only_plain_digits(shared: RedisServer) -> None:
    """The door checks amounts; should something slip through, a script must not count it."""
    async with opened(shared.url) as store, Redis.from_url(shared.url) as other:
        await store.reserve("a", [Claim(TOKENS, 1)], LEASE_S)
        moment = int(time.time() * 1000)
        for amount in ("nan", "0x10", "1e3", "-1", "1.5", "", " 1"):
            with pytest.raises(Exception, match="not an integer"):
                await other.evalsha(
                    DIGESTS["reserve"],
                    3,
                    "{x}:r",
                    "{x}:l",
                    "{x}:c",
                    "t",
                    moment,
                    1000,
                    amount,
                    "10",
                    "deny",
                    "tokens",
                    "",
                )
        assert not await other.exists("{x}:r", "{x}:l", "{x}:c")


async def test_a_lost_counter_never_turns_into_room(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    tight = Limit("user", "ada", "tokens", "total", 10)
    async with opened(shared.url, prefix) as store, Redis.from_url(shared.url) as other:
        await store.reserve("a", [Claim(tight, 10)], LEASE_S)
        (key,) = [key async for key in other.scan_iter(match=f"{{{prefix}}}:0:used:*")]
        await other.delete(key)
        store.settle("a", NOTHING)
        assert await used(store, tight) == [0]
        assert isinstance(await store.reserve("b", [Claim(tight, 11)], LEASE_S), Denied)

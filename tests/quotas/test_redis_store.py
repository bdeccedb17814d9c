"""What can go wrong between a gateway and its Redis. What the verbs mean is in tests/contract."""

from __future__ import annotations

import asyncio
import random
import sys
import time
import uuid
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.core.limits import NOTHING, Actual, Claim, Denied, Granted, Limit
from gateway.core.ports import DECISION_S, StoreUnavailable
from gateway.quotas.link import DIGESTS, SOURCES
from gateway.quotas.redis import RedisStore
from gateway.quotas.windows import Calendar
from tests.quotas.caller import CALLS, INSTALLATION, LEASE_S, TOKENS, UTC, back, redis_caller
from tests.support.redis_server import RedisServer
from tests.support.tcp_proxy import lossy_proxy
from tests.support.until import until


async def test_no_call_fails_while_the_servers_scripts_keep_vanishing(shared: RedisServer) -> None:
    async with redis_caller(shared.url) as store, Redis.from_url(shared.url) as other:
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
        assert await store.used(TOKENS) == [1500]


async def test_a_stopped_server_is_known_in_a_quarter_of_a_second_and_nothing_leaks(own: RedisServer) -> None:
    async with redis_caller(own.url, decision_s=DECISION_S) as store:
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
        assert await store.used(TOKENS) == [40]
        assert isinstance(await store.reserve("after", [Claim(TOKENS, 5)], LEASE_S), Granted)


async def test_a_settlement_waits_for_a_server_that_restarts(own: RedisServer) -> None:
    async with redis_caller(own.url) as store:
        await store.reserve("a", [Claim(TOKENS, 100), Claim(CALLS, 1)], LEASE_S)
        own.crash()
        store.settle("a", Actual(tokens=40))
        await asyncio.sleep(0.3)
        own.start()
        await back(store)
        assert await store.used(TOKENS, CALLS) == [40, 0]


async def test_a_server_that_restarts_at_once_costs_no_call(own: RedisServer) -> None:
    async with redis_caller(own.url) as store, Redis.from_url(own.url) as other:
        for i in range(5):
            await other.client_kill_filter(_type="normal", skipme=True)
            assert isinstance(await store.reserve(f"r{i}", [Claim(TOKENS, 1)], LEASE_S), Granted)
        assert await store.used(TOKENS) == [5]


async def test_closing_delivers_what_is_queued(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    async with redis_caller(shared.url, prefix) as store:
        for i in range(300):
            store.settle(f"r{i}", NOTHING)
        await store.reserve("a", [Claim(TOKENS, 100)], LEASE_S)
        store.settle("a", Actual(tokens=1))
    async with redis_caller(shared.url, prefix) as store:
        assert await store.used(TOKENS) == [1]


async def test_a_reply_lost_with_its_connection_is_asked_for_again_and_counted_once(shared: RedisServer) -> None:
    async with lossy_proxy(shared.port) as proxy, redis_caller(f"redis://127.0.0.1:{proxy.port}/0") as store:
        for i in range(20):
            proxy.cut = 1
            assert isinstance(await store.reserve(f"r{i}", [Claim(TOKENS, 10)], LEASE_S), Granted)
            proxy.cut = 1
            store.settle(f"r{i}", Actual(tokens=3))
            await store.peek([TOKENS])
        assert proxy.lost == 40
        assert await store.used(TOKENS) == [60]


async def test_a_reservation_of_unknown_fate_ends_with_its_settlement(shared: RedisServer) -> None:
    async with (
        lossy_proxy(shared.port) as proxy,
        redis_caller(f"redis://127.0.0.1:{proxy.port}/0", decision_s=DECISION_S) as store,
    ):
        for rid, actual in (("given up", None), ("let through", 7)):
            proxy.swallow = 1
            with pytest.raises(StoreUnavailable):
                await store.reserve(rid, [Claim(TOKENS, 10)], LEASE_S)
            if actual is None:
                store.store.settle(rid, (), 0.0, NOTHING)
            else:
                store.settle(rid, Actual(tokens=actual))
            await back(store)
        assert proxy.lost == 2
        assert await store.used(TOKENS) == [7]
        assert await store.reserved(TOKENS) == [0]


async def test_callers_who_leave_never_make_others_get_a_wrong_reply(shared: RedisServer) -> None:
    chance = random.Random(7)
    async with redis_caller(shared.url) as store:

        async def call(i: int) -> bool:
            """Each has a counter and an amount of its own, so a stranger's reply would show."""
            limit = Limit("user", f"u{i}", "tokens", "total", 10**6)
            try:
                answer = await store.reserve(f"r{i}", [Claim(limit, i + 1)], LEASE_S)
            except asyncio.CancelledError:
                store.store.settle(f"r{i}", (), 0.0, NOTHING)
                raise
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
        assert await store.used(*limits) == [i + 1 if stayed[i] else 0 for i in range(1500)]


async def test_of_two_gateways_callers_exactly_as_many_fit_as_one_would_let_in(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    command = [sys.executable, str(Path(__file__).with_name("claimants.py")), shared.url, prefix, "10", "100"]
    async with redis_caller(shared.url, prefix):
        pass
    gateways = [
        await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        for _ in range(2)
    ]
    for gateway in gateways:
        assert gateway.stdout is not None
        assert await gateway.stdout.readline() == b"ready\n"
    told = await asyncio.gather(*(gateway.communicate(b"go\n") for gateway in gateways))
    assert sum(int(stdout) for stdout, _ in told) == 10


async def test_a_dead_gateways_holds_are_let_go_by_anothers_pulse(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    async with redis_caller(shared.url, prefix) as dead:
        await dead.reserve("a", [Claim(TOKENS, 10), Claim(CALLS, 1)], 0.05)
    async with redis_caller(shared.url, prefix) as alive, Redis.from_url(shared.url) as other:
        await asyncio.sleep(0.1)
        assert await alive.store.pulse() == "open"
        assert not await other.zcard(f"{{{prefix}}}:leases")
        assert [key async for key in other.scan_iter(match=f"{{{prefix}}}:used:*")] == []


@pytest.mark.parametrize("jump_s", [7200.0, -86_400.0, 301.0])
async def test_a_gateway_whose_clock_jumps_still_counts_in_the_servers_window(
    shared: RedisServer, jump_s: float
) -> None:
    prefix = uuid.uuid4().hex
    minute = Limit("user", "ada", "tokens", "minute", 10**9)
    jump = 0.0
    async with (
        redis_caller(shared.url, prefix, lambda: time.monotonic() + jump) as skewed,
        redis_caller(shared.url, prefix) as right,
    ):
        jump = jump_s
        at = skewed.store.now()
        answer = await skewed.reserve("a", [Claim(minute, 10), Claim(TOKENS, 10)], LEASE_S, at)
        assert isinstance(answer, Granted)
        assert abs(answer.at - right.store.now()) < 5
        assert abs(skewed.store.now() - right.store.now()) < 1
        late = await skewed.reserve("b", [Claim(TOKENS, 10)], LEASE_S, at)
        assert isinstance(late, Granted)
        assert abs(late.at - right.store.now()) < 5, "a moment of the old clock is none of the new one's"
        assert (await skewed.peek([TOKENS]))[0].resets_in == pytest.approx(
            (await right.peek([TOKENS]))[0].resets_in, abs=2
        )
        skewed.settle("a", Actual(tokens=4))
        assert await skewed.used(TOKENS) == await right.used(TOKENS) == [14]


@pytest.mark.parametrize("verb", ["pulse", "cut", "audit", "peek"])
async def test_every_verb_that_asks_for_the_time_sets_the_clock(shared: RedisServer, verb: str) -> None:
    jump = 0.0
    async with redis_caller(shared.url, "", lambda: time.monotonic() + jump) as store:
        jump = 7200.0
        store_verbs = {
            "pulse": store.store.pulse,
            "cut": lambda: store.store.cut([TOKENS], 3),
            "audit": lambda: store.store.audit([TOKENS]),
            "peek": lambda: store.store.peek([TOKENS]),
        }
        await store_verbs[verb]()
        assert abs(store.store.now() - time.time()) < 60


@pytest.mark.parametrize("jump_ms", [7_200_000, -86_400_000])
async def test_a_servers_clock_that_is_set_ends_no_running_lease_and_keeps_no_dead_one(
    shared: RedisServer, jump_ms: int
) -> None:
    """What such a jump leaves behind: leases, and the moment they were last looked at, in the time before it."""
    prefix = uuid.uuid4().hex
    space = f"{{{prefix}}}"
    async with redis_caller(shared.url, prefix) as store, Redis.from_url(shared.url) as other:
        await store.reserve("runs", [Claim(TOKENS, 10)], LEASE_S)
        await store.reserve("dead", [Claim(TOKENS, 5)], 0.3)
        await store.store.pulse()
        for record, score in await other.zrange(f"{space}:leases", 0, -1, withscores=True):
            await other.zadd(f"{space}:leases", {record: score - jump_ms})
        await other.hincrby(f"{space}:watch", "beat", -jump_ms)
        await store.store.pulse()
        assert await store.reserved(TOKENS) == [15]
        await asyncio.sleep(0.4)
        await store.store.pulse()
        assert await store.reserved(TOKENS) == [10]


async def test_a_servers_clock_that_went_back_leaves_no_call_beyond_the_line(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    month = Limit("user", "ada", "tokens", "total", 10**9)
    async with redis_caller(shared.url, prefix) as store, Redis.from_url(shared.url) as other:
        await store.store.pulse()
        await other.hincrby(f"{{{prefix}}}:watch", "beat", 60_000)
        before = store.store.now() + 60
        store.store.settle("a", [Claim(month, 1)], before - 1, Actual(tokens=5))
        await store.store.pulse()
        await store.store.cut([month], 3.0)
        (count,) = await store.store.audit([month])
        assert count.since >= before + 2
        assert count.settled == 5


async def test_counters_outlive_their_window_by_two_days_and_calls_at_once_leave_nothing(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    minute, total = Limit("user", "ada", "tokens", "minute", 100), Limit("user", "ada", "tokens", "total", 100)
    async with redis_caller(shared.url, prefix) as store, Redis.from_url(shared.url) as other:
        await store.reserve("a", [Claim(minute, 1), Claim(total, 1), Claim(CALLS, 1)], LEASE_S)
        store.settle("a", Actual(tokens=1))
        await store.peek([minute])
        keys = {key.split(b":")[4]: key async for key in other.scan_iter(match=f"{{{prefix}}}:used:*")}
        assert set(keys) == {b"minute", b"total"}
        assert 2 * 86_400 < await other.ttl(keys[b"minute"]) <= 2 * 86_400 + 60
        assert await other.ttl(keys[b"total"]) == -1
        assert 0 < await other.ttl(f"{{{prefix}}}:call:a") <= 48 * 3600


async def test_a_full_server_is_an_unavailable_store_until_there_is_room(own: RedisServer) -> None:
    async with redis_caller(own.url) as store, Redis.from_url(own.url) as other:
        await store.reserve("a", [Claim(TOKENS, 100)], LEASE_S)
        await other.config_set("maxmemory", "1")
        store.settle("a", Actual(tokens=40))
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await store.reserve("b", [Claim(TOKENS, 1)], LEASE_S)
        assert await store.used(TOKENS) == [100]
        await other.config_set("maxmemory", "0")

        async def delivered() -> bool:
            return await store.used(TOKENS) == [40]

        await until(delivered)


async def test_a_server_turned_replica_is_an_unavailable_store_not_a_crash(own: RedisServer) -> None:
    async with redis_caller(own.url) as store, Redis.from_url(own.url) as other:
        await other.replicaof("127.0.0.1", "1")
        with pytest.raises(StoreUnavailable):
            await store.reserve("a", [Claim(TOKENS, 1)], LEASE_S)
        await other.replicaof("NO", "ONE")
        await back(store)
        assert isinstance(await store.reserve("b", [Claim(TOKENS, 1)], LEASE_S), Granted)


async def test_starting_without_a_server_says_so(own: RedisServer) -> None:
    own.stop()
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await RedisStore(own.url, Calendar(UTC)).start(INSTALLATION)


AMOUNTS = ("nan", "0x10", "1e3", "-1", "1.5", "", " 1", str(2**50))


@pytest.mark.parametrize("amount", AMOUNTS)
async def test_a_script_takes_only_small_plain_digits(shared: RedisServer, amount: str) -> None:
    """The door checks amounts; should something slip through, a script must not count it."""
    moment = int(time.time() * 1000)
    keys = ["{x}:r", "{x}:l", "{x}:w", "{x}:m", "{x}:c"]
    calls: dict[str, list[str | int]] = {
        "reserve": [5, *keys, "t", moment, 1000, "open x y", amount, "", "10", "deny"],
        "hold": [3, "{x}:r", "{x}:l", "{x}:c", "t", 1000, amount, "", "10", "deny"],
        "settle": [5, "{x}:r", "{x}:l", "{x}:late", "{x}:m", "{x}:c", "t", moment, amount, ""],
        "rebase": [3, "{x}:late", "{x}:w", "{x}:c", "t", 0, 0, 0, 0, amount if amount != "-1" else "--1"],
    }
    async with Redis.from_url(shared.url) as other:
        await other.set("{x}:m", "open x y")
        for verb, arguments in calls.items():
            await other.delete("{x}:w")
            await other.script_load(SOURCES[verb].decode())
            with pytest.raises(ResponseError, match=r"not an integer|too large"):
                await other.evalsha(DIGESTS[verb], *arguments)  # type: ignore[arg-type]
        assert not await other.exists("{x}:r", "{x}:l", "{x}:c")


async def test_a_claim_on_what_costs_nothing_settles_like_any_other(shared: RedisServer) -> None:
    cost = Limit("user", "ada", "cost", "month", 10)
    async with redis_caller(shared.url) as store:
        await store.reserve("a", [Claim(cost, 0), Claim(TOKENS, 5)], LEASE_S)
        store.settle("a", Actual(tokens=3))
        assert await store.used(TOKENS) == [3]
        await store.reserve("b", [Claim(cost, 0), Claim(TOKENS, 5)], 0.01)
        await asyncio.sleep(0.05)
        assert await store.used(TOKENS) == [3]


async def test_a_lost_counter_never_turns_into_room(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    tight = Limit("user", "ada", "tokens", "total", 10)
    async with redis_caller(shared.url, prefix) as store, Redis.from_url(shared.url) as other:
        await store.reserve("a", [Claim(tight, 10)], LEASE_S)
        (key,) = [key async for key in other.scan_iter(match=f"{{{prefix}}}:used:*")]
        await other.delete(key)
        store.settle("a", NOTHING)
        assert await store.used(tight) == [0]
        assert isinstance(await store.reserve("b", [Claim(tight, 11)], LEASE_S), Denied)

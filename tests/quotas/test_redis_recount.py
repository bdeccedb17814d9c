"""What Redis remembers of whose counters it has, and what it may forget. The rest is in tests/contract."""

from __future__ import annotations

import asyncio
import re
import uuid

import pytest
from redis.asyncio import Redis

from gateway.core.limits import NOTHING, Actual, Base, Claim, Denied, Granted, Limit
from gateway.core.ports import DECISION_S, StoreUnavailable
from gateway.quotas import batcher as batching
from gateway.quotas import redis as redis_store
from gateway.quotas.redis import RedisStore
from gateway.quotas.windows import Calendar
from tests.quotas.caller import CALLS, INSTALLATION, LEASE_S, TOKENS, UTC, back, redis_caller
from tests.support.redis_server import RedisServer


async def test_an_emptied_store_grants_nothing_and_forgets_no_settlement(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    async with redis_caller(shared.url, prefix) as store, Redis.from_url(shared.url) as other:
        await store.reserve("runs", [Claim(TOKENS, 10)], LEASE_S)
        for key in [key async for key in other.scan_iter(match=f"{{{prefix}}}:*")]:
            await other.delete(key)
        with pytest.raises(StoreUnavailable, match="rebuilt"):
            await store.reserve("a", [Claim(TOKENS, 1)], LEASE_S)
        store.settle("a", NOTHING)
        assert await store.store.pulse() == "lost"
        store.settle("runs", Actual(tokens=4))
        assert await store.used(TOKENS) == [4]
        assert await store.store.begin_rebuild()
        assert await store.store.pulse() == "rebuilding"
        with pytest.raises(StoreUnavailable, match="rebuilt"):
            await store.reserve("b", [Claim(TOKENS, 1)], LEASE_S)
        await store.store.cut([TOKENS], 3.0)
        (count,) = await store.store.audit([TOKENS])
        assert (count.based, count.settled) == (False, 4)
        await store.store.rebase([Base(count, 30)], [], await store.store.turn())
        assert await store.store.end_rebuild()
        assert await store.store.pulse() == "open"
        assert await store.settled(TOKENS) == [34], "its row may not have been among those that the ledger told of"
        assert isinstance(await store.reserve("c", [Claim(TOKENS, 1)], LEASE_S), Granted)


async def test_one_gateway_of_all_rebuilds(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    one, two = (RedisStore(shared.url, Calendar(UTC), prefix=prefix, decision_s=5.0) for _ in range(2))
    await one.start(INSTALLATION)
    await two.start(INSTALLATION)
    async with Redis.from_url(shared.url) as other:
        assert await one.begin_rebuild()
        assert not await two.begin_rebuild()
        assert await one.begin_rebuild(), "to have more time"
        assert 0 < await other.pttl(f"{{{prefix}}}:marker") <= 10_000
        await other.delete(f"{{{prefix}}}:marker")  # it took too long
        assert await two.begin_rebuild()
        assert not await one.end_rebuild()
        assert await two.end_rebuild()
        assert await other.pttl(f"{{{prefix}}}:marker") == -1
    assert await one.pulse() == await two.pulse() == "open"
    await one.close()
    await two.close()


async def test_another_installations_store_is_a_lost_one_and_its_late_calls_are_not_ours(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    async with redis_caller(shared.url, prefix, installation="first") as store:
        await store.store.cut([TOKENS], 30.0)
        store.store.settle("a", [Claim(TOKENS, 1)], store.store.now(), Actual(tokens=5))
        assert list(await store.store.late()) == ["a"]
    other = RedisStore(shared.url, Calendar(UTC), prefix=prefix, decision_s=5.0)
    await other.start("first one's name is longer")
    assert await other.pulse() == "lost"
    assert await other.begin_rebuild()
    assert list(await other.late()) == []
    await other.close()


async def test_one_gateway_of_all_leads_until_it_is_gone(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    async with redis_caller(shared.url, prefix) as one, redis_caller(shared.url, prefix) as two:
        assert await one.store.lead(60)
        assert not await two.store.lead(60)
        assert await one.store.lead(0.02)
        await asyncio.sleep(0.05)
        assert await two.store.lead(60)


async def test_a_server_that_restarted_is_suspect_to_all_until_one_has_counted(own: RedisServer) -> None:
    async with redis_caller(own.url, "p") as one, redis_caller(own.url, "p") as two:
        own.crash()
        own.start()
        for store in (one, two):
            await back(store)
            assert await store.store.pulse() == "suspect"
            with pytest.raises(StoreUnavailable, match="rebuilt"):
                await store.reserve("too early", [Claim(TOKENS, 1)])
        await one.store.cut([TOKENS], 3.0)
        assert await one.store.begin_rebuild()
        assert await one.store.end_rebuild()
        assert await one.store.pulse() == await two.store.pulse() == "open"


async def test_a_server_that_evicts_is_suspect(own: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "LOOK_S", 0.0)
    async with redis_caller(own.url) as store, Redis.from_url(own.url) as other:
        assert await store.store.pulse() == "open"
        memory = int((await other.info("memory"))["used_memory"])
        await other.config_set("maxmemory-policy", "allkeys-random")
        await other.config_set("maxmemory", str(memory + 200_000))
        for i in range(400):
            await other.set(f"filler {i}", "x" * 1000)
        await other.config_set("maxmemory", "0")
        assert await store.store.pulse() in ("suspect", "lost")
        if await store.store.pulse() == "suspect":
            assert await store.store.begin_rebuild()
            assert await store.store.end_rebuild()
            assert await store.store.pulse() == "open"


async def test_settlements_that_had_to_be_dropped_make_the_store_suspect(
    own: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "BACKLOG", 3)
    async with redis_caller(own.url, decision_s=DECISION_S) as store:
        own.pause()
        for i in range(5):
            store.store.settle(f"r{i}", [Claim(TOKENS, 1)], store.store.now(), Actual(tokens=1))
        await asyncio.sleep(0.1)
        own.resume()
        await back(store)
        assert await store.store.pulse() == "suspect"
        await store.store.cut([TOKENS], 3.0)
        assert await store.store.begin_rebuild()
        assert await store.store.end_rebuild()
        assert await store.store.pulse() == "open"
        assert await store.settled(TOKENS) == [3]


async def test_a_pulse_says_that_the_store_is_away(own: RedisServer) -> None:
    async with redis_caller(own.url, decision_s=DECISION_S) as store:
        own.pause()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.store.pulse()
        own.resume()
        await back(store)
        assert await store.store.pulse() == "open"


async def test_a_cut_counts_anew_what_is_reserved(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    async with redis_caller(shared.url, prefix) as store, Redis.from_url(shared.url) as other:
        for rid, amount in (("a", 10), ("b", 5)):
            await store.reserve(rid, [Claim(TOKENS, amount)], LEASE_S)
        (key,) = [key async for key in other.scan_iter(match=f"{{{prefix}}}:used:*")]
        await other.delete(key)
        await store.reserve("c", [Claim(TOKENS, 1)], LEASE_S)
        assert await store.reserved(TOKENS) == [1]
        await store.store.cut([TOKENS], 3.0)
        assert await store.reserved(TOKENS) == [16]
        for rid in "abc":
            store.settle(rid, NOTHING)
        assert await store.reserved(TOKENS) == [0]


async def test_a_lease_that_is_lost_is_one_to_hold_again(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    async with redis_caller(shared.url, prefix) as store, Redis.from_url(shared.url) as other:
        await store.reserve("a", [Claim(TOKENS, 10)], LEASE_S)
        await other.delete(f"{{{prefix}}}:leases")
        assert list(await store.store.renew(["a"], LEASE_S)) == ["a"]
        await store.store.hold("a", [Claim(TOKENS, 10)], LEASE_S, store.store.now())
        assert list(await store.store.renew(["a"], LEASE_S)) == []
        assert await store.reserved(TOKENS) == [10]


async def test_late_calls_wait_two_days_for_their_row(shared: RedisServer) -> None:
    prefix = uuid.uuid4().hex
    async with redis_caller(shared.url, prefix) as store, Redis.from_url(shared.url) as other:
        await store.store.cut([TOKENS], 30.0)
        now = store.store.now()
        for rid in ("old", "new"):
            store.store.settle(rid, [Claim(TOKENS, 1)], now, Actual(tokens=5))
        await store.store.pulse()
        entry = await other.hget(f"{{{prefix}}}:late", "old")
        assert entry is not None
        older = str(int((now - 2 * 86_400 - 60) * 1000)).encode()
        await other.hset(f"{{{prefix}}}:late", "old", re.sub(rb"\d{13}", older, entry, count=1))
        (count,) = await store.store.audit([TOKENS])
        await store.store.rebase([Base(count, 100)], [], await store.store.turn())
        assert list(await store.store.late()) == ["new"]
        assert await store.settled(TOKENS) == [105]


async def place_of_tokens(other: Redis, prefix: str) -> str:
    """The key under which tokens are counted; there is one."""
    (key,) = [key async for key in other.scan_iter(match=f"{{{prefix}}}:used:*:tokens:*")]
    return str(key.decode())


async def test_another_programs_key_in_a_counters_place_goes_and_nothing_is_granted_until_it_is_counted(
    shared: RedisServer,
) -> None:
    prefix = uuid.uuid4().hex
    limit = Limit("user", "ada", "tokens", "month", 100)
    async with redis_caller(shared.url, prefix) as store, Redis.from_url(shared.url) as other:
        await store.reserve("runs", [Claim(limit, 10), Claim(CALLS, 1)], LEASE_S)
        await store.reserve("done", [Claim(limit, 40)], LEASE_S)
        store.settle("done", Actual(tokens=40))
        assert await store.settled(limit) == [40]
        await other.set(await place_of_tokens(other, prefix), "something else")
        (count,) = await store.store.audit([limit])
        assert (count.based, count.settled) == (False, 0), "a check says that it is not counted up"
        for rid in ("a", "b"):
            with pytest.raises(StoreUnavailable, match="rebuilt"):
                await store.reserve(rid, [Claim(limit, 100)], LEASE_S)
        assert await store.store.pulse() == "suspect"
        await store.store.cut([limit], 3.0)
        (count,) = await store.store.audit([limit])
        assert (count.reserved, count.based) == (10, False)
        assert await store.store.rebase([Base(count, 40)], [], await store.store.turn(), raising=True)
        assert await store.store.begin_rebuild()
        assert await store.store.end_rebuild()
        assert await store.store.pulse() == "open"
        assert await store.used(limit, CALLS) == [50, 1]
        assert isinstance(await store.reserve("c", [Claim(limit, 51)], LEASE_S), Denied)
        assert isinstance(await store.reserve("d", [Claim(limit, 50)], LEASE_S), Granted)


async def test_a_call_that_settles_where_another_program_has_written_is_counted_and_settles_all_else_once(
    shared: RedisServer,
) -> None:
    prefix = uuid.uuid4().hex
    async with redis_caller(shared.url, prefix) as store, Redis.from_url(shared.url) as other:
        for rid in ("a", "b"):
            await store.reserve(rid, [Claim(CALLS, 1), Claim(TOKENS, 10)], LEASE_S)
        await other.set(await place_of_tokens(other, prefix), "something else")
        store.settle("a", Actual(tokens=7))
        assert await store.settled(TOKENS) == [7]
        assert await store.used(CALLS) == [1]
        assert await store.store.pulse() == "suspect"
        await store.store.cut([TOKENS], 3.0)
        assert await store.reserved(TOKENS) == [10]


@pytest.mark.parametrize("name", ["leases", "watch", "late", "marker", "lead"])
async def test_another_programs_key_in_any_other_place_goes_too(shared: RedisServer, name: str) -> None:
    prefix = uuid.uuid4().hex
    async with redis_caller(shared.url, prefix) as store, Redis.from_url(shared.url) as other:
        await store.reserve("runs", [Claim(TOKENS, 10)], LEASE_S)
        key = f"{{{prefix}}}:{name}"
        await other.delete(key)
        await other.rpush(key, "something else")
        state = await store.store.pulse()
        assert state == {"marker": "lost", "lead": "open"}.get(name, "suspect")
        assert await store.store.begin_rebuild() == (state != "open")
        await store.store.hold("runs", [Claim(TOKENS, 10)], LEASE_S, store.store.now())
        await store.store.cut([TOKENS], 3.0)
        assert await store.store.end_rebuild() == (state != "open")
        assert await store.store.pulse() == "open"
        assert await store.store.lead(60)
        assert await store.reserved(TOKENS) == [10]
        assert list(await store.store.late()) == []

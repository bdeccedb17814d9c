"""Answers in Redis when a gateway dies, when Redis is away, and when it has lost what it was told."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.idempotency.redis import RedisAnswers
from gateway.idempotency.seam import OVERHEAD, Answer, StoreUnavailable
from tests.support.redis_server import RedisServer, redis_server
from tests.support.tcp_proxy import fault_proxy, lossy_proxy
from tests.support.until import until

ANSWER = Answer(200, [(b"content-type", b"application/json")], b"{}")
BUSY_BOX_S = 1.0


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


def a_store(url: str, prefix: str, **options: float) -> RedisAnswers:
    return RedisAnswers(url, prefix=prefix, **{"decision_s": 5.0, **options})  # type: ignore[arg-type]


@pytest.fixture
async def witness(redis: RedisServer, prefix: str) -> AsyncIterator[RedisAnswers]:
    """Another process."""
    store = a_store(redis.url, prefix)
    yield store
    await store.close()


async def test_the_key_of_a_gateway_that_died_is_free_when_its_lease_lapses(
    redis: RedisServer, prefix: str, witness: RedisAnswers
) -> None:
    dying = a_store(redis.url, prefix, lease_s=0.3, renew_s=0.1)
    await dying.start()
    assert await dying.claim("s", "body", "r1") == "granted"
    await asyncio.sleep(0.6)
    assert await witness.claim("s", "body", "r2") == "running", "while it lives the lease is renewed"
    await dying.close()
    await asyncio.sleep(0.4)
    assert await witness.claim("s", "body", "r3") == "granted"


async def test_an_answer_that_comes_after_its_lease_lapsed_leaves_the_next_claim_alone(
    redis: RedisServer, prefix: str, witness: RedisAnswers
) -> None:
    late = a_store(redis.url, prefix, lease_s=0.05)
    await late.claim("s", "body", "r1")
    await asyncio.sleep(0.1)
    assert await witness.claim("s", "body", "r2") == "granted"
    await late.keep("s", "body", "r1", ANSWER, 60)
    await late.free("s", "r1")
    assert await witness.claim("s", "body", "r3") == "running"
    await late.close()


async def test_a_running_call_that_redis_has_forgotten_is_told_again(
    redis: RedisServer, prefix: str, witness: RedisAnswers
) -> None:
    store = a_store(redis.url, prefix, renew_s=0.05)
    await store.start()
    await store.claim("s", "body", "r1")
    redis.ask("FLUSHALL")
    redis.ask("SCRIPT FLUSH")

    async def told() -> bool:
        return await witness.claim("s", "other", "r2") == "other_body" or await freed(witness)

    await until(told)
    await store.keep("s", "body", "r1", ANSWER, 60)
    assert await witness.claim("s", "body", "r3") == ANSWER
    await store.close()


async def test_a_reminder_closes_the_keys_of_running_calls_at_once(
    redis: RedisServer, prefix: str, witness: RedisAnswers
) -> None:
    store = a_store(redis.url, prefix)
    await store.start()
    running = [f"running{number}" for number in range(1200)]
    for scope in running:
        await store.claim(scope, "body", "r1")
    await store.claim("ended", "body", "r1")
    await store.free("ended", "r1")
    redis.ask("FLUSHALL")
    await store.remind()
    for scope in (running[0], running[600], running[-1]):
        assert await witness.claim(scope, "body", "r2") == "running"
        assert await witness.claim(scope, "other", "r2") == "other_body"
    assert await witness.claim("ended", "body", "r2") == "granted"
    await store.keep(running[0], "body", "r1", ANSWER, 60)
    assert await witness.claim(running[0], "body", "r3") == ANSWER
    await store.close()


async def test_the_process_that_makes_a_call_knows_so_whatever_redis_has_forgotten(
    redis: RedisServer, prefix: str
) -> None:
    store = a_store(redis.url, prefix)
    await store.claim("s", "body", "r1")
    redis.ask("FLUSHALL")
    assert await store.claim("s", "body", "r2") == "running"
    assert await store.claim("s", "other", "r2") == "other_body"
    await store.free("s", "r1")
    assert await store.claim("s", "other", "r2") == "granted"
    await store.close()


async def test_a_reminder_leaves_a_call_alone_that_another_has_taken_in_hand_meanwhile(
    redis: RedisServer, prefix: str, witness: RedisAnswers
) -> None:
    store = a_store(redis.url, prefix)
    await store.claim("s", "body", "r1")
    redis.ask("FLUSHALL")
    await witness.claim("s", "body", "r2")
    await store.remind()
    await store.free("s", "r1")
    assert await store.claim("s", "body", "r3") == "running", "it is the other's"
    await store.close()


async def test_a_reminder_that_cannot_be_delivered_is_left_to_the_next_renewal(
    redis: RedisServer, prefix: str, witness: RedisAnswers, caplog: pytest.LogCaptureFixture
) -> None:
    store = a_store(redis.url, prefix, decision_s=0.25)
    await store.claim("s", "body", "r1")
    redis.ask("FLUSHALL")
    redis.pause()
    try:
        await store.remind()
    finally:
        redis.resume()
    assert "cannot be told of running calls" in caplog.text
    await store.remind()
    assert await witness.claim("s", "body", "r2") == "running"
    await store.close()


async def freed(store: RedisAnswers) -> bool:
    await store.free("s", "r2")
    return False


async def test_while_redis_stands_still_a_claim_is_decided_in_time_and_frees_itself_later(
    redis: RedisServer, prefix: str, witness: RedisAnswers
) -> None:
    store = RedisAnswers(redis.url, prefix=prefix, renew_s=0.1)
    await store.start()
    await store.claim("warm", "body", "r0")
    redis.pause()
    try:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.claim("s", "body", "r1")
        assert time.monotonic() - began < 0.3 + BUSY_BOX_S
    finally:
        redis.resume()

    async def free() -> bool:
        return await witness.claim("s", "body", "r2") == "granted"

    await until(free)
    await store.close()


async def test_a_claim_that_may_take_no_longer_is_not_asked_for_and_frees_itself_if_it_was(
    redis: RedisServer, prefix: str, witness: RedisAnswers
) -> None:
    async with fault_proxy(redis.port) as proxy:
        store = a_store(f"redis://127.0.0.1:{proxy.port}/0", prefix)
        await store.start()
        await store.claim("warm", "body", "r0")
        proxy.latency_s = 0.1
        began = time.monotonic()
        for by in (began, began + 0.05):
            with pytest.raises(StoreUnavailable):
                await store.claim("s", "body", "r1", by)
        assert time.monotonic() - began < 0.15
        await until(lambda: granted(witness, "s"))
        await store.close()


async def test_a_key_that_cannot_be_freed_in_time_is_free_soon(
    redis: RedisServer, prefix: str, witness: RedisAnswers
) -> None:
    store = a_store(redis.url, prefix, renew_s=3600.0)
    await store.start()
    await store.claim("s", "body", "r1")
    began = time.monotonic()
    await store.free("s", "r1", began)
    assert time.monotonic() - began < 0.1
    await until(lambda: granted(witness, "s"))
    await store.close()


async def test_a_store_ends_when_told_whatever_it_is_doing(redis: RedisServer, prefix: str) -> None:
    for turns in range(20):
        store = a_store(redis.url, prefix)
        await store.start()
        await store.claim(f"s{turns}", "body", "r1")
        await store.free(f"s{turns}", "r1", time.monotonic())  # what it does now is to free it
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await store.close()


async def granted(store: RedisAnswers, scope: str) -> bool:
    return await store.claim(scope, "body", "witness") == "granted"


async def test_an_answer_that_was_lost_on_its_way_is_never_taken_for_another(
    redis: RedisServer, prefix: str, witness: RedisAnswers
) -> None:
    async with lossy_proxy(redis.port) as proxy:
        store = RedisAnswers(f"redis://127.0.0.1:{proxy.port}/0", prefix=prefix)
        for number in range(20):
            assert await store.claim(f"s{number}", "body", "r1") == "granted"
            await store.keep(f"s{number}", "body", "r1", Answer(200, [], b"%d" % number), 60)
        proxy.swallow = 3
        lost = 0
        for number in range(20):
            try:
                found = await store.claim(f"s{number}", "body", "r2")
            except StoreUnavailable:
                lost += 1
            else:
                assert found == Answer(200, [], b"%d" % number)
        assert lost == 3
        proxy.cut = 1
        with pytest.raises(StoreUnavailable):
            await store.claim("s0", "body", "r3")
        assert await store.claim("s0", "body", "r4") == Answer(200, [], b"0")
        await store.close()
        await until(lambda: len(asyncio.all_tasks()) == 1)  # the proxy has noticed


async def test_the_oldest_answers_make_room_for_new_ones(redis: RedisServer, prefix: str) -> None:
    store = a_store(redis.url, prefix, most_bytes=3 * (OVERHEAD + 1000))
    for scope in "abcd":
        await store.claim(scope, "body", "r1")
        await store.keep(scope, "body", "r1", Answer(200, [], b"x" * 1000), 60)
    assert [await store.claim(scope, "body", "r2") == "granted" for scope in "abcd"] == [True, False, False, False]
    await store.close()


async def test_what_has_lapsed_takes_no_room_and_its_key_may_be_anothers_by_then(
    redis: RedisServer, prefix: str
) -> None:
    store = a_store(redis.url, prefix, most_bytes=2 * (OVERHEAD + 1000))
    large = Answer(200, [], b"x" * 1000)
    for scope, seconds in (("a", 1), ("b", 60)):
        await store.claim(scope, "body", "r1")
        await store.keep(scope, "body", "r1", large, seconds)
    await asyncio.sleep(1.1)
    assert await store.claim("a", "body", "r2") == "granted"
    await store.claim("c", "body", "r2")
    await store.keep("c", "body", "r2", large, 60)
    assert await store.claim("a", "body", "r3") == "running"
    assert await store.claim("b", "body", "r3") == large
    assert await store.claim("c", "body", "r3") == large
    await store.close()


async def test_an_answer_put_in_the_place_of_another_takes_its_room_too(redis: RedisServer, prefix: str) -> None:
    store = a_store(redis.url, prefix, most_bytes=2 * (OVERHEAD + 1000))
    for size in (1000, 900, 500, 1000):
        await store.put("a", Answer(200, [], b"x" * size), 60)
    await store.put("b", Answer(200, [], b"x" * 1000), 61)
    assert [await store.find(scope) is not None for scope in "ab"] == [True, True]
    await store.put("c", Answer(200, [], b"x" * 1000), 62)
    assert [await store.find(scope) is not None for scope in "abc"] == [False, True, True]
    assert redis.ask(f"GET {prefix}.bytes").split()[-1] == b"%d" % (2 * (OVERHEAD + 1000))
    await store.close()


async def test_a_key_of_another_program_is_no_answer(redis: RedisServer, prefix: str) -> None:
    store = a_store(redis.url, prefix)
    redis.ask(f"SET {prefix}:s theirs")
    with pytest.raises(StoreUnavailable):
        await store.find("s")
    await store.close()


async def test_every_key_it_writes_has_the_prefix_and_an_end(redis: RedisServer) -> None:
    redis.ask("FLUSHALL")
    store = RedisAnswers(redis.url)
    await store.claim("running", "body", "r1")
    await store.claim("kept", "body", "r1")
    await store.keep("kept", "body", "r1", ANSWER, 60)
    keys = [word for word in redis.ask("KEYS *").decode().split("\r\n") if "aidock" in word]
    assert sorted(keys) == ["{aidock}:once.bytes", "{aidock}:once.index", "{aidock}:once:kept", "{aidock}:once:running"]
    for scope in ("kept", "running"):
        assert 0 < int(redis.ask(f"PTTL {{aidock}}:once:{scope}")[1:]) <= 60_000
    await store.close()

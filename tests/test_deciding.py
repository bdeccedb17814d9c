"""A call is decided in 300 ms, however often it asks the stores: with a real Redis that stands still or is slow."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gateway.core.limits import LimitSet
from gateway.core.ports import StoreUnavailable
from gateway.idempotency.redis import RedisAnswers
from gateway.quotas.redis import RedisStore
from gateway.quotas.windows import Calendar
from tests.support.calls import HELLO, a_limit
from tests.support.redis_server import RedisServer, redis_server
from tests.support.stage import Answer, FakePeer, Stage, whole_answer
from tests.support.tcp_proxy import FaultProxy, fault_proxy
from tests.support.until import until

UNDECIDED_S = 0.45
"""What a busy machine is given beyond 300 ms; two trips that each wait for a silent store take 500."""
SLOW_S = 0.09
"""One way; there and back is well within the time of one trip, and three trips are not within that of a call."""
SHRINKING = LimitSet(quota=(a_limit("tokens", 1000),))
"""The default cap of an answer does not fit, so a call that names none is asked for twice."""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


class StoppingAnswers(RedisAnswers):
    """Whose server stands still as soon as a claim is granted."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__(server.url)
        self._server = server

    async def claim(self, scope: str, fingerprint: str, owner: str, by: float | None = None) -> Any:
        found = await super().claim(scope, fingerprint, owner, by)
        self._server.pause()
        return found


async def _nothing() -> None:
    """Needs to be done before."""


@asynccontextmanager
async def staged(
    tmp_path: Path, redis: RedisServer, url: str, answers: RedisAnswers, **policies: dict[str, object]
) -> AsyncIterator[Stage]:
    counters = RedisStore(url, Calendar(ZoneInfo("UTC")))
    await counters.start("here")
    assert await counters.begin_rebuild()
    assert await counters.end_rebuild()
    await answers.start()
    chain = policies or {"quota": {}}
    stage = Stage(
        tmp_path, Answer([whole_answer()]), limits=SHRINKING, policies=chain, counters=counters, answers_kept=answers
    )
    try:
        yield stage
    finally:
        redis.resume()
        await counters.close()
        await answers.close()
        await stage.close()


@asynccontextmanager
async def slow(
    tmp_path: Path, redis: RedisServer, **policies: dict[str, object]
) -> AsyncIterator[tuple[Stage, FaultProxy]]:
    """A stage whose stores are far away from now on; all connections stand."""
    async with fault_proxy(redis.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        async with staged(tmp_path, redis, url, RedisAnswers(url), **policies) as stage:
            assert (await stage.play(keyed(stage, b"warm"))).status == 200
            stage.plot.told.clear()
            proxy.latency_s = SLOW_S
            yield stage, proxy
            proxy.latency_s = 0.0


def keyed(stage: Stage, key: bytes) -> FakePeer:
    peer = stage.peer(HELLO)
    peer.scope["headers"].append((b"idempotency-key", key))  # type: ignore[attr-defined]
    return peer


async def decided(stage: Stage, key: bytes) -> tuple[FakePeer, float]:
    """Play a call with a key; what it was told, and the seconds until then or until its upstream was asked."""
    peer = keyed(stage, key)
    moments: list[float] = []
    for point in ("start", "send 1"):
        stage.plot.twist(point, lambda: moments.append(time.monotonic()))
    began = time.monotonic()
    await stage.play(peer)
    return peer, moments[0] - began


async def soonest(stage: Stage, status: int, before: Callable[[], Awaitable[None]] = _nothing) -> float:
    """The least of a few such times, since the machine may be busy. Every call must have been told the same, and one
    at least have waited for a store."""
    seconds = []
    for key in (b"1", b"2", b"3"):
        await before()
        peer, taken = await decided(stage, key)
        assert peer.status == status
        assert status == 200 or peer.error["code"] == "accounting_unavailable"
        seconds.append(taken)
    assert max(seconds) > 0.2
    return min(seconds)


async def test_a_store_that_stops_between_two_trips_has_the_call_refused_in_the_time_of_one(
    redis: RedisServer, tmp_path: Path
) -> None:
    async with staged(tmp_path, redis, redis.url, StoppingAnswers(redis)) as stage:

        async def answers() -> bool:
            try:
                await stage.used()
            except StoreUnavailable:
                return False
            return True

        async def goes_on() -> None:
            redis.resume()
            await until(answers)

        assert await soonest(stage, 503, goes_on) < UNDECIDED_S
        assert not stage.transport.exchanges


async def test_a_store_that_is_slow_has_the_call_refused_in_time_and_nothing_stays_held(
    redis: RedisServer, tmp_path: Path
) -> None:
    async with slow(tmp_path, redis) as (stage, proxy):
        used = await stage.used()
        assert await soonest(stage, 503) < UNDECIDED_S
        proxy.latency_s = 0.0

        async def let_go() -> bool:
            return await stage.used() == used

        async def made() -> bool:
            return (await stage.play(keyed(stage, b"3"))).status == 200

        await until(let_go)
        await until(made, 5)


async def test_a_store_that_is_slow_lets_the_call_pass_in_time_where_the_policy_says_so(
    redis: RedisServer, tmp_path: Path
) -> None:
    async with slow(tmp_path, redis, quota={"on_store_error": "allow"}) as (stage, _):
        assert await soonest(stage, 200) < UNDECIDED_S
        assert stage.metric("aidock_quota_allowed_unmetered_total") == 3

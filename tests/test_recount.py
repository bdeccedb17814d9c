"""Counters say what the ledger says: at the start, in the middle of traffic, and after whatever they lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.limits import Actual, Claim, Limit
from gateway.core.ports import StoreUnavailable
from gateway.quotas.memory import MemoryStore
from gateway.quotas.windows import Calendar
from gateway.recount import REVISION
from gateway.storage import revisions
from gateway.storage.engine import Database
from gateway.storage.errors import DatabaseUnavailable
from tests.support.calls import ADA, a_limit
from tests.support.counting import PACE, TOKENS, USED, UTC, CountingGateway, Scene, becomes, granted
from tests.support.database import ready_database
from tests.support.redis_server import redis_server
from tests.support.until import until

LIMITS = (
    TOKENS,
    a_limit("requests", window="day", scope="user", subject=ADA.user),
    a_limit("cost", 100_000, window="total", scope="global", subject=""),
    a_limit("tokens", 100_000, window="month", scope="key", subject=ADA.key_id),
    a_limit("parallel", scope="global", subject=""),
)


@pytest.fixture(params=["memory", "redis"])
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    database = await ready_database(tmp_path)
    if request.param == "memory":
        made = Scene(database, None)
        yield made
        await made.close()
        return
    with redis_server() as server:
        made = Scene(database, server)
        yield made
        await made.close()


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Scene]:
    """A scene on Redis, for what takes several gateways."""
    database = await ready_database(tmp_path)
    with redis_server() as server:
        made = Scene(database, server)
        yield made
        await made.close()


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: f"{limit.metric} of {limit.scope}")
async def test_a_limit_knows_what_came_before_it(scene: Scene, limit: Limit) -> None:
    await scene.past("r1", "r2")
    gateway = scene.gateway()
    await gateway.start(limit)
    assert await gateway.settled(limit) == 2 * USED.of(limit.metric)


async def test_what_runs_when_a_limit_is_set_is_counted_when_it_ends(scene: Scene) -> None:
    gateway = scene.gateway()
    await gateway.start()
    await gateway.begin("before")
    await gateway.recount.prepare("console", [TOKENS])
    await gateway.begin("after", TOKENS)
    gateway.end("before")
    gateway.end("after")
    await gateway.land()
    await becomes(lambda: gateway.settled(TOKENS), 2 * USED.tokens)
    assert await gateway.reserved(TOKENS) == 0


async def test_a_call_that_ends_around_the_line_counts_at_once_and_only_once(scene: Scene) -> None:
    await scene.past("r1")
    gateway = scene.gateway()
    await gateway.start(TOKENS)
    for number in range(12):
        await gateway.begin(f"c{number}", TOKENS)
        if number == 3:
            gateway.recount.doubt()
        gateway.end(f"c{number}")
        level = (await gateway.store.peek([TOKENS]))[0].used
        assert level == (number + 2) * USED.tokens
        if number % 2:
            await gateway.land()
        await asyncio.sleep(0.06)
    await gateway.land()
    await asyncio.sleep(2 * PACE.slow)
    assert await gateway.settled(TOKENS) == 13 * USED.tokens


async def test_a_limit_of_both_origins_is_counted_once(scene: Scene) -> None:
    await scene.past("r1")
    gateway = scene.gateway()
    await gateway.start(TOKENS)
    await gateway.recount.prepare("console", [a_limit("tokens", 7)])
    assert await gateway.settled(TOKENS) == USED.tokens


async def test_a_limit_that_was_taken_away_and_comes_back_is_counted_anew(scene: Scene) -> None:
    gateway = scene.gateway()
    await gateway.start(TOKENS)
    await gateway.recount.prepare("file", [])
    await scene.past("r1", "r2")
    await gateway.recount.prepare("file", [TOKENS])
    await becomes(lambda: gateway.settled(TOKENS), 2 * USED.tokens)


async def test_rows_that_land_by_another_way_reach_the_counters_after_a_doubt(scene: Scene) -> None:
    gateway = scene.gateway()
    await gateway.start(TOKENS)
    await scene.past("adopted", kind="orphan", prompt_tokens=7, completion_tokens=None)
    gateway.recount.doubt()
    await becomes(lambda: gateway.settled(TOKENS), 7)


async def test_a_change_of_the_ledger_beside_the_calls_is_seen(scene: Scene) -> None:
    gateway = scene.gateway()
    await gateway.start(TOKENS)
    await asyncio.sleep(2 * PACE.quick)
    await scene.past("r1")
    async with scene.database.write() as session:
        await revisions.bump(session, REVISION)
    await becomes(lambda: gateway.settled(TOKENS), USED.tokens)


async def test_a_recount_on_demand_returns_when_the_counters_are_right(scene: Scene) -> None:
    gateway = scene.gateway()
    await gateway.start(TOKENS)
    await gateway.begin("runs", TOKENS)
    await gateway.begin("ended", TOKENS)
    gateway.end("ended")
    await scene.past("lost")
    await gateway.recount.recount()
    assert await gateway.settled(TOKENS) == 2 * USED.tokens
    assert await gateway.reserved(TOKENS) == 60


async def test_an_emptied_store_grants_nothing_until_it_is_rebuilt_with_what_runs(shared: Scene) -> None:
    one, two = shared.gateway(), shared.gateway()
    await one.start(TOKENS)
    await two.start(TOKENS)
    for gateway, name in ((one, "a"), (two, "b")):
        await gateway.begin(f"{name}-runs", TOKENS)
        await gateway.begin(f"{name}-ended", TOKENS)
        gateway.end(f"{name}-ended")
        await gateway.land()
    assert shared.redis is not None
    shared.redis.ask("FLUSHALL")
    with pytest.raises(StoreUnavailable):
        await one.store.reserve("too early", [Claim(TOKENS, 1)], 60, one.store.now())
    one.store.settle("too early", (), one.store.now(), Actual())
    one.end("a-runs")
    await becomes(lambda: granted(two), True)
    assert await one.settled(TOKENS) == 3 * USED.tokens
    assert await one.reserved(TOKENS) == 60, "what b runs is held again"
    two.end("b-runs")
    await one.land()
    await two.land()
    await becomes(lambda: one.settled(TOKENS), 4 * USED.tokens)
    assert await one.reserved(TOKENS) == 0


async def test_another_installations_counters_are_not_taken_for_ours(shared: Scene) -> None:
    one = shared.gateway()
    await one.start(TOKENS)
    await one.begin("r1", TOKENS)
    one.end("r1")
    await one.stop()
    two = shared.gateway()
    await two.store.start("elsewhere")
    await two.recount.prepare("file", [TOKENS])
    await two.recount.begin()
    assert await two.settled(TOKENS) == 0, "its ledger knows of nothing"


async def test_a_limit_binds_although_the_database_is_away_when_it_is_known_already(scene: Scene) -> None:
    gateway = scene.gateway()
    await gateway.start(TOKENS)
    await scene.database.close()
    await gateway.recount.prepare("file", [TOKENS])


async def test_a_limit_that_could_not_be_counted_is_not_taken_for_known(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'never-migrated.db'}", tmp_path)
    gateway = CountingGateway(database, MemoryStore(Calendar(UTC)))
    await gateway.store.start("here")
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            await gateway.recount.prepare("file", [TOKENS])
        assert TOKENS not in gateway.recount.limits
    await database.close()


async def test_what_a_gateway_holds_is_renewed_and_held_again_where_it_was_forgotten(shared: Scene) -> None:
    gateway = shared.gateway()
    await gateway.start(TOKENS)
    await gateway.begin("runs", TOKENS)
    assert shared.redis is not None
    await gateway.recount.keep()
    assert await gateway.reserved(TOKENS) == 60
    shared.redis.ask("FLUSHALL")
    await gateway.recount.keep()
    await becomes(lambda: gateway.reserved(TOKENS), 60)


async def test_a_counter_that_was_lost_alone_is_noticed_and_set_right(shared: Scene) -> None:
    gateway = shared.gateway()
    await gateway.start(TOKENS)
    await gateway.begin("r1", TOKENS)
    gateway.end("r1")
    await gateway.land()
    await asyncio.sleep(PACE.fresh + PACE.ahead)
    assert shared.redis is not None
    keys = shared.redis.ask("KEYS *:used:*").split()
    assert shared.redis.ask(f"DEL {next(key.decode() for key in keys if b':used:' in key)}").startswith(b":1")
    assert await gateway.settled(TOKENS) == 0
    await becomes(lambda: gateway.settled(TOKENS), USED.tokens)


async def test_a_limit_that_cannot_be_counted_up_does_not_bind_yet(shared: Scene) -> None:
    await shared.past("r1")
    gateway = shared.gateway()
    await gateway.start()
    assert shared.redis is not None
    shared.redis.pause()
    with pytest.raises(StoreUnavailable):
        await gateway.recount.prepare("console", [TOKENS])
    assert TOKENS not in gateway.recount.limits
    shared.redis.resume()

    async def counted() -> bool:
        try:
            await gateway.recount.prepare("console", [TOKENS])
        except StoreUnavailable:
            return False
        return True

    await until(counted)
    assert await gateway.settled(TOKENS) == USED.tokens, "it has never been seen with less"

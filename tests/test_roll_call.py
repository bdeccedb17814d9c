"""A store that has forgotten something opens when every gateway has told what it knew, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from gateway.quotas.memory import MemoryStore
from gateway.quotas.windows import Calendar
from tests.support.counting import PACE, TOKENS, USED, UTC, CountingGateway, Scene, becomes, granted
from tests.support.database import ready_database
from tests.support.redis_server import redis_server
from tests.support.until import until

WHILE_S = 0.6
"""Many times as long as those take that have nothing to wait for."""
HASTY = replace(PACE, patience=WHILE_S)


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Scene]:
    database = await ready_database(tmp_path)
    with redis_server(options={"dbfilename": "old.rdb"}) as server:
        made = Scene(database, server)
        yield made
        await made.close()


async def forget(scene: Scene, how: str) -> None:
    """Lose what was settled since the last `remember`."""
    assert scene.redis is not None
    if how == "emptied":
        scene.redis.ask("FLUSHALL")
    else:
        scene.redis.crash()
        await asyncio.to_thread(scene.redis.start)


def remember(scene: Scene) -> None:
    assert scene.redis is not None
    assert scene.redis.ask("SAVE").startswith(b"+OK")


async def settled(gateway: CountingGateway, *request_ids: str) -> None:
    """Calls of a gateway that have been granted and have ended, and whose rows have not landed."""
    for request_id in request_ids:
        await gateway.begin(request_id, TOKENS)
        gateway.end(request_id)
    await becomes(partial(gateway.settled, TOKENS), len(request_ids) * USED.tokens)


async def stays_shut(gateway: CountingGateway, for_s: float = WHILE_S) -> None:
    for _ in range(int(for_s / 0.05)):
        assert not await granted(gateway)
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("how", ["emptied", "restored"])
async def test_nothing_is_granted_until_the_rows_of_the_slowest_have_landed(shared: Scene, how: str) -> None:
    one, two = shared.gateway(), shared.gateway()
    await one.start(TOKENS)
    await two.start(TOKENS)
    remember(shared)
    two.landing.clear()
    await two.begin("runs", TOKENS)
    await settled(two, "a", "b")
    await forget(shared, how)
    await stays_shut(one)
    two.landing.set()
    await becomes(partial(granted, one), 1)
    assert await one.settled(TOKENS) == 2 * USED.tokens
    assert await one.reserved(TOKENS) == 60
    two.end("runs")
    await becomes(partial(one.settled, TOKENS), 3 * USED.tokens)
    assert await one.reserved(TOKENS) == 0


async def test_what_settles_while_others_are_waited_for_counts_at_once_and_once(shared: Scene) -> None:
    one, two = shared.gateway(), shared.gateway()
    await one.start(TOKENS)
    await two.start(TOKENS)
    await one.begin("runs", TOKENS)
    two.landing.clear()
    await settled(two, "a")
    await forget(shared, "emptied")
    await stays_shut(one)
    one.end("runs")
    two.landing.set()
    await becomes(partial(granted, one), 1)
    assert await one.settled(TOKENS) == 2 * USED.tokens
    await one.land()
    await asyncio.sleep(3 * PACE.quick)
    assert await one.settled(TOKENS) == 2 * USED.tokens


async def test_a_second_loss_is_answered_anew(shared: Scene) -> None:
    """What settled between the two was kept by name in the store, and is lost with it."""
    one, two, three = shared.gateway(), shared.gateway(), shared.gateway()
    for gateway in (one, two, three):
        await gateway.start(TOKENS)
    await two.begin("runs", TOKENS)
    three.landing.clear()
    await settled(three, "a")
    await forget(shared, "emptied")
    await stays_shut(one)
    two.end("runs")
    two.landing.clear()
    await forget(shared, "emptied")
    three.landing.set()
    await stays_shut(one)
    two.landing.set()
    await becomes(partial(granted, one), 1)
    assert await one.settled(TOKENS) == 2 * USED.tokens


async def test_a_dead_gateway_is_waited_for_until_its_journal_has_been_adopted(shared: Scene) -> None:
    adopts = asyncio.Event()
    two = shared.gateway()

    async def adopt() -> None:
        if adopts.is_set():
            await two.land()
            assert two.roll is not None
            await two.roll.leave()

    one = shared.gateway(adopt=adopt)
    await one.start(TOKENS)
    await two.start(TOKENS)
    await settled(two, "a")
    await two.die()
    await forget(shared, "emptied")
    await stays_shut(one)
    adopts.set()
    await becomes(partial(granted, one), 1)
    assert await one.settled(TOKENS) == USED.tokens


async def test_one_that_nobody_hears_of_is_waited_for_no_longer_than_patience_says(shared: Scene) -> None:
    one, two = shared.gateway(HASTY), shared.gateway(HASTY)
    await one.start(TOKENS)
    await two.start(TOKENS)
    await settled(two, "a")
    await two.die()
    await forget(shared, "emptied")
    await stays_shut(one, WHILE_S / 2)
    await becomes(partial(granted, one), 1)
    assert await one.settled(TOKENS) == 0
    await two.land()
    await becomes(partial(one.settled, TOKENS), USED.tokens)


async def test_a_gateway_that_has_left_is_not_waited_for(shared: Scene) -> None:
    one, two = shared.gateway(), shared.gateway()
    await one.start(TOKENS)
    await two.start(TOKENS)
    await settled(two, "a")
    await two.land()
    await two.stop()
    await forget(shared, "emptied")
    await becomes(partial(granted, one), 1)
    assert await one.settled(TOKENS) == USED.tokens


async def test_a_gateway_that_starts_in_the_middle_waits_too_and_is_waited_for(shared: Scene) -> None:
    one, two, three = shared.gateway(), shared.gateway(), shared.gateway()
    await one.start(TOKENS)
    await two.start(TOKENS)
    two.landing.clear()
    await settled(two, "a")
    await one.die()  # whoever comes next knows of nobody by the store
    await forget(shared, "emptied")
    starting = asyncio.create_task(three.start(TOKENS))
    assert one.roll is not None
    await one.roll.leave()
    await asyncio.sleep(WHILE_S)
    assert not starting.done()
    two.landing.set()
    await starting
    assert await three.settled(TOKENS) == USED.tokens


async def test_a_store_in_memory_whose_clock_was_set_is_counted_anew_and_waits_for_nobody(tmp_path: Path) -> None:
    database = await ready_database(tmp_path)
    clock = {"wall": 1_764_000_000.0, "monotonic": 5000.0}
    store = MemoryStore(Calendar(UTC), clock=lambda: clock["wall"], monotonic=lambda: clock["monotonic"])
    gateway = CountingGateway(database, store)
    await gateway.start(TOKENS)
    await settled(gateway, "a")
    clock["wall"] -= 3600
    said = []
    for _ in range(40):
        clock["wall"] += 1
        clock["monotonic"] += 1
        said.append(await store.pulse())
    assert "suspect" in said

    async def opens() -> bool:
        return await store.pulse() == "open"

    await until(opens)
    assert await gateway.settled(TOKENS) == USED.tokens
    await gateway.stop()
    await database.close()

"""In-process counters begin where the ledger is."""

import time
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gateway.core.limits import Limit
from gateway.quotas.memory import MemoryStore
from gateway.quotas.windows import Calendar
from gateway.seeding import Seeder
from gateway.storage import ledger
from gateway.storage.engine import Database
from gateway.storage.errors import DatabaseUnavailable
from tests.ledger.support import outcome
from tests.support.calls import a_limit
from tests.support.database import ready_database

UTC = ZoneInfo("UTC")


class World:
    """A ledger with two calls in it, an empty store, and a note of every wait for what is still to be written."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = MemoryStore(Calendar(UTC))
        self.waits = 0
        self.seeder = Seeder(database, self.store, Calendar(UTC), self._settled)

    async def used(self, limit: Limit) -> int:
        return (await self.store.peek([limit]))[0].used

    async def _settled(self) -> None:
        self.waits += 1
        rows = [outcome(f"r{self.waits}{n}", created_at=time.time(), user="ada@example.com") for n in range(2)]
        async with self.database.write() as session:
            await ledger.insert_rows(session, rows, UTC)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(await ready_database(tmp_path))


@pytest.mark.parametrize(
    ("limit", "used"),
    [
        (a_limit("tokens", scope="department", subject="research"), 92),
        (a_limit("requests", window="day", scope="user", subject="ada@example.com"), 2),
        (a_limit("cost", window="total", scope="global", subject=""), 112),
        (a_limit("tokens", scope="user", subject="bob@example.com"), 0),
        (a_limit("parallel", scope="global", subject=""), 0),
    ],
    ids=lambda value: f"{value.metric} of {value.scope}" if isinstance(value, Limit) else "",
)
async def test_a_limit_knows_what_came_before_it(world: World, limit: Limit, used: int) -> None:
    await world.seeder.prepare("file", [limit])
    assert await world.used(limit) == used
    assert world.waits == 1, "what was under way to the ledger is in it"
    await world.database.close()


async def test_a_limit_that_is_known_is_not_counted_again(world: World) -> None:
    limit = a_limit("tokens")
    await world.seeder.prepare("file", [limit])
    await world.seeder.prepare("file", [a_limit("tokens", 5, action="warn")])
    assert world.waits == 1, "another amount is the same counter"
    await world.seeder.prepare("file", [limit, a_limit("tokens", window="day")])
    assert world.waits == 2
    assert await world.used(limit) == 92, "and the other counter stands as it stood"
    await world.database.close()


async def test_a_limit_of_both_origins_is_counted_once(world: World) -> None:
    await world.seeder.prepare("file", [a_limit("tokens")])
    await world.seeder.prepare("console", [a_limit("tokens", 7)])
    assert world.waits == 1
    await world.database.close()


async def test_a_limit_that_was_taken_away_and_comes_back_is_counted_up_anew(world: World) -> None:
    await world.seeder.prepare("file", [a_limit("tokens")])
    await world.seeder.prepare("file", [])
    await world.seeder.prepare("file", [a_limit("tokens")])
    assert world.waits == 2
    assert await world.used(a_limit("tokens")) == 2 * 92, "what came while nobody counted is in it"
    await world.database.close()


async def test_a_limit_that_could_not_be_counted_is_not_taken_for_known(world: World) -> None:
    async def away() -> None:
        raise DatabaseUnavailable("away")

    seeder = Seeder(world.database, world.store, Calendar(UTC), away)
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            await seeder.prepare("file", [a_limit("tokens")])
    await world.database.close()

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from gateway.identity import issuing
from gateway.storage import api_keys, departments, settings, users
from gateway.storage.engine import Database
from gateway.storage.errors import Conflict, DatabaseUnavailable, NotFound, Unstorable
from gateway.storage.tables import LEDGER, UsageDay
from tests.support.database import PEPPER, database_url, issue_key


async def test_a_write_is_seen_by_readers_and_by_another_database_on_it(database, url, tmp_path):
    async with database.write() as session:
        await settings.put(session, "colour", "blue")
    other = Database.open(url, tmp_path)
    for one in (database, other):
        async with one.read() as session:
            assert await settings.get(session, "colour") == "blue"
    await other.close()


async def test_an_exception_leaves_nothing_behind_and_comes_through(database):
    async def fail() -> None:
        async with database.write() as session:
            await settings.put(session, "colour", "blue")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with database.write() as session:
        assert await settings.get(session, "colour") is None


async def test_readers_cannot_write(database):
    with pytest.raises(DatabaseUnavailable, match=r"read-?only"):
        async with database.read() as session:
            await settings.put(session, "colour", "blue")


async def test_a_reader_sees_one_moment_however_long_it_looks(database):
    async with database.read() as session:
        assert await settings.get(session, "colour") is None
        async with database.write() as writing:
            await settings.put(writing, "colour", "blue")
        assert await settings.get(session, "colour") is None


async def test_a_cancelled_write_frees_the_writer_and_leaves_nothing(database):
    entered = asyncio.Event()

    async def stall() -> None:
        async with database.write() as session:
            await settings.put(session, "colour", "blue")
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(stall())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.write() as session:
        assert await settings.get(session, "colour") is None


async def test_a_write_cancelled_while_sql_runs_frees_the_writer(database):
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000000) SELECT count(*) FROM n"

    async def work() -> None:
        async with database.write() as session:
            await settings.put(session, "colour", "blue")
            await session.scalar(text(slow))

    task = asyncio.create_task(work())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.write() as session:
        assert await settings.get(session, "colour") is None


@pytest.fixture
def empty(request, url, tmp_path):
    """A database without tables, of the same kind as `url`."""
    if url.startswith("sqlite"):
        return database_url(tmp_path / "empty")
    return request.getfixturevalue("postgres").empty_database()


async def test_a_database_without_tables_is_unavailable_and_says_what_to_do(empty, tmp_path):
    database = Database.open(empty, tmp_path)
    with pytest.raises(DatabaseUnavailable, match=r"settings.*aidock migrate"):
        async with database.read() as session:
            await settings.get(session, "colour")
    await database.close()


async def test_a_value_that_fits_no_column_is_told_from_a_database_that_is_away(database):
    with pytest.raises(Unstorable):
        async with database.write() as session:
            await session.execute(LEDGER.update().values(status=2**63))
    with pytest.raises(Unstorable):
        async with database.write() as session:
            await settings.put(session, "colour", "\ud800")


async def test_a_name_that_another_process_has_just_taken_is_a_conflict(database):
    usual = dict.fromkeys(UsageDay.model_fields, "x") | dict.fromkeys(list(UsageDay.model_fields)[6:], 1)

    async def add() -> None:
        async with database.write() as session:
            session.add(UsageDay(**usual))

    await add()
    with pytest.raises(Conflict, match="Look again"):
        await add()


async def test_a_defect_of_ours_is_not_taken_for_a_database_that_is_away(database):
    with pytest.raises(Exception, match="syntax error") as caught:
        async with database.read() as session:
            await session.execute(text("SELEC 1"))
    assert not isinstance(caught.value, DatabaseUnavailable)


async def test_changes_that_contradict_each_other_do_so_however_close_they_come(database, url, tmp_path):
    """What one change has looked at stands still until it is done, in every process."""
    other = Database.open(url, tmp_path)
    await issue_key(database)
    async with database.read() as session, other.read() as another_session:
        (key,) = await api_keys.every(session)
        await api_keys.every(another_session)

    def rotate(session):
        return issuing.rotate(session, PEPPER, key.public_id)

    def create(session):
        return departments.create(session, "sales")

    def delete(session):
        return departments.delete(session, "sales")

    def join(session):
        return users.create(session, "bob@example.com", "sales")

    async def attempt(on: Database, change) -> None:
        async with on.write() as session:
            await change(session)
            await asyncio.sleep(0.05)

    for one, another in ((rotate, rotate), (create, create), (delete, join)):
        results = await asyncio.gather(attempt(database, one), attempt(other, another), return_exceptions=True)
        assert {type(result) for result in results} in ({type(None), Conflict}, {type(None), NotFound}), results
    await other.close()

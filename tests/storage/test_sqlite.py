from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest
from sqlalchemy import text

from gateway.storage import settings
from gateway.storage.engine import CHECKPOINT_BYTES, Database
from gateway.storage.errors import DatabaseUnavailable
from gateway.storage.migrate import migrate
from tests.support.database import database_url, ready_database


@pytest.fixture
def url(sqlite):
    return sqlite


async def test_connections_are_durable_and_never_checkpoint_by_themselves(database):
    for opened in (database.read, database.write):
        async with opened() as session:
            pragmas = {
                name: await session.scalar(text(f"PRAGMA {name}"))
                for name in ("journal_mode", "synchronous", "foreign_keys", "wal_autocheckpoint", "busy_timeout")
            }
        assert pragmas == {
            "journal_mode": "wal",
            "synchronous": 2,
            "foreign_keys": 1,
            "wal_autocheckpoint": 0,
            "busy_timeout": 5000,
        }


async def test_many_writers_in_one_process_wait_for_each_other(database):
    async def add_one() -> None:
        async with database.write() as session:
            count = int(await settings.get(session, "count") or 0)
            await asyncio.sleep(0)
            await settings.put(session, "count", str(count + 1))

    await asyncio.gather(*(add_one() for _ in range(40)))
    async with database.read() as session:
        assert await settings.get(session, "count") == "40"


ADD_FIFTY = """
import asyncio, sys
from pathlib import Path
from gateway.storage import settings
from gateway.storage.engine import Database

async def main(url, folder):
    database = Database.open(url, Path(folder))
    for _ in range(50):
        async with database.write() as session:
            count = int(await settings.get(session, "count") or 0)
            await settings.put(session, "count", str(count + 1))
    await database.close()

asyncio.run(main(*sys.argv[1:]))
"""


def test_writers_in_several_processes_lose_no_update(tmp_path):
    migrate(database_url(tmp_path))
    command = [sys.executable, "-c", ADD_FIFTY, database_url(tmp_path), str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    with closing(sqlite3.connect(tmp_path / "aidock.db")) as connection:
        assert connection.execute("SELECT value FROM settings WHERE name = 'count'").fetchone() == ("150",)


async def test_a_lock_held_elsewhere_is_waited_for_and_then_reported(tmp_path):
    migrate(database_url(tmp_path))
    database = Database.open(database_url(tmp_path), tmp_path, busy_timeout=0.2)
    with closing(sqlite3.connect(tmp_path / "aidock.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailable, match="locked"):
            async with database.write() as session:
                await settings.put(session, "colour", "blue")
        async with database.read() as session:
            assert await settings.get(session, "colour") is None
        other.execute("ROLLBACK")
    async with database.write() as session:
        await settings.put(session, "colour", "blue")
    await database.close()


async def test_the_log_is_folded_back_when_it_has_grown(database, tmp_path):
    log = tmp_path / "aidock.db-wal"
    largest = 0
    for number in range(12):
        async with database.write() as session:
            await settings.put(session, f"text {number}", "x" * 500_000)
        largest = max(largest, log.stat().st_size)
    assert largest <= CHECKPOINT_BYTES + 600_000
    async with database.read() as session:
        assert len(await settings.get(session, "text 0")) == 500_000


async def test_a_reader_in_the_way_of_a_checkpoint_costs_no_commit(tmp_path):
    migrate(database_url(tmp_path))
    database = Database.open(database_url(tmp_path), tmp_path, busy_timeout=0.1)
    async with database.read() as reading:
        await settings.get(reading, "anything")
        for number in range(12):
            async with database.write() as session:
                await settings.put(session, f"text {number}", "x" * 500_000)
    async with database.read() as session:
        assert len(await settings.get(session, "text 11")) == 500_000
    await database.close()


async def test_closing_ends_every_connection_thread(tmp_path):
    before = set(threading.enumerate())
    database = await ready_database(tmp_path)
    async with database.read(), database.read(), database.write() as session:
        await settings.put(session, "colour", "blue")
    await database.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


async def test_a_folder_in_place_of_the_file_is_unavailable(tmp_path):
    (tmp_path / "aidock.db").mkdir()
    with pytest.raises(DatabaseUnavailable, match="cannot be opened"):
        Database.open(database_url(tmp_path), tmp_path)


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path):
    migrate(database_url(tmp_path))
    (tmp_path / "aidock.db").chmod(0o644)
    Database.open(database_url(tmp_path), tmp_path / "data")
    assert (tmp_path / "aidock.db").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700

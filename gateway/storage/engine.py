"""The database: how it is opened, read and written. Everything above sees sessions and one exception.

SQLite takes one writer at a time, so each process has one writing connection behind a lock, and readers beside it
that never wait for it. Checkpoints are ours, not automatic: `wal_checkpoint(TRUNCATE)` holds the write lock while it
works, which SQLite's own passive checkpoint does not. Releases before 3.51.3 can corrupt a file when a checkpoint
in one process meets a commit in another.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from gateway.storage.driver_errors import mapped_errors
from gateway.storage.errors import DatabaseUnavailable, Invalid
from gateway.storage.postgresql import STATEMENT_TIMEOUT_S, driver_failure, pooled_engine

BUSY_TIMEOUT_S = 5.0
READERS = 4
CHECKPOINT_BYTES = 4 * 1024 * 1024
CHECKPOINT_RETRY_S = 30.0

_LOG = logging.getLogger("aidock.storage")


class Database:
    """One database of the process. Nothing is connected until it is first used.

    `read` and `write` raise `DatabaseUnavailable`, `Unstorable` for a value that the database never takes, and
    `Conflict` where another process was quicker.
    """

    def __init__(self, url: str, readers: AsyncEngine, writer: AsyncEngine, wal: _Wal | None = None) -> None:
        self.url = url
        self._failure = OSError if wal else driver_failure(writer)
        self._readers = readers
        self._writer = writer
        self._wal = wal
        self._gate = asyncio.Lock()

    @classmethod
    def open(
        cls,
        url: str,
        data_dir: Path,
        *,
        busy_timeout: float = BUSY_TIMEOUT_S,
        statement_timeout: float = STATEMENT_TIMEOUT_S,
    ) -> Database:
        """`sqlite:///file.db` (four slashes make it absolute) or `postgresql://…`; `data_dir` is made if missing.

        SQLite waits `busy_timeout` seconds for another process's lock; a PostgreSQL statement takes at most
        `statement_timeout`. The schema is `gateway.storage.migrate`'s to prepare. Raises `Invalid` for a URL of
        another kind.
        """
        parsed = parse_url(url)
        make_private_dir(data_dir)
        if parsed.get_backend_name() == "postgresql":
            engine = pooled_engine(parsed, statement_timeout)
            readers = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            return cls(url, readers, engine)
        path = sqlite_path(parsed)
        prepare_sqlite_file(path)
        writer = _sqlite_engine(path, "BEGIN IMMEDIATE", busy_timeout, pool_size=1)
        readers = _sqlite_engine(path, "BEGIN", busy_timeout, pool_size=READERS)
        return cls(url, readers, writer, _Wal(path))

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session that sees one moment of the database."""
        with mapped_errors(self._failure):
            async with AsyncSession(self._readers, expire_on_commit=False) as session:
                yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A session that commits at its end, or leaves nothing behind when it ends with an exception."""
        with mapped_errors(self._failure):
            if self._wal is None:
                async with AsyncSession(self._writer, expire_on_commit=False) as session, session.begin():
                    yield session
                return
            async with self._gate:
                async with AsyncSession(self._writer, expire_on_commit=False) as session, session.begin():
                    yield session
                if self._wal.is_long():
                    await self._wal.checkpoint(self._writer)

    async def close(self) -> None:
        """Close every connection. One left open would keep the process from ending."""
        await self._readers.dispose()
        async with self._gate:
            await self._writer.dispose()


class _Wal:
    """The write-ahead log of one SQLite file, and when to fold it back."""

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(database.name + "-wal")
        self._not_before = 0.0

    def is_long(self) -> bool:
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            return False
        return size > CHECKPOINT_BYTES and time.monotonic() >= self._not_before

    async def checkpoint(self, writer: AsyncEngine) -> None:
        """Fold the log back. What was committed stays committed if this fails, so it only logs and tries later."""
        try:
            complete = await self._truncate(writer)
        except (SQLAlchemyError, sqlite3.Error) as error:
            _LOG.warning("The database's log could not be folded back.", extra={"reason": str(error)})
            complete = False
        if not complete:  # a long reader stands in the way
            self._not_before = time.monotonic() + CHECKPOINT_RETRY_S

    async def _truncate(self, writer: AsyncEngine) -> bool:
        async with writer.connect() as connection:
            pooled = await connection.get_raw_connection()  # below SQLAlchemy, which would open a transaction first
            driver: Any = pooled.driver_connection
            async with driver.execute("PRAGMA wal_checkpoint(TRUNCATE)") as cursor:
                busy, _, _ = await cursor.fetchone()
        return not busy


def parse_url(url: str) -> URL:
    """A database URL taken apart. Raises `Invalid`, without repeating the URL: it may hold a password."""
    try:
        parsed = make_url(url.replace("postgres://", "postgresql://", 1))
    except (ArgumentError, ValueError):  # of the port
        raise Invalid(
            "The database URL cannot be read; it looks like sqlite:///file.db or postgresql://user@host/db."
        ) from None
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise Invalid(f"Databases of the kind '{backend}' are not supported; use sqlite or postgresql.")
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise Invalid("A SQLite database needs a file: sqlite:///aidock.db.")
    return parsed


def sqlite_path(url: URL) -> Path:
    """The file of a SQLite URL, relative to the working directory unless absolute."""
    return Path(url.database or "").absolute()


def make_private_dir(directory: Path) -> None:
    """Make a directory that only we can enter. One that is there keeps its mode: it may not be ours alone."""
    if not directory.is_dir():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def prepare_sqlite_file(path: Path) -> None:
    """Make the file, for our eyes only; SQLite gives its log files the same mode. Raises `DatabaseUnavailable`."""
    try:
        make_private_dir(path.parent)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DatabaseUnavailable(f"The database file {path} cannot be opened: {error.strerror}.") from error
    try:
        details = os.fstat(descriptor)
        if details.st_mode & 0o077 and details.st_uid == os.geteuid():
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _sqlite_engine(path: Path, begin: str, busy_timeout: float, *, pool_size: int) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        connect_args={"isolation_level": None, "timeout": busy_timeout},  # None: transactions begin where we say
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=busy_timeout,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA wal_autocheckpoint=0")
        if begin == "BEGIN":
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def start_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    @event.listens_for(engine.sync_engine, "invalidate")
    def let_go(connection: Any, _record: object, _error: object) -> None:
        connection.run_async(_abandon)

    return engine


async def _abandon(driver: Any) -> None:
    """End what a cancelled task left running. Closing alone would not: SQLite keeps a connection, and its lock, until
    the last unfinished statement is gone."""
    with suppress(sqlite3.Error, ValueError):  # it may be closed already
        await driver.interrupt()
        await driver.rollback()

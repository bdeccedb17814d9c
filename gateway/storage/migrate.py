"""Bringing the schema to this release. The only home of Alembic, which is slow to import: import this one late.

An upgrade is one transaction, so it happens whole or not at all, and one process at a time does it.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from gateway.paths import migrations_dir
from gateway.storage.driver_errors import cause_of
from gateway.storage.engine import BUSY_TIMEOUT_S, parse_url, prepare_sqlite_file, sqlite_path
from gateway.storage.errors import DatabaseUnavailable, MigrationRefused
from gateway.storage.postgresql import driver_failure, single_engine

_LOG = logging.getLogger("aidock.storage")
HEAD = "head"
"""The newest revision, which is the one that this release works with."""

_POSTGRES_LOCK = 0x61_69_64_6F_63_6B  # any number, as long as every release uses the same

_T = TypeVar("_T")


def migrate(url: str, revision: str = HEAD) -> None:
    """Upgrade the database to a revision, making it if need be; nothing happens to one that is there.

    A SQLite file that is upgraded is first copied to `<file>.before-<revision>`. Blocks, so call it before the event
    loop or from a thread. Raises `MigrationRefused` when the database, or the revision, is newer than this
    release, `DatabaseUnavailable` when it cannot be reached.
    """
    parsed = parse_url(url)
    upgrade = partial(_upgrade, target=_known(revision))
    if parsed.get_backend_name() != "sqlite":
        _connected(parsed, upgrade)
        return
    path = sqlite_path(parsed)
    prepare_sqlite_file(path)
    with _only_process(path):
        if _connected(parsed, _current) is not None and _connected(parsed, _pending):
            _copy(path, path.with_name(f"{path.name}.before-{_known(HEAD)}"))
        _connected(parsed, upgrade)


def pending(url: str) -> list[str]:
    """What `migrate` would apply, first to last, each as `revision: purpose`. Changes nothing. Raises as it does."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not sqlite_path(parsed).exists():
        return [_describe(script) for script in _upgrades_from(None)]
    return _connected(parsed, _pending)


def current(url: str) -> str | None:
    """The database's revision, None where it has no tables of ours. Changes nothing. Raises as `migrate` does."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not sqlite_path(parsed).exists():
        return None
    return _connected(parsed, _current)


def _upgrade(connection: Connection, target: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_POSTGRES_LOCK})")
    waiting = [_describe(script) for script in _upgrades_from(_current(connection), target)]
    if not waiting:
        return
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, target)
    _LOG.info("The database was upgraded.", extra={"revisions": waiting})


def _pending(connection: Connection) -> list[str]:
    return [_describe(script) for script in _upgrades_from(_current(connection))]


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _upgrades_from(revision: str | None, target: str = HEAD) -> list[Any]:
    scripts = ScriptDirectory.from_config(_config())
    if revision is not None and revision not in _revisions(scripts):
        raise MigrationRefused(
            f"The database was upgraded to revision '{revision}' by a newer AI Dock than this one. "
            "Run that release, or restore the copy made before the upgrade."
        )
    newest_first = scripts.iterate_revisions(target, revision or "base")
    return list(newest_first)[::-1]


def _known(revision: str) -> str:
    """The revision by its own name."""
    scripts = ScriptDirectory.from_config(_config())
    if revision == HEAD:
        return str(scripts.get_current_head())
    if revision not in _revisions(scripts):
        raise MigrationRefused(f"This release knows no revision '{revision}': a newer AI Dock made it. Use that one.")
    return revision


def _revisions(scripts: ScriptDirectory) -> set[str]:
    return {script.revision for script in scripts.walk_revisions()}


def _describe(script: Any) -> str:
    return f"{script.revision}: {script.doc}"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _connected(url: URL, work: Callable[[Connection], _T]) -> _T:
    """Do the work in one transaction."""
    if url.get_backend_name() == "sqlite":
        return _with_sqlite(url, work)
    return asyncio.run(_with_postgres(url, work))


def _with_sqlite(url: URL, work: Callable[[Connection], _T]) -> _T:
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(sqlite_path(url))),
        poolclass=NullPool,
        connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT_S},
    )

    @event.listens_for(engine, "connect")
    def keep_log(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")

    @event.listens_for(engine, "begin")
    def start_transaction(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    with _failures_named(), engine.begin() as connection:
        return work(connection)


async def _with_postgres(url: URL, work: Callable[[Connection], _T]) -> _T:
    engine = single_engine(url)
    with _failures_named(driver_failure(engine)):
        async with engine.begin() as connection:
            return await connection.run_sync(work)


@contextmanager
def _failures_named(failure: type[Exception] = OSError) -> Iterator[None]:
    try:
        yield
    except (DBAPIError, OSError, failure) as error:
        cause = cause_of(error) if isinstance(error, DBAPIError) else error
        raise DatabaseUnavailable(f"The database could not be upgraded: {cause}.") from error


@contextmanager
def _only_process(database: Path) -> Iterator[None]:
    """Wait until no other process upgrades this file."""
    descriptor = os.open(database.with_name(database.name + ".migrate.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _copy(source: Path, target: Path) -> None:
    """A consistent copy, its log included, that appears whole or not at all."""
    unfinished = target.with_name(target.name + ".part")
    unfinished.unlink(missing_ok=True)
    prepare_sqlite_file(unfinished)
    with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(unfinished)) as copy:
        live.backup(copy)
    unfinished.replace(target)
    _LOG.info("The database was copied before its upgrade.", extra={"copy": str(target)})

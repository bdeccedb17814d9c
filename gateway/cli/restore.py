"""`aidock restore`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from gateway.cli._progress import Reporter
from gateway.cli._shared import command as run
from gateway.cli._shared import config_option, document_of, json_option, note, on_schema
from gateway.identity.pepper import FILE_NAME, VARIABLE
from gateway.ledger.directory import JournalDirectory, JournalOwned, siblings
from gateway.storage import archive
from gateway.storage.archive import Archive
from gateway.storage.engine import Database, make_private_dir
from gateway.storage.errors import Conflict
from gateway.storage.migrate import current, migrate


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@config_option
@json_option
@run
async def command(file: Path, config: Path | None, as_json: bool) -> None:
    """Fill an empty database from a backup FILE, whichever kind of database that was made of.

    This is also the way from SQLite to PostgreSQL: back up, set storage.database, restore. The gateway must not run.
    """
    storage = document_of(config).settings.storage
    data = Path(storage.data)
    refuse_running(data)
    with archive.opened(file) as found:
        await _prepare_schema(storage.database_url, found.manifest.revision)
        _keep_secret(found, data)
        database = Database.open(storage.database_url, data)
        try:
            async with database.write() as session:
                await found.fill(session, Reporter("restored"))
        finally:
            await database.close()
    await on_schema(migrate, storage.database_url)
    note(f"Restored {sum(table.rows for table in found.manifest.tables.values()):,} rows from {file}.")
    if not found.has_secret:
        note(f"The secret that keys are hashed with is not in the backup: {VARIABLE} has to be what it was.")
    if as_json:
        click.echo(json.dumps(found.manifest.as_json(), indent=2))


def refuse_running(data: Path) -> None:
    """Raises `Conflict` while a gateway works with this data directory."""
    for path in siblings(data / "journal"):
        try:
            JournalDirectory(path).release()
        except JournalOwned:
            raise Conflict(f"A gateway runs on {data}: stop it first, then restore.") from None
        except FileNotFoundError:
            continue


async def _prepare_schema(url: str, revision: str) -> None:
    """Bring a new database to the schema that the backup was made of; it is upgraded when it is full."""
    there = await on_schema(current, url)
    if there is None:
        await on_schema(lambda url: migrate(url, revision), url)
    elif there != revision:
        raise Conflict(
            f"The backup was made of schema {revision}, and the database has schema {there} already. A backup is "
            "restored into a new database only: name another one in storage.database (DATABASE_URL)."
        )


def _keep_secret(found: Archive, data: Path) -> None:
    """Put the backup's secret into the data directory, where it is no other than the one that is there."""
    secret, path = found.secret, data / FILE_NAME
    if secret is None:
        return
    make_private_dir(data)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        if path.read_bytes() != secret:
            raise Conflict(
                f"The secret in {path} is not the one of the backup, whose keys would open no door with it. Move that "
                "file away, or name another data directory in AIDOCK_DATA."
            ) from None
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())

"""`aidock migrate`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gateway.cli._shared import command as run
from gateway.cli._shared import config_option, document_of, note, on_schema
from gateway.storage.migrate import migrate, pending


@click.command()
@click.option("--check", is_flag=True, help="Only list what is pending; exit code 1 if anything is.")
@config_option
@run
async def command(check: bool, config: Path | None) -> None:
    """Bring the database to this release. An SQLite file is copied first."""
    url = document_of(config).settings.storage.database_url
    waiting = await on_schema(pending, url)
    for step in waiting:
        click.echo(step)
    if not waiting:
        note("The database is up to date.")
    elif check:
        sys.exit(1)
    else:
        await on_schema(migrate, url)
        note(f"Applied {len(waiting)}.")

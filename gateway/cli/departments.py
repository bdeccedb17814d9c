"""`aidock departments`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gateway.cli._shared import command as run
from gateway.cli._shared import config_option, database_of, document_of, json_option, moment, note, show
from gateway.storage import departments
from gateway.storage.tables import Department

_COLUMNS = ("name", "created_at", "archived_at")


@click.group()
def command() -> None:
    """Who pays: every user belongs to a department."""


@command.command()
@click.argument("name")
@config_option
@json_option
@run
async def create(name: str, config: Path | None, as_json: bool) -> None:
    """Add a department."""
    async with database_of(document_of(config)) as database, database.write() as session:
        made = await departments.create(session, name)
    show([_row(made)], _COLUMNS, as_json)


@command.command("list")
@config_option
@json_option
@run
async def list_(config: Path | None, as_json: bool) -> None:
    """Show all departments, archived ones too."""
    async with database_of(document_of(config)) as database, database.read() as session:
        rows = [_row(department) for department in await departments.every(session)]
    show(rows, _COLUMNS, as_json)


@command.command()
@click.argument("name")
@click.option("--name", "new_name", help="A new name.")
@click.option("--archive/--restore", "archived", default=None, help="Shut its users out, or let them in again.")
@config_option
@json_option
@run
async def update(name: str, new_name: str | None, archived: bool | None, config: Path | None, as_json: bool) -> None:
    """Rename, archive or restore a department."""
    async with database_of(document_of(config)) as database, database.write() as session:
        changed = await departments.update(session, name, new_name=new_name, archived=archived)
    show([_row(changed)], _COLUMNS, as_json)


@command.command()
@click.argument("name")
@config_option
@run
async def delete(name: str, config: Path | None) -> None:
    """Remove a department that has no users; its usage stays in the ledger."""
    async with database_of(document_of(config)) as database, database.write() as session:
        await departments.delete(session, name)
    note(f"Department '{name}' is gone.")


def _row(department: Department) -> dict[str, Any]:
    return {
        "name": department.name,
        "created_at": moment(department.created_at),
        "archived_at": moment(department.archived_at),
    }

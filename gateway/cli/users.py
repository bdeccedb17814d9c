"""`aidock users`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gateway.cli._shared import command as run
from gateway.cli._shared import config_option, database_of, document_of, json_option, moment, note, show
from gateway.setup import DEPARTMENT, ensure_department
from gateway.storage import departments, users
from gateway.storage.tables import Department, User

_COLUMNS = ("email", "department", "role", "created_at", "deactivated_at")
_ROLE = click.Choice(("user", "admin"))


@click.group()
def command() -> None:
    """Who calls: people and services."""


@command.command()
@click.argument("email")
@click.option("--department", default=DEPARTMENT, show_default=True, help="Where they belong.")
@click.option("--name", "display_name", default="", help="How they are called.")
@click.option("--role", type=_ROLE, default="user", show_default=True)
@config_option
@json_option
@run
async def create(
    email: str, department: str, display_name: str, role: users.Role, config: Path | None, as_json: bool
) -> None:
    """Add a user."""
    async with database_of(document_of(config)) as database, database.write() as session:
        if department == DEPARTMENT:
            await ensure_department(session)
        made = await users.create(session, email, department, display_name=display_name, role=role)
        home = await departments.find(session, department)
    show([_row(made, {home.id: home})], _COLUMNS, as_json)


@command.command("list")
@click.option("--department", help="Only those of one department.")
@config_option
@json_option
@run
async def list_(department: str | None, config: Path | None, as_json: bool) -> None:
    """Show users, deactivated ones too."""
    async with database_of(document_of(config)) as database, database.read() as session:
        homes = {home.id: home for home in await departments.every(session)}
        rows = [_row(user, homes) for user in await users.every(session, department=department)]
    show(rows, _COLUMNS, as_json)


@command.command()
@click.argument("email")
@click.option("--email", "new_email", help="A new address.")
@click.option("--name", "display_name", help="How they are called.")
@click.option("--department", help="Where they belong from now on; past usage stays where it was.")
@click.option("--role", type=_ROLE)
@config_option
@json_option
@run
async def update(
    email: str,
    new_email: str | None,
    display_name: str | None,
    department: str | None,
    role: users.Role | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Change what is given."""
    async with database_of(document_of(config)) as database, database.write() as session:
        changed = await users.update(
            session, email, new_email=new_email, display_name=display_name, department=department, role=role
        )
        homes = {home.id: home for home in await departments.every(session)}
    show([_row(changed, homes)], _COLUMNS, as_json)


@command.command()
@click.argument("email")
@config_option
@run
async def deactivate(email: str, config: Path | None) -> None:
    """Shut a user out: all of their keys stop within 5 seconds. Their usage stays."""
    async with database_of(document_of(config)) as database, database.write() as session:
        user = await users.deactivate(session, email)
    note(f"{user.email} is deactivated.")


@command.command()
@click.argument("email")
@config_option
@run
async def reactivate(email: str, config: Path | None) -> None:
    """Let a user in again: those of their keys that were not revoked work again, within 5 seconds."""
    async with database_of(document_of(config)) as database, database.write() as session:
        user = await users.reactivate(session, email)
    note(f"{user.email} is active.")


def _row(user: User, homes: dict[str, Department]) -> dict[str, Any]:
    return {
        "email": user.email,
        "name": user.display_name,
        "department": homes[user.department_id].name,
        "role": user.role,
        "created_at": moment(user.created_at),
        "deactivated_at": moment(user.deactivated_at),
    }

"""`aidock keys`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click

from gateway.cli._shared import command as run
from gateway.cli._shared import (
    config_option,
    database_of,
    document_of,
    duration,
    json_option,
    moment,
    names,
    note,
    show,
)
from gateway.identity.issuing import IssuedKey, issue
from gateway.identity.issuing import rotate as rotate_key
from gateway.identity.pepper import load_pepper
from gateway.settings.load import Document
from gateway.storage import api_keys, users
from gateway.storage.tables import ApiKey

_COLUMNS = ("id", "user", "name", "models", "created_at", "expires_at", "state")


@click.group()
def command() -> None:
    """API keys. A key is shown once, when it is made; only a keyed hash of it is kept."""


@command.command()
@click.option("--user", required=True, help="Whose key it is, by e-mail.")
@click.option("--name", default="", help="What it is for.")
@click.option("--models", help="The only models it may use, separated by commas.")
@click.option("--expires", help="When it ends, such as 30d or 12h from now.")
@config_option
@json_option
@run
async def create(
    user: str, name: str, models: str | None, expires: str | None, config: Path | None, as_json: bool
) -> None:
    """Make a key and print it, alone on stdout, for the only time."""
    expires_at = None if expires is None else time.time() + duration(expires)
    document = document_of(config)
    async with database_of(document) as database, database.write() as session:
        made = await issue(session, _pepper(document), user, name=name, models=names(models), expires_at=expires_at)
    _print(made, user, as_json)


@command.command("list")
@click.option("--user", help="Only the keys of one user.")
@config_option
@json_option
@run
async def list_(user: str | None, config: Path | None, as_json: bool) -> None:
    """Show keys by their public ids, newest first."""
    async with database_of(document_of(config)) as database, database.read() as session:
        emails = {each.id: each.email for each in await users.every(session)}
        rows = [_row(key, emails[key.user_id]) for key in await api_keys.every(session, user=user)]
    show(rows, _COLUMNS, as_json)


@command.command()
@click.argument("key")
@config_option
@run
async def revoke(key: str, config: Path | None) -> None:
    """Stop a key for good, within 5 seconds everywhere. KEY is its public id."""
    async with database_of(document_of(config)) as database, database.write() as session:
        stopped = await api_keys.revoke(session, key)
    note(f"Key {stopped.public_id} is revoked.")


@command.command()
@click.argument("key")
@click.option("--overlap", default="0s", show_default=True, help="How long the old key goes on, such as 24h.")
@config_option
@json_option
@run
async def rotate(key: str, overlap: str, config: Path | None, as_json: bool) -> None:
    """Replace a key by one with the same rights and print that. KEY is the old one's public id."""
    document = document_of(config)
    async with database_of(document) as database, database.write() as session:
        made = await rotate_key(session, _pepper(document), key, overlap_s=duration(overlap))
        owner = (await users.find(session, made.row.user_id)).email
    _print(made, owner, as_json)


def _pepper(document: Document) -> Any:
    return load_pepper(os.environ, Path(document.settings.storage.data))


def _print(made: IssuedKey, user: str, as_json: bool) -> None:
    text = made.text.reveal()
    if as_json:
        click.echo(json.dumps({"key": text, **_row(made.row, user)}, indent=2, ensure_ascii=False))
        return
    note(f"API key for {user}, public id {made.row.public_id}. It is shown only now:")
    click.echo(text)


def _row(key: ApiKey, user: str) -> dict[str, Any]:
    return {
        "id": key.public_id,
        "user": user,
        "name": key.name,
        "models": key.models,
        "created_at": moment(key.created_at),
        "expires_at": moment(key.expires_at),
        "revoked_at": moment(key.revoked_at),
        "state": _state(key),
    }


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= time.time():
        return "expired"
    return "active" if key.replaced_by is None else "replaced"

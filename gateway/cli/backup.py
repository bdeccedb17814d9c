"""`aidock backup`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from gateway import __version__
from gateway.cli._progress import Reporter
from gateway.cli._shared import command as run
from gateway.cli._shared import config_option, database_of, document_of, json_option, note
from gateway.identity.pepper import FILE_NAME, VARIABLE
from gateway.storage import archive
from gateway.storage.errors import Invalid


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@config_option
@json_option
@run
async def command(file: Path, config: Path | None, as_json: bool) -> None:
    """Write everything to one FILE, beside a running gateway too.

    It holds the people, keys, limits and ledger of one moment, and the secret that keys are hashed with: keep it as
    safe as that. `aidock restore` fills a SQLite or a PostgreSQL database from it.
    """
    document = document_of(config)
    secret = None if os.environ.get(VARIABLE, "").strip() else _secret(Path(document.settings.storage.data))
    async with database_of(document) as database, database.read() as session:
        manifest = await archive.write(session, file, secret=secret, version=__version__, progress=Reporter("written"))
    note(f"Wrote {file}: {sum(table.rows for table in manifest.tables.values()):,} rows.")
    if secret is None:
        note(f"The secret that keys are hashed with is not in it: keep {VARIABLE} as well.")
    if as_json:
        click.echo(json.dumps(manifest.as_json(), indent=2))


def _secret(data: Path) -> bytes | None:
    try:
        return (data / FILE_NAME).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Invalid(f"The secret file {data / FILE_NAME} cannot be read: {error.strerror}.") from error

"""What commands share: the configuration they work on, the database, and how they print."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import click
from sqlalchemy.engine import make_url

from gateway.identity.pepper import PepperRefused
from gateway.settings.load import Document, load
from gateway.settings.problems import ConfigError
from gateway.storage.engine import Database
from gateway.storage.errors import Conflict, DatabaseUnavailable, Invalid, MigrationRefused, NotFound
from gateway.storage.migrate import migrate

P = ParamSpec("P")
T = TypeVar("T")

BAD_CONFIG = 78

_FIRST_YEAR = 1971
_LAST_YEAR = 9998

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LONGEST_S = 100 * 366 * 86400
_LAST_MOMENT = 253_402_300_799
"""The last second of the year 9999, which is as far as dates go."""

config_option = click.option(
    "--config",
    "config",
    envvar="AIDOCK_CONFIG",
    type=click.Path(path_type=Path),
    help="The configuration file, YAML or JSON. [env: AIDOCK_CONFIG]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Day(click.ParamType[str]):
    """A day of the calendar as `YYYY-MM-DD`, and that is what a command gets. A zone or the day after a period leads
    nowhere from the ends of what dates and unix times can say, so years close to those are refused."""

    name = "yyyy-mm-dd"
    _date = click.DateTime(["%Y-%m-%d"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        day = self._date.convert(value, param, ctx)
        if not _FIRST_YEAR <= day.year <= _LAST_YEAR:
            self.fail(f"the year of '{value}' is not one from {_FIRST_YEAR} to {_LAST_YEAR}.", param, ctx)
        return day.date().isoformat()


def document_of(config: Path | None, flags: Mapping[str, Any] | None = None) -> Document:
    """The configuration a command works on; a bad one ends the program with every problem and exit code 78."""
    try:
        return load(config, os.environ, flags or {})
    except ConfigError as error:
        fail(str(error), BAD_CONFIG)


@asynccontextmanager
async def database_of(document: Document) -> AsyncIterator[Database]:
    """The configured database, brought to this release."""
    storage = document.settings.storage
    await on_schema(migrate, storage.database_url)
    database = Database.open(storage.database_url, Path(storage.data))
    try:
        yield database
    finally:
        await database.close()


async def on_schema(work: Callable[[str], T], url: str) -> T:
    """Do schema work off the loop. Raises `DatabaseUnavailable` saying which database that was, and a remedy."""
    try:
        return await asyncio.to_thread(work, url)
    except (DatabaseUnavailable, OSError) as error:
        shown = make_url(url).render_as_string(hide_password=True)
        raise DatabaseUnavailable(
            f"{error} The database is {shown}: check that it is there and this user may write to it, restore a backup, "
            "or name another in storage.database (DATABASE_URL) or AIDOCK_DATA."
        ) from error


def command(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Run an async command; what people can mend ends it with one sentence and exit code 1."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return asyncio.run(function(*args, **kwargs))
        except (NotFound, Conflict, Invalid, DatabaseUnavailable, MigrationRefused, PepperRefused) as error:
            fail(str(error), 1)

    return run


def fail(message: str, code: int) -> NoReturn:
    """Say why on stderr and end."""
    click.echo(message, err=True)
    sys.exit(code)


def note(message: str) -> None:
    """Words for a person; stdout is for data."""
    click.echo(message, err=True)


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    """Print rows as a table, or all of their fields as JSON."""
    if as_json:
        click.echo(json.dumps(list(rows), indent=2, ensure_ascii=False))
        return
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in ([name.upper() for name in columns], *cells):
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def moment(seconds: float | None) -> str | None:
    """A unix time as ISO 8601, to the second, in UTC."""
    return (
        None
        if seconds is None
        else f"{datetime.fromtimestamp(min(int(seconds), _LAST_MOMENT), UTC):%Y-%m-%dT%H:%M:%SZ}"
    )


def base_url(host: str, port: int) -> str:
    """Where this machine reaches a gateway that listens there."""
    host = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def duration(text: str) -> float:
    """`30d`, `24h`, `15m` or `90s` in seconds. Raises `click.BadParameter`."""
    found = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip().lower())
    if found is None:
        raise click.BadParameter(f"'{text}' is not a duration such as 30d, 24h or 15m")
    seconds = int(found[1]) * _SECONDS[found[2]]
    if seconds > _LONGEST_S:
        raise click.BadParameter(f"'{text}' is longer than a hundred years; leave it out for something without an end")
    return seconds


def names(text: str | None) -> list[str] | None:
    """A comma-separated list; None where it was not given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def closest(word: str, known: Iterable[str]) -> str:
    """A hint for a mistyped word, empty where nothing is near."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)

"""`aidock usage`."""

from __future__ import annotations

import csv
import sys
from datetime import date
from pathlib import Path
from typing import Any

import click

from gateway.cli._shared import command as run
from gateway.cli._shared import config_option, database_of, document_of, json_option, names, show
from gateway.storage import ledger

_SUMS = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "cost_usd")


@click.command()
@click.option("--by", default="department", show_default=True, help="department, user, key, model, provider, day.")
@click.option("--from", "first", type=click.DateTime(["%Y-%m-%d"]), help="The first day.")
@click.option("--to", "last", type=click.DateTime(["%Y-%m-%d"]), help="The last day.")
@click.option("--format", "form", type=click.Choice(("table", "csv", "json")), default="table", show_default=True)
@config_option
@json_option
@run
async def command(
    by: str, first: date | None, last: date | None, form: str, config: Path | None, as_json: bool
) -> None:
    """What was used, summed from the ledger's days.

    \b
    aidock usage --by department,model --from 2026-11-01 --to 2026-11-30
    aidock usage --by day --format csv > november.csv
    """
    groups = names(by) or []
    async with database_of(document_of(config)) as database, database.read() as session:
        rows = await ledger.usage(session, groups, _day(first), _day(last))
    columns = [*dict.fromkeys(groups), *_SUMS]
    if form == "csv" and not as_json:
        _print_csv(rows, columns)
    else:
        show(rows, columns, as_json or form == "json")


def _day(moment: date | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%d}"


def _print_csv(rows: list[dict[str, Any]], columns: list[str]) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(columns)
    out.writerows([_inert(row[column]) for column in columns] for row in rows)


def _inert(value: Any) -> Any:
    """A cell that a spreadsheet shows and does not run."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value

"""`aidock prices`."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli._shared import Day, config_option, database_of, document_of, json_option, note, show
from gateway.cli._shared import command as run
from gateway.core.money import RATES, in_units, rate_in_dollars

if TYPE_CHECKING:
    from gateway.repricing import Difference

_RATES = [name for name, _ in RATES.values()]
_COLUMNS = ("model", "input", "cached_input", "output", "from", "version")
_COMPARED = ("model", "day", "calls", "changed", "unpriced", "charged_usd", "would_cost_usd", "difference_usd")


@click.group()
def command() -> None:
    """What calls cost: US dollars per million tokens and per unit, by the day from which a price holds."""


@command.command("list")
@config_option
@json_option
@run
async def list_(config: Path | None, as_json: bool) -> None:
    """Show every model's prices, by the configuration and the price table that ships with the program."""
    from gateway.cli._snapshot import snapshot_of

    rows: list[dict[str, Any]] = []
    for name, model in snapshot_of(document_of(config)).models.items():
        for since, price in model.prices.entries:
            cached = price.input if price.cached_input is None else price.cached_input
            rows.append(
                {
                    "model": name,
                    "input": in_units("cost", price.input),
                    "cached_input": in_units("cost", cached),
                    "output": in_units("cost", price.output),
                    **{name: rate_in_dollars(name, price) or None for name in _RATES},
                    "from": f"{datetime.fromtimestamp(since, UTC):%Y-%m-%d}" if since else None,
                    "version": price.version,
                }
            )
    sold = [name for name in _RATES if any(row[name] for row in rows)]
    show(rows, [*_COLUMNS[:4], *sold, *_COLUMNS[4:]], as_json)


@command.command()
@click.option("--from", "first", type=Day(), required=True, help="The first day.")
@click.option("--to", "last", type=Day(), required=True, help="The last day.")
@click.option("--model", help="Only calls that named this model.")
@click.option("--apply", "applies", is_flag=True, help="Write the difference to the ledger.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
@json_option
@run
async def reprice(
    first: str, last: str, model: str | None, applies: bool, yes: bool, config: Path | None, as_json: bool
) -> None:
    """Compare what calls were charged with what they would cost by today's prices.

    A call is priced by the entry in force when it was made. --apply adds an adjustment to every call that differs and
    lets running gateways count cost anew; doing it again changes nothing.

    \b
    aidock prices reprice --from 2026-11-01 --to 2026-11-30
    aidock prices reprice --from 2026-11-01 --to 2026-11-30 --model gpt-4o-mini --apply
    """
    from gateway import repricing
    from gateway.cli._snapshot import snapshot_of

    if last < first:
        raise click.UsageError("--to is before --from.")
    if applies and not yes and not sys.stdin.isatty():
        raise click.UsageError("--apply changes what was charged; without a terminal to ask on it needs --yes.")
    document = document_of(config)
    snapshot = snapshot_of(document)
    period = repricing.Period(first, last, snapshot.zone, model)
    async with database_of(document) as database:
        differences = await repricing.compare(database, period, snapshot.routes)
        rows = [_row(each) for each in differences]
        if not as_json:
            show(rows, _COMPARED, as_json=False)
        changed = sum(each.changed for each in differences)
        adjusted = 0
        if applies and changed and (yes or click.confirm(f"Adjust {changed} calls?", err=True)):
            adjusted = await repricing.apply(database, period, snapshot.routes)
            note(f"{adjusted} calls were adjusted.")
        elif changed:
            note(f"{changed} calls would be adjusted by --apply; nothing was written.")
        else:
            note("Every call was charged what it would cost.")
    if as_json:
        click.echo(json.dumps({"adjusted": adjusted, "differences": rows}, indent=2, ensure_ascii=False))


def _row(each: Difference) -> dict[str, Any]:
    return {
        "model": each.model,
        "day": each.day,
        "calls": each.calls,
        "changed": each.changed,
        "unpriced": each.unpriced,
        "charged_usd": in_units("cost", each.charged),
        "would_cost_usd": in_units("cost", each.would_cost),
        "difference_usd": in_units("cost", each.would_cost - each.charged),
    }

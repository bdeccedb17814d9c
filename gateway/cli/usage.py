"""`aidock usage`."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import click

from gateway.cli._shared import Day, config_option, database_of, document_of, json_option, moment, names, show
from gateway.cli._shared import command as run
from gateway.storage import ledger
from gateway.storage.errors import NotFound

_FACTS = (
    "request_id",
    "kind",
    "outcome",
    "status",
    "created_at",
    "user",
    "department",
    "key_id",
    "endpoint",
    "model_id",
    "provider",
    "upstream_model",
    "attempts",
    "latency_ms",
    "usage_source",
)
_SUMS = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "cost_usd", "saved_usd")


@click.command()
@click.option("--by", default="department", show_default=True, help="department, user, key, model, provider, day.")
@click.option("--from", "first", type=Day(), help="The first day.")
@click.option("--to", "last", type=Day(), help="The last day.")
@click.option("--format", "form", type=click.Choice(("table", "csv", "json")), default="table", show_default=True)
@click.option("--request", "request_id", help="Instead of sums: the receipt of one call, by its x-request-id.")
@config_option
@json_option
@run
async def command(
    by: str,
    first: str | None,
    last: str | None,
    form: str,
    request_id: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """What was used, summed from the ledger's days, or what one call cost and why.

    \b
    aidock usage --by department,model --from 2026-11-01 --to 2026-11-30
    aidock usage --by day --format csv > november.csv
    aidock usage --request 01932b5e-7d3a-7c41-9b0e-2f6f1c5d8a90
    """
    if request_id is not None:
        await _show_receipt(request_id, config, as_json or form == "json")
        return
    groups = names(by) or []
    async with database_of(document_of(config)) as database, database.read() as session:
        rows = await ledger.usage(session, groups, first, last)
    columns = [*dict.fromkeys(groups), *_SUMS]
    if form == "csv" and not as_json:
        _print_csv(rows, columns)
    else:
        show(rows, columns, as_json or form == "json")


async def _show_receipt(request_id: str, config: Path | None, as_json: bool) -> None:
    from gateway.receipt import receipt

    async with database_of(document_of(config)) as database, database.read() as session:
        found = await receipt(session, request_id, user=None)
    if found is None:
        raise NotFound(f"There is no receipt for '{request_id}': the call has not ended yet, or was refused.")
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _print_receipt(found)


def _print_receipt(receipt: dict[str, Any]) -> None:
    tokens, prices = receipt["tokens"], receipt["prices"]
    reserved, settled, total = receipt["reserved"], receipt["settled"], receipt["total"]
    facts = {name: receipt[name] for name in _FACTS} | {"created_at": moment(receipt["created_at"])}
    width = max(map(len, (*facts, "price_version")))
    for name, value in (*facts.items(), ("price_version", prices["version"])):
        click.echo(f"{name:<{width}}  {'-' if value is None else value}")
    classes = (("prompt", "input"), ("cached", "cached_input"), ("completion", "output"), ("reasoning", "output"))
    _section([{"tokens of": name, "used": tokens[name], "usd per million": prices[unit]} for name, unit in classes])
    _section([receipt["units"]] if receipt["units"] else [])
    amounts = {"reserved": reserved, "settled": settled, "overspent": receipt["overspent"]}
    _section([{"": name, "tokens": each["tokens"], "usd": each["cost_usd"]} for name, each in amounts.items()])
    _section(receipt["decisions"])
    _section([each | {"prices": each["prices"]["version"]} for each in receipt["adjustments"]])
    _section([_tried_before(each) for each in receipt["before"]])
    click.echo(
        f"\nTotal: {total['prompt_tokens']} prompt and {total['completion_tokens']} completion tokens, "
        f"${total['cost_usd']:.6f}"
    )
    if receipt["saved_usd"]:
        click.echo(f"Saved by an answer from the cache: ${receipt['saved_usd']:.6f}")


def _tried_before(call: dict[str, Any]) -> dict[str, Any]:
    """A call at another model that came to nothing."""
    names = ("request_id", "model_id", "provider", "upstream_model", "outcome", "status", "attempts")
    return {**{name: call[name] for name in names}, "usd": call["cost_usd"]}


def _section(rows: list[dict[str, Any]]) -> None:
    if rows:
        click.echo()
        show(rows, list(rows[0]), as_json=False)


def _print_csv(rows: list[dict[str, Any]], columns: list[str]) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(columns)
    out.writerows([_inert(row[column]) for column in columns] for row in rows)


def _inert(value: Any) -> Any:
    """A cell that a spreadsheet shows and does not run."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value

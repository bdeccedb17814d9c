"""`aidock routes`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from gateway.cli._shared import closest, config_option, document_of, json_option, note, show
from gateway.cli._shared import command as run
from gateway.cli._snapshot import snapshot_of
from gateway.core.ports import StoreUnavailable
from gateway.itinerary import Reported, explain, summary
from gateway.local import health_in
from gateway.settings.load import Document
from gateway.storage.errors import NotFound

_TARGETS = ("model", "provider", "upstream_model", "key", "share", "health", "failures", "rests_for_seconds")
_COSTS = ("first_byte_ms", "input_usd", "output_usd")


@click.group()
def command() -> None:
    """Where calls go, and where they go next."""


@command.command("list")
@config_option
@json_option
@run
async def list_routes(config: Path | None, as_json: bool) -> None:
    """Every public name, its models and its fallbacks."""
    rows = [summary(route) for route in snapshot_of(document_of(config)).routes.values()]
    if not as_json:
        rows = [row | {"fallbacks": _shown(row["fallbacks"])} for row in rows]
    show(rows, ("name", "strategy", "targets", "deployments", "fallbacks"), as_json)


@command.command("explain")
@click.argument("name")
@config_option
@json_option
@run
async def explain_route(name: str, config: Path | None, as_json: bool) -> None:
    """Where a call to NAME would go now: the targets in the order to try them, how they fare in the gateway that runs
    here, and what follows each failure.

    \b
    aidock routes explain smart
    aidock routes explain smart --json
    """
    document = document_of(config)
    routes = snapshot_of(document).routes
    route = routes.get(name)
    if route is None:
        raise NotFound(f"There is no route or model '{name}'.{closest(name, routes)}")
    found = explain(route, Reported(await _health(document)), time.time())
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    _print(found)


async def _health(document: Document) -> list[dict[str, Any]] | None:
    """What the gateway on this data says of its deployments, None where none can be asked."""
    try:
        return await health_in(Path(document.settings.storage.data))
    except StoreUnavailable as error:
        note(str(error))
        return None


def _print(found: dict[str, Any]) -> None:
    said = (
        "as the running gateway has it"
        if found["health_from"]
        else "not known: no gateway with its counters in memory runs here"
    )
    click.echo(f"{found['name']}: strategy {found['strategy']}; health {said}\n")
    show(found["targets"], (*_TARGETS, *_COSTS), as_json=False)
    begins = found["begins"]
    click.echo(f"\nA call begins with: {_place(begins) if begins else 'nothing; every provider has asked to wait'}")
    after = [{"after": kind, "goes to": _place(leg) if leg else "-"} for kind, leg in found["after"].items()]
    click.echo()
    show(after, ("after", "goes to"), as_json=False)


def _place(leg: dict[str, Any]) -> str:
    about = [f"fallback: {leg['fallback']}"] if leg["fallback"] else []
    about += ["although it should rest"] if leg["although_resting"] else []
    return f"{leg['model']} ({', '.join(about)})" if about else str(leg["model"])


def _shown(fallbacks: dict[str, list[str]]) -> str:
    return "; ".join(f"{reason}: {', '.join(models) or 'none'}" for reason, models in fallbacks.items()) or "-"

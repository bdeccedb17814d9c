"""`aidock config`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gateway.cli._shared import config_option, document_of, note
from gateway.cli._snapshot import snapshot_of
from gateway.settings.show import effective, json_schema


@click.group()
def command() -> None:
    """The configuration file: check it before a server reads it."""


@command.command()
@config_option
@click.argument("file", type=click.Path(path_type=Path), required=False)
def check(file: Path | None, config: Path | None) -> None:
    """Say whether a configuration can be served; every problem as FILE:LINE:COL, with a suggestion."""
    document = document_of(file or config)
    snapshot = snapshot_of(document)
    for warning in snapshot.warnings:
        note(f"warning: {warning}")
    models, providers = len(snapshot.models), len(snapshot.upstreams)
    note(f"{document.origin or 'The built-in default'} is fine: {models} models at {providers} providers.")


@command.command()
def schema() -> None:
    """Print the JSON Schema, for editors and other checkers."""
    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@command.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON (the default is YAML).")
def show(config: Path | None, as_json: bool) -> None:
    """Print the configuration in force, defaults and overrides included, secrets masked."""
    shown = effective(document_of(config))
    if as_json:
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    import yaml

    click.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), nl=False)

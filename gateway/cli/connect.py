"""`aidock connect`."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import click

from gateway.cli._clients import CLIENTS, VARIABLE
from gateway.cli._shared import base_url, closest, config_option, document_of, fail, json_option, note
from gateway.cli._snapshot import snapshot_of


@click.command()
@click.argument("client", type=click.Choice(list(CLIENTS)))
@click.option("--base-url", "given", help="Where clients reach this gateway. [default: where it listens]")
@click.option("--model", help="The model to ask. [default: the first that is configured]")
@config_option
@json_option
def command(client: str, given: str | None, model: str | None, config: Path | None, as_json: bool) -> None:
    """Print a ready configuration for a client. The key stays in the environment variable AIDOCK_API_KEY.

    \b
    aidock connect python > hello.py
    aidock connect openwebui --base-url https://llm.example.com
    """
    snapshot = snapshot_of(document_of(config))
    base = base_url(snapshot.server.host, snapshot.server.port) if given is None else _checked(given)
    if model is not None and model not in snapshot.routes:
        fail(f"There is no model '{model}'.{closest(model, snapshot.routes)}", 1)
    chosen = model or next(iter(snapshot.routes))
    text = CLIENTS[client](base, chosen)
    if as_json:
        told = {"client": client, "base_url": f"{base}/v1", "model": chosen, "key_variable": VARIABLE, "text": text}
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    click.echo(text)
    note(f"Set {VARIABLE} to a key; 'aidock keys create --user …' makes one.")


def _checked(url: str) -> str:
    """The URL without what clients add themselves. Raises `click.BadParameter`."""
    base = url.rstrip("/").removesuffix("/v1")
    try:
        parts = urlsplit(base)
        fits = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) and base.isprintable()
    except ValueError:
        fits = False
    if not fits or " " in base or parts.query or parts.fragment:
        raise click.BadParameter(f"'{url}' is not a URL such as https://llm.example.com", param_hint="--base-url")
    return base

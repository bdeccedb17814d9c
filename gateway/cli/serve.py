"""`aidock serve`."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from textwrap import indent

import click
from uvicorn.config import STARTUP_FAILURE

from gateway import __version__
from gateway.cli._clients import curl_command
from gateway.cli._preflight import CannotStart, check_counters, check_writable, refuse_second_origins
from gateway.cli._shared import BAD_CONFIG, base_url, config_option, database_of, document_of, fail, note
from gateway.cli._snapshot import snapshot_of
from gateway.guard import GuardLimits
from gateway.identity.pepper import PepperRefused, load_pepper
from gateway.server import AddressInUse, CannotListen, ServerSettings, run
from gateway.settings.compile import Snapshot
from gateway.settings.load import Document
from gateway.settings.problems import ConfigError
from gateway.setup import FirstStart, set_up
from gateway.storage import quotas
from gateway.storage.errors import DatabaseUnavailable, Invalid, MigrationRefused


@click.command()
@config_option
@click.option("--host", help="The address to listen on. [env: AIDOCK_SERVER__HOST]")
@click.option("--port", type=click.IntRange(0, 65535), help="The port to listen on. [env: PORT]")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes; more than one needs Redis counters.")
def command(config: Path | None, host: str | None, port: int | None, workers: int | None) -> None:
    """Run the gateway.

    Without a configuration it serves the built-in demo model from ./aidock-data, and the first start prints a key.
    SIGHUP reads the configuration again, SIGTERM drains, a second SIGTERM stops at once.
    """
    began = time.monotonic()
    for name, value in (("HOST", host), ("PORT", port), ("WORKERS", workers)):
        if value is not None:
            os.environ[f"AIDOCK_SERVER__{name}"] = str(value)  # workers read the same environment
    if config is not None:
        os.environ["AIDOCK_CONFIG"] = str(config)
    document = document_of(config)
    snapshot = snapshot_of(document)
    try:
        first = asyncio.run(_prepare(document, snapshot))
    except (DatabaseUnavailable, MigrationRefused, PepperRefused, Invalid, CannotStart) as error:
        fail(f"AI Dock cannot start: {error}", 1)
    except ConfigError as error:
        fail(str(error), BAD_CONFIG)
    if first is not None and first.key is not None:
        # Before anything else can go wrong: what is made now is not shown a second time.
        note(f"  API key   {first.key.reveal()}")
        note(f"            (shown once; another: aidock keys create --user {first.admin})")
    sys.exit(_serve(snapshot, first, began))


async def _prepare(document: Document, snapshot: Snapshot) -> FirstStart | None:
    """Find out in words what would keep the workers from starting; on a first start, set up."""
    data = Path(snapshot.storage.data)
    check_writable(data / "journal")
    async with database_of(document) as database:
        pepper = load_pepper(os.environ, data)
        async with database.read() as session:
            refuse_second_origins(document, await quotas.limits(session))
        await check_counters(snapshot)
        return await set_up(database, pepper, os.environ)


def _serve(snapshot: Snapshot, first: FirstStart | None, began: float) -> int:
    server = snapshot.server
    settings = ServerSettings(
        host=server.host,
        port=server.port,
        workers=server.workers,
        drain_notice=server.drain_notice,
        drain_seconds=server.drain_seconds,
        limits=GuardLimits(
            header_timeout=server.header_timeout,
            body_timeout=server.body_timeout,
            write_timeout=server.write_timeout,
            max_body_bytes=server.max_body_bytes,
        ),
    )
    metrics = _metrics_directory(snapshot) if server.workers > 1 else None
    try:
        code = run(settings, ready=lambda: _welcome(snapshot, first, began))
    except (AddressInUse, CannotListen) as error:
        fail(str(error), 1)
    finally:
        if metrics is not None:
            shutil.rmtree(metrics, ignore_errors=True)
    if code == STARTUP_FAILURE:
        fail("AI Dock cannot start: the log on stdout says why.", 1)
    return code


def _metrics_directory(snapshot: Snapshot) -> str:
    """Where the workers of this instance, and no other, add up their metrics."""
    os.environ["AIDOCK_METRICS_DIR"] = tempfile.mkdtemp(prefix="metrics-", dir=snapshot.storage.data)
    return os.environ["AIDOCK_METRICS_DIR"]


def _welcome(snapshot: Snapshot, first: FirstStart | None, began: float) -> None:
    """What a person needs who has just started the gateway. The key is shown at the first start only."""
    server = snapshot.server
    base = base_url(server.host, server.port)
    note(f"AI Dock {__version__} ready in {time.monotonic() - began:.1f} s    {base}")
    model = next(iter(snapshot.routes))
    note(f"  Models    {', '.join(list(snapshot.routes)[:8])}")
    if first is not None:
        key = "$AIDOCK_API_KEY" if first.key is None else first.key.reveal()
        note(f"Try it:\n{indent(curl_command(base, model, key), '  ')}")
    note(
        f"Data in {snapshot.storage.data}   Config: {snapshot.origin or 'none (aidock init writes one)'}   "
        f"Metrics {base}/metrics   Stop Ctrl+C"
    )

"""`aidock reconcile`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from gateway.cli._reconciliation import Reconciliation, claimed_limits
from gateway.cli._shared import Day, config_option, database_of, document_of, fail, json_option, note, show
from gateway.cli._shared import command as run
from gateway.cli._snapshot import snapshot_of
from gateway.ledger.delivery import SinkUnavailable
from gateway.ledger.reconcile import SHOWN, Check, Difference
from gateway.local import counters_or_why_not
from gateway.storage import quotas
from gateway.storage.audit import Period

_QUIET_S = 2.0
"""Work that takes longer says what it is at, and not more often."""


@click.command()
@click.option("--from", "first", type=Day(), help="The first day of the rows to check.")
@click.option("--to", "last", type=Day(), help="The last day of the rows to check.")
@click.option("--fix", is_flag=True, help="Adopt, deliver, sum and count anew what is wrong, then check again.")
@click.option(
    "--wait",
    type=click.FloatRange(0, 3600),
    default=5.0,
    show_default=True,
    help="Seconds that counters and ledger may take to agree while calls run.",
)
@config_option
@json_option
@run
async def command(
    first: str | None, last: str | None, fix: bool, wait: float, config: Path | None, as_json: bool
) -> None:
    """Compare the books: counters, ledger, daily sums, prices and journals.

    \b
    aidock reconcile
    aidock reconcile --from 2026-11-01 --to 2026-11-30 --json
    aidock reconcile --fix

    Exit code 0: all of them agree. 1: some do not, or, with --fix, still do not. Ledger rows are never changed.
    """
    if first is not None and last is not None and first > last:
        raise click.UsageError("--from is after --to.")
    document = document_of(config)
    snapshot = snapshot_of(document)
    period = Period(first, last)
    mended: list[str] = []
    lost: list[Difference] = []
    try:
        async with database_of(document) as database, counters_or_why_not(document, snapshot, database) as counters:
            async with database.read() as session:
                limits = claimed_limits(snapshot, await quotas.limits(session))
            books = Reconciliation(database, counters, snapshot, limits, period, wait, _Progress())
            checks = await books.checks()
            if fix and any(check.differences for check in checks):
                mended, lost = await books.mend(checks)
                checks = await books.checks()
    except SinkUnavailable as error:
        fail(f"The books cannot be compared now: {error}", 1)
    for difference in lost:
        next(check for check in checks if check.name == "journals").add(*difference)
    _tell(checks, mended, as_json)
    sys.exit(any(check.differences for check in checks))


class _Progress:
    """Says on stderr what long work is at."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _QUIET_S

    def __call__(self, what: str) -> None:
        if time.monotonic() >= self._next:
            note(f"… {what}")
            self._next = time.monotonic() + _QUIET_S


def _tell(checks: Sequence[Check], mended: Sequence[str], as_json: bool) -> None:
    differences = sum(check.differences for check in checks)
    if as_json:
        told = {"equal": not differences, "differences": differences, "mended": mended, "checks": _report(checks)}
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    rows = [{"check": check.title, "compared": check.checked, "differences": check.differences} for check in checks]
    show(rows, ("check", "compared", "differences"), as_json=False)
    for check in checks:
        for difference in check.first:
            click.echo(f"{check.name}: {difference.says}. What to do: {difference.remedy}.")
        if check.differences > SHOWN:
            click.echo(f"{check.name}: and {check.differences - SHOWN} more.")
        for words in check.notes:
            note(f"{check.name}: {words}")
    for words in mended:
        note(f"Mended: {words}.")
    note("The books agree." if not differences else f"The books do not agree: {differences} differences.")


def _report(checks: Sequence[Check]) -> list[dict[str, Any]]:
    return [
        {
            "check": check.name,
            "title": check.title,
            "compared": check.checked,
            "differences": check.differences,
            "first": [difference._asdict() for difference in check.first],
            "notes": check.notes,
        }
        for check in checks
    ]

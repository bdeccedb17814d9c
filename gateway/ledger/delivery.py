"""Getting rows into the ledger table: what the sink promises, and what becomes of a row it cannot store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from gateway.core.records import OutcomeRecord
from gateway.ledger.quarantine import Quarantine

logger = logging.getLogger("aidock.ledger")

_TRIES = 3
_PAUSE = 0.05


class SinkUnavailable(Exception):
    """The database is away or refuses all work; the rows may or may not be in it."""


class PoisonRow(ValueError):
    """A row that the database will not take, whatever happens around it."""


class LedgerSink(Protocol):
    """The ledger table."""

    async def insert(self, rows: Sequence[OutcomeRecord]) -> int:
        """Store all of the rows or none, and return how many are new. Request id, kind and number are the key: a row
        that is there already changes nothing, so a batch may be offered again. Raises `SinkUnavailable`, or `PoisonRow`
        (any other `ValueError` means the same) when one of the rows cannot be stored."""


class Delivery:
    """Inserts rows, and moves those that cannot be stored to a file of JSON lines so that others get past them."""

    def __init__(self, sink: LedgerSink, quarantine: Path) -> None:
        self.rows = 0
        self.quarantined = 0
        self._sink = sink
        self._quarantine = Quarantine(quarantine)

    async def insert(self, rows: Sequence[OutcomeRecord]) -> int:
        """How many of the rows are new in the ledger. Raises `SinkUnavailable`, and `OSError` when a row can be
        neither stored nor quarantined."""
        if not rows:
            return 0
        try:
            new = await self._sink.insert(rows)
        except ValueError as error:
            if len(rows) == 1:
                return await self._insert_alone(rows[0], error)
            half = len(rows) // 2
            return await self.insert(rows[:half]) + await self.insert(rows[half:])
        self.rows += new
        return new

    async def _insert_alone(self, row: OutcomeRecord, error: ValueError) -> int:
        for _ in range(_TRIES - 1):
            await asyncio.sleep(_PAUSE)
            try:
                new = await self._sink.insert([row])
            except ValueError as again:
                error = again
            else:
                self.rows += new
                return new
        await asyncio.to_thread(self._quarantine.add, row, error)
        self.quarantined += 1
        logger.error(
            "A ledger row could not be stored and was put in quarantine.",
            extra={"request_id": row.request_id, "reason": type(error).__name__, "file": str(self._quarantine.path)},
        )
        return 0


async def offer_again(quarantine: Quarantine, sink: LedgerSink) -> tuple[int, int]:
    """Offer the rows in quarantine to the ledger once more; those it takes, or has, leave the file. How many left,
    and how many stay. Raises `SinkUnavailable` and `OSError`."""
    taken: list[bytes] = []
    entries = quarantine.entries()
    for entry in entries:
        if entry.row is None:
            continue
        with contextlib.suppress(ValueError):
            await sink.insert([entry.row])
            taken.append(entry.line)
    await asyncio.to_thread(quarantine.remove, taken)
    return len(taken), len(entries) - len(taken)

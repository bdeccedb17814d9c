"""Recovery: what dead processes left in their journals goes to the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.core.records import IntentRecord, OutcomeRecord
from gateway.ledger.damage import DamageFile
from gateway.ledger.delivery import Delivery, LedgerSink, SinkUnavailable
from gateway.ledger.directory import START, JournalDirectory, JournalOwned, siblings
from gateway.ledger.orphans import orphan
from gateway.ledger.reader import Replay

logger = logging.getLogger("aidock.ledger")


@dataclass(slots=True)
class Recovered:
    """What adoption found: journals that are done with, orphans that are new in the ledger, records that are
    `missing` from a sequence, bytes that were damaged or torn, and whole records that could not be understood."""

    journals: int = 0
    orphans: int = 0
    missing: int = 0
    damaged_bytes: int = 0
    unreadable: int = 0


class Adopter:
    """Takes over the journals below `root` whose processes are gone: at start, and every `interval` seconds, so that
    a worker that survives delivers the records of one that was killed. Any number of processes may do so at once."""

    def __init__(
        self, root: Path, sink: LedgerSink, *, own: Path | None = None, interval: float = 10.0, batch: int = 500
    ) -> None:
        """`own` is this process's journal, which is left alone. `on_ended` is called with the id of each call whose
        row comes from another's journal, `on_adopted` when all of them have gone to the ledger: the counters may never
        have heard that they ended, nor of what they used. `on_gone` is told the name of each journal that is done
        with: nothing more comes from there."""
        self.recovered = Recovered()
        self.on_adopted: Callable[[], None] = _nobody
        self.on_ended: Callable[[str], None] = _nobody_told
        self.on_gone: Callable[[str], Awaitable[None]] | None = None
        self._root = root
        self._own = own
        self._interval = interval
        self._batch = batch
        self._delivery = Delivery(sink, root / "quarantine.jsonl")
        self._damage = DamageFile(root)
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    @property
    def rows(self) -> int:
        """Rows that adoption added to the ledger, orphans included."""
        return self._delivery.rows

    @property
    def quarantined(self) -> int:
        return self._delivery.quarantined

    async def start(self) -> None:
        """Begin with a first pass in the background; a database that is away does not hold up the start."""
        self._task = asyncio.create_task(self._run(), name="journal-adopter")

    async def close(self) -> None:
        """Stop. A journal that is being adopted stays where it is, for the next one."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def adopt(self) -> None:
        """One pass over the journals there are. Raises `SinkUnavailable`; a journal that cannot be read is logged
        and left for the next pass."""
        for path in siblings(self._root):
            if path != self._own:
                try:
                    await self._adopt_one(path)
                except OSError:
                    logger.exception("A dead process's journal could not be adopted.", extra={"journal": path.name})

    async def _run(self) -> None:
        while True:
            try:
                await self.adopt()
                self._failing = False
            except SinkUnavailable:
                if not self._failing:
                    logger.warning("Dead processes' journals wait: the ledger database is away.", exc_info=True)
                self._failing = True
            except Exception:
                # Adoption outlives a defect in the sink: the journals stay, and all of it is tried again.
                logger.exception("Dead processes' journals could not be delivered.")
            await asyncio.sleep(self._interval)

    async def _adopt_one(self, path: Path) -> None:
        try:
            home = JournalDirectory(path)
        except (JournalOwned, FileNotFoundError):
            return
        try:
            holds_records = bool(home.segments())
            if holds_records:
                await self._deliver(home)
            home.remove()
        finally:
            home.release()
        if holds_records:
            self.on_adopted()
        if self.on_gone is not None:
            await self.on_gone(path.name)

    async def _deliver(self, home: JournalDirectory) -> None:
        found = Recovered(journals=1)
        replay = Replay(home, torn_end=True)
        acked, end = replay.acked or START, home.end()
        try:
            for _ in replay.read(acked, self._batch):
                await asyncio.sleep(0)
            damaged_before = replay.reader.damaged_bytes  # which the journal's own writer has counted
            for rows in replay.read(end, self._batch):
                await self._insert(rows)
                with contextlib.suppress(OSError):  # without it, a pass that is cut short is repeated from the start
                    home.write_ack(replay.reader.position)
                await asyncio.sleep(0)
        finally:
            replay.reader.close()
        found.orphans = await self._insert_orphans(list(replay.open.values()))
        lost = await asyncio.to_thread(self._damage.note, home, replay)
        found.missing, found.unreadable = len(lost - replay.unreadable.keys()), len(lost & replay.unreadable.keys())
        found.damaged_bytes = replay.reader.damaged_bytes - damaged_before
        self._add(found)
        logger.log(
            logging.ERROR if lost or found.damaged_bytes else logging.INFO,
            "The journal of a dead process was adopted.",
            extra={"journal": home.path.name, **_fields(found)},
        )

    async def _insert_orphans(self, intents: list[IntentRecord]) -> int:
        """Rows for calls whose end nobody noted. A journal keeps an outcome for as long as the intent it belongs to,
        so a call that was charged is not among them."""
        inserted = 0
        for at in range(0, len(intents), self._batch):
            inserted += await self._insert([orphan(intent) for intent in intents[at : at + self._batch]])
        return inserted

    async def _insert(self, rows: list[OutcomeRecord]) -> int:
        new = await self._delivery.insert(rows)
        for row in rows:
            self.on_ended(row.request_id)
        return new

    def _add(self, found: Recovered) -> None:
        total = self.recovered
        for name, value in _fields(found).items():
            setattr(total, name, getattr(total, name) + value)


def _nobody() -> None:
    return


def _nobody_told(_request_id: str) -> None:
    return


def _fields(found: Recovered) -> dict[str, int]:
    return {name: getattr(found, name) for name in Recovered.__slots__}

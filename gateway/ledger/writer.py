"""The writer: moves this process's outcomes from the journal to the ledger table, in order, losing none."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from pathlib import Path

from gateway.core.records import IntentRecord, OutcomeRecord
from gateway.ledger.damage import DamageFile
from gateway.ledger.delivery import Delivery, LedgerSink, SinkUnavailable
from gateway.ledger.directory import Position
from gateway.ledger.frames import OUTCOME, UnreadableRecord, decode_outcome
from gateway.ledger.journal import FileJournal
from gateway.ledger.orphans import orphan
from gateway.ledger.reader import Reader, Replay

logger = logging.getLogger("aidock.ledger")

_FIRST_BACKOFF = 0.05


class LedgerWriter:
    """Reads the journal's files behind the calls and inserts what ended, then acknowledges it.

    Nothing waits in memory: a database that is away for hours costs disk, up to the journal's bound. `linger` is how
    many seconds outcomes gather before they are inserted, `batch` the most rows of one insert.
    """

    def __init__(
        self,
        journal: FileJournal,
        sink: LedgerSink,
        *,
        quarantine: Path | None = None,
        batch: int = 500,
        linger: float = 0.5,
        max_backoff: float = 5.0,
    ) -> None:
        """`quarantine` is `quarantine.jsonl` beside the journals unless told otherwise. `on_lost` is called when rows
        were lost, and `orphans` of them replaced: the counters know of more than the ledger ever will."""
        self.orphans = 0
        self.on_lost: Callable[[], None] = _nobody
        self._told: set[int] = set()
        self._unreadable: set[int] = set()
        self._damage = DamageFile(journal.path.parent)
        self._journal = journal
        self._delivery = Delivery(sink, quarantine or journal.path.parent / "quarantine.jsonl")
        self._reader = Reader(journal.home, journal.acked)
        self._batch = batch
        self._linger = linger
        self._max_backoff = max_backoff
        self._failures = 0
        self._hurry = asyncio.Event()
        self._progress = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    @property
    def rows(self) -> int:
        """Rows this writer added to the ledger."""
        return self._delivery.rows

    @property
    def quarantined(self) -> int:
        return self._delivery.quarantined

    @property
    def gaps(self) -> int:
        """Records of this journal that were written and could not be read back."""
        return len(self._reader.missing)

    @property
    def unreadable(self) -> int:
        """Whole records of this journal that could not be understood."""
        return len(self._unreadable)

    @property
    def damaged_bytes(self) -> int:
        """Bytes of this journal that could not be read back."""
        return self._reader.damaged_bytes

    @property
    def sink_available(self) -> bool:
        """Whether the last insert went through."""
        return not self._failures

    async def start(self) -> None:
        self._reader.position = self._journal.acked
        self._task = asyncio.create_task(self._run(), name="ledger-writer")

    async def flush(self) -> None:
        """Return when every outcome noted so far is in the ledger. Waits as long as that takes: give it a deadline."""
        target = self._journal.end
        self._hurry.set()
        self._journal.arrived.set()
        async with self._progress:
            await self._progress.wait_for(lambda: self._journal.acked.reaches(target) and not self._journal.stranded)

    async def close(self) -> None:
        """Stop. What is not in the ledger yet stays in the journal."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        self._reader.close()

    async def _run(self) -> None:
        while True:
            await self._journal.arrived.wait()
            await self._pause(self._linger)
            self._journal.arrived.clear()
            while not await self._deliver_all():
                await self._pause(self._backoff())

    async def _pause(self, seconds: float) -> None:
        """Wait, unless a flush wants it now."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        self._hurry.clear()

    def _backoff(self) -> float:
        longest = min(_FIRST_BACKOFF * 2.0 ** min(self._failures, 16), self._max_backoff)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311  jitter, not a secret

    async def _deliver_all(self) -> bool:
        """Insert all there is. False when that did not go through; then the same records are read again."""
        try:
            await self._deliver_stranded()
            stop = self._journal.end  # what comes later gathers first
            while not self._journal.acked.reaches(stop):
                await self._deliver_batch(stop)
        except SinkUnavailable:
            if not self._failures:
                logger.warning("The ledger database is away; its rows wait in the journal.", exc_info=True)
        except Exception:
            # The queue outlives a defect in the sink or a bad disk: nothing is acknowledged, all of it is tried again.
            if not self._failures:
                logger.exception("Ledger rows could not be written; they wait in the journal.")
        else:
            return True
        self._failures += 1
        self._reader.close()
        self._reader.position = self._journal.acked
        return False

    async def _deliver_batch(self, stop: Position) -> None:
        rows: list[OutcomeRecord] = []
        while len(rows) < self._batch and not self._reader.position.reaches(stop):
            for kind, sequence, payload in self._reader.read(stop, self._batch - len(rows)):
                if kind == OUTCOME:
                    self._decode(sequence, payload, rows)
            await asyncio.sleep(0)  # a backlog is read in slices, with calls served between them
        await self._delivery.insert(rows)
        if (self._reader.missing | self._unreadable) - self._told:
            await self._make_up_for_losses()
        self._journal.acknowledge(self._reader.position, len(rows))
        await self._report_progress()

    async def _make_up_for_losses(self) -> None:
        """Once for each loss: tell of it, keep what is left of it, and give a row to each call whose end is lost. All
        of the journal is read for that; what a failed sync caused to be written again is not lost."""
        replay, ended_unseen = await self._replay()
        orphans = await self._delivery.insert([orphan(intent) for intent in ended_unseen])
        lost = await asyncio.to_thread(self._damage.note, self._journal.home, replay)
        self.orphans += orphans
        self._told |= self._reader.missing | replay.lost
        if lost:
            logger.error(
                "Records of this process's journal cannot be read back.",
                extra={"missing": len(lost), "orphans": orphans, "journal": self._journal.path.name},
            )
        self.on_lost()

    async def _replay(self) -> tuple[Replay, list[IntentRecord]]:
        """The whole journal read again, and which of its calls have ended although their ends are not in it."""
        stop, running = self._journal.end, self._journal.running
        replay = Replay(self._journal.home, torn_end=False)
        try:
            for _ in replay.read(stop, self._batch):
                await asyncio.sleep(0)
        finally:
            replay.reader.close()
        return replay, [intent for request_id, intent in replay.open.items() if request_id not in running]

    async def _deliver_stranded(self) -> None:
        """Outcomes that the disk refuses go from memory to the ledger."""
        while self._journal.stranded:
            rows, upto = self._journal.stranded_rows(self._batch)
            await self._delivery.insert(rows)
            self._journal.acknowledge_stranded(upto)
            await self._report_progress()

    def _decode(self, sequence: int, payload: bytes, rows: list[OutcomeRecord]) -> None:
        try:
            rows.append(decode_outcome(payload))
        except UnreadableRecord:
            self._unreadable.add(sequence)
            logger.exception("A whole record in the journal could not be understood.")

    async def _report_progress(self) -> None:
        if self._failures:
            self._failures = 0
            logger.info("The ledger database takes rows again.")
        async with self._progress:
            self._progress.notify_all()


def _nobody() -> None:
    return

"""The journal: what a call leaves on disk before an upstream is called and before its client has the last byte."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from gateway.core.ports import JournalUnavailable
from gateway.core.records import IntentRecord, OutcomeRecord
from gateway.ledger.directory import START, JournalDirectory, JournalOwned, Position, create
from gateway.ledger.frames import INTENT, OUTCOME, encode_record
from gateway.ledger.log import SegmentLog, Sync
from gateway.ledger.segment import Segment

logger = logging.getLogger("aidock.ledger")

MAX_BYTES = 256 * 1024 * 1024
MAX_OPEN = 20_000

_OUTCOME_EXTRA = 1024
"""Bytes that an outcome may take beyond its intent; half a dozen limits are in it."""

_CREATE_TRIES = 5

_SEGMENTS = 16
"""Into how many segments a full journal is divided at least: room comes back a whole segment at a time."""

_SMALLEST_SEGMENT = 4096

_PINNED_SEGMENTS = 4
"""How many delivered segments a call under way may keep on disk before its intent is noted anew."""


class FileJournal:
    """`gateway.core.ports.Journal` in a directory of this process's own.

    A record is in the kernel's hands when a verb returns, so killing the process loses none; it is on the disk some
    10 ms later, which is what a power cut can cost. `max_bytes` and `max_open` bound the disk and the calls under
    way; an intent is refused beyond them, while every accepted intent has room set aside for its outcome.

    Use it on an event loop. `arrived` is set by every outcome; the writer waits for it and clears it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int = MAX_BYTES,
        max_open: int = MAX_OPEN,
        max_unsynced: int = 16 * 1024 * 1024,
        segment_bytes: int = 8 * 1024 * 1024,
        sync_every: float = 0.010,
        sync: Sync = os.fdatasync,
    ) -> None:
        """Take over an existing, empty directory. Raises `JournalOwned` when it is somebody's."""
        self.home = JournalDirectory(directory)
        if self.home.segments():
            self.home.release()
            raise JournalOwned(f"The journal {directory} holds another process's records: they are to be adopted.")
        self.arrived = asyncio.Event()
        self.write_failures = 0
        self._max_bytes = max_bytes
        self._max_open = max_open
        self._max_unsynced = max_unsynced
        segment_bytes = min(segment_bytes, max(_SMALLEST_SEGMENT, max_bytes // _SEGMENTS))
        self._log = SegmentLog(
            self.home, segment_bytes=segment_bytes, every=sync_every, sync=sync, retry=self._write_stranded
        )
        self._open: dict[str, tuple[Segment, bytes]] = {}
        self._reserved = 0
        self._stranded: deque[OutcomeRecord] = deque()
        self._stranded_written = 0
        self._stranded_sent = 0
        self._undelivered = 0
        self._acked = START

    @property
    def path(self) -> Path:
        return self.home.path

    @property
    def depth(self) -> int:
        """Outcomes that are not in SQL yet."""
        return self._undelivered + self.stranded

    @property
    def stranded(self) -> int:
        """Outcomes that are in memory only: the disk refuses them, and SQL does not have them."""
        return len(self._stranded) - max(0, self._stranded_sent - self._stranded_written)

    @property
    def open_intents(self) -> int:
        return len(self._open)

    @property
    def running(self) -> frozenset[str]:
        """The calls with an intent and no outcome on disk."""
        return frozenset(self._open)

    @property
    def fullness(self) -> float:
        """How much of the tightest bound is used, 0 to 1."""
        return max((self._log.bytes + self._reserved) / self._max_bytes, len(self._open) / self._max_open)

    @property
    def healthy(self) -> bool:
        """Whether the disk takes what it is given."""
        return not self._stranded and self._log.healthy

    @property
    def sync_failures(self) -> int:
        return self._log.sync_failures

    @property
    def end(self) -> Position:
        """Where the next record goes."""
        return self._log.end

    @property
    def acked(self) -> Position:
        """Everything before this is in SQL."""
        return self._acked

    def intent(self, record: IntentRecord) -> None:
        """See `Journal.intent`. Raises `JournalUnavailable`."""
        payload = encode_record(record)
        needed = 2 * len(payload) + _OUTCOME_EXTRA
        log = self._log
        if log.bytes + self._reserved + needed > self._max_bytes:
            raise JournalUnavailable("The journal is full: the ledger database does not take its records.")
        if len(self._open) >= self._max_open:
            raise JournalUnavailable("The journal has as many calls under way as it may have.")
        if self._stranded or log.unsynced_bytes > self._max_unsynced or not log.healthy:
            raise JournalUnavailable("The journal's disk does not keep up or does not work.")
        try:
            segment = log.append(INTENT, payload)
        except OSError as error:
            self.write_failures += 1
            raise JournalUnavailable("The journal could not be written.") from error
        self._begin_intent(record.request_id, segment, payload)

    def outcome(self, record: OutcomeRecord) -> None:
        """See `Journal.outcome`. While the disk refuses, the record waits in memory."""
        if self._stranded or not self._write_outcome(record):
            self._stranded.append(record)
            self._log.wake()
        self.arrived.set()

    def acknowledge(self, position: Position, outcomes: int) -> None:
        """Everything before `position` is in SQL, `outcomes` more than at the last call: free what is not needed."""
        self._acked = position
        self._undelivered = max(0, self._undelivered - outcomes)
        if position.reaches(self.end):
            self._undelivered = 0
        try:
            self.home.write_ack(position)
        except OSError:
            logger.warning(
                "The journal's position could not be saved; a restart delivers records again.", exc_info=True
            )
        self._free_segments()

    def stranded_rows(self, most: int) -> tuple[Sequence[OutcomeRecord], int]:
        """The next outcomes that the disk refuses and SQL does not have, for delivery from memory, and what to tell
        `acknowledge_stranded` after it. They are written all the same once the disk takes them: an intent on disk
        needs its outcome beside it."""
        start = max(self._stranded_sent, self._stranded_written)
        skip = start - self._stranded_written
        rows = list(itertools.islice(self._stranded, skip, skip + most))
        return rows, start + len(rows)

    def acknowledge_stranded(self, upto: int) -> None:
        """SQL has the stranded outcomes up to the one so numbered, counted from this journal's first."""
        self._stranded_sent = upto

    async def close(self) -> None:
        """Sync and let go. A journal with nothing left in it goes; any other waits to be adopted."""
        await self._log.close()
        if self.depth or len(self._open) > len(self._stranded):
            self.home.release()
        else:
            self.home.remove()

    def _write_outcome(self, record: OutcomeRecord) -> bool:
        try:
            self._log.append(OUTCOME, encode_record(record))
        except OSError:
            self.write_failures += 1
            return False
        self._undelivered += 1
        self._end_intent(record.request_id)
        return True

    def _write_stranded(self) -> bool:
        while self._stranded:
            if not self._write_outcome(self._stranded[0]):
                return False
            self._stranded.popleft()
            self._stranded_written += 1
        return True

    def _begin_intent(self, request_id: str, segment: Segment, payload: bytes) -> None:
        if request_id in self._open:
            self._end_intent(request_id)
        segment.open += 1
        self._reserved += len(payload) + _OUTCOME_EXTRA
        self._open[request_id] = (segment, payload)

    def _end_intent(self, request_id: str) -> None:
        entry = self._open.pop(request_id, None)
        if entry is not None:
            segment, payload = entry
            segment.open -= 1
            segment.closed_by = self._log.sequence
            self._reserved -= len(payload) + _OUTCOME_EXTRA

    def _free_segments(self) -> None:
        """Delete from the oldest on, so that what is left is one unbroken stretch: no intent outlasts its outcome."""
        segments = self._log.segments
        while segments and self._is_spent(segments[0]):
            self._log.delete(segments[0])
        if segments and self._acked.segment - segments[0].number >= _PINNED_SEGMENTS:
            self._carry_forward(segments[0])

    def _is_spent(self, segment: Segment) -> bool:
        """Delivered, and needed by no call: each of its intents has an outcome, and that was delivered too."""
        acked = self._acked
        return segment.number < acked.segment and not segment.open and segment.closed_by <= acked.sequence

    def _carry_forward(self, segment: Segment) -> None:
        """Note a segment's open intents again in the newest one: a call that takes hours must not keep on disk all
        that has happened since."""
        for request_id, payload in [(key, entry[1]) for key, entry in self._open.items() if entry[0] is segment]:
            try:
                newest = self._log.append(INTENT, payload)
            except OSError:
                self.write_failures += 1
                return
            self._begin_intent(request_id, newest, payload)


def open_journal(root: Path, *, max_bytes: int = MAX_BYTES, max_open: int = MAX_OPEN) -> FileJournal:
    """A new journal below `root`, for this process."""
    for _ in range(_CREATE_TRIES):
        try:
            return FileJournal(create(root), max_bytes=max_bytes, max_open=max_open)
        except (JournalOwned, FileNotFoundError):
            continue  # an adopter took the directory for a dead process's before it was locked
    raise JournalOwned(f"No journal could be made in {root}: other processes take every new one at once.")

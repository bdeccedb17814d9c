"""Reads a journal's frames in order, from files that may be damaged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from gateway.core.records import IntentRecord, OutcomeRecord
from gateway.ledger.directory import START, JournalFiles, Position
from gateway.ledger.frames import (
    INTENT,
    MAX_FRAME,
    OUTCOME,
    Frame,
    Scan,
    UnreadableRecord,
    count_heads,
    decode_intent,
    decode_outcome,
    is_torn,
    scan,
)

_CHUNK = 4 * MAX_FRAME


class Span(NamedTuple):
    """Bytes of a segment."""

    segment: int
    start: int
    end: int


class Reader:
    """Goes from one position to another, a chunk of some 64 kB at a time.

    `missing` are the sequence numbers that were passed over and not met since; frames that a failed sync caused to be
    written twice are met twice. `damage` are the bytes that no frame could be made of.
    """

    def __init__(self, home: JournalFiles, start: Position, *, torn_end: bool = False) -> None:
        """`start.sequence` 0 takes the first frame's number for the expected one. `torn_end` says that the writer is
        gone, and may have been stopped in the middle of a frame, which is then not missing."""
        self.position = start
        self.damage: list[Span] = []
        self.missing: set[int] = set()
        self._home = home
        self._torn_end = torn_end
        self._furthest = start
        self._fd = -1

    @property
    def damaged_bytes(self) -> int:
        return sum(span.end - span.start for span in self.damage)

    def read(self, stop: Position, most: int) -> list[Frame]:
        """The next frames, no more than `most` outcomes among them. Call until `position` reaches `stop`: an empty
        list means that there was only damage, or the end of a segment. Raises `OSError`."""
        segment, offset, sequence = self.position
        if self._fd < 0 and not self._open(segment):
            self._advance(stop)
            return []
        size = os.fstat(self._fd).st_size
        end = size if segment < stop.segment else min(size, stop.offset)
        if offset >= end:
            self._advance(stop)
            return []
        data = os.pread(self._fd, min(_CHUNK, end - offset), offset)
        whole = offset + len(data) >= end
        found = scan(data, self._home.seed, whole=whole, most=most)
        sequence = self._track(found.frames, sequence)
        if whole:
            sequence = self._track_the_last(found, data, sequence)
        for start, until in found.damaged:
            self._note_damage(segment, offset + start, offset + until)
        self.position = Position(segment, offset + found.consumed, sequence)
        if self.position.reaches(self._furthest):
            self._furthest = self.position
        return found.frames

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self, segment: int) -> bool:
        try:
            self._fd = os.open(self._home.segment_path(segment), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        return True

    def _advance(self, stop: Position) -> None:
        """Go to the start of the next segment there is, or to `stop` if that comes first."""
        self.close()
        later = [number for number in self._home.segments() if self.position.segment < number <= stop.segment]
        sequence = self.position.sequence
        self.position = Position(later[0], 0, sequence) if later else stop._replace(sequence=sequence)

    def _track(self, frames: list[Frame], expected: int) -> int:
        """Note gaps in the sequence numbers; returns the number expected next."""
        for _, sequence, _ in frames:
            if sequence == expected or not expected:
                expected = sequence + 1
            elif sequence > expected:
                self.missing.update(range(expected, sequence))
                expected = sequence + 1
            else:
                self.missing.discard(sequence)
        return expected

    def _track_the_last(self, found: Scan, data: bytes, expected: int) -> int:
        """Damage that no frame follows leaves no gap in the numbers: it was records all the same."""
        if not found.damaged or found.damaged[-1][1] < len(data) or not expected:
            return expected
        rest = data[found.damaged[-1][0] :]
        if self._torn_end and is_torn(rest, expected):
            return expected
        after = expected + count_heads(rest)
        self.missing.update(range(expected, after))
        return after

    def _note_damage(self, segment: int, start: int, end: int) -> None:
        """Once: what is read again is not damaged again."""
        if segment < self._furthest.segment:
            return
        if segment == self._furthest.segment:
            start = max(start, self._furthest.offset)
        if start < end:
            self.damage.append(Span(segment, start, end))


class Replay:
    """A journal read from its first frame on. `open` are the calls that have begun and not ended so far, `unreadable`
    the payloads of whole records, by sequence number, that this release does not understand."""

    def __init__(self, home: JournalFiles, *, torn_end: bool) -> None:
        self.acked = home.read_ack()
        self.reader = Reader(home, _first(home, self.acked), torn_end=torn_end)
        self.open: dict[str, IntentRecord] = {}
        self.unreadable: dict[int, bytes] = {}
        self.records = 0

    @property
    def lost(self) -> set[int]:
        """The numbers of the records that the journal has not given back."""
        return self.reader.missing | self.unreadable.keys()

    def read(self, stop: Position, most: int) -> Iterator[list[OutcomeRecord]]:
        """The outcomes up to `stop`, up to `most` at a time. Raises `OSError`."""
        while not self.reader.position.reaches(stop):
            rows: list[OutcomeRecord] = []
            for kind, sequence, payload in self.reader.read(stop, most):
                self.records += 1
                try:
                    self._follow(kind, payload, rows)
                except UnreadableRecord:
                    self.unreadable[sequence] = payload
            yield rows

    def _follow(self, kind: int, payload: bytes, rows: list[OutcomeRecord]) -> None:
        if kind == OUTCOME:
            row = decode_outcome(payload)
            self.open.pop(row.request_id, None)
            rows.append(row)
        elif kind == INTENT:
            intent = decode_intent(payload)
            self.open[intent.request_id] = intent


def _first(home: JournalFiles, acked: Position | None) -> Position:
    """Where a journal begins. Segments that are delivered and not needed any more are gone; others should not be."""
    numbers = home.segments()
    if not numbers or numbers[0] == 1:
        return START
    return acked if acked is not None and acked.segment < numbers[0] else Position(numbers[0], 0, 0)

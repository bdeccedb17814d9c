"""Reads a journal's frames in order, from files that may be damaged."""

from __future__ import annotations

import os

from gateway.ledger.directory import JournalFiles, Position
from gateway.ledger.frames import MAX_FRAME, Frame, scan

_CHUNK = 4 * MAX_FRAME


class Reader:
    """Goes from one position to another, a chunk of some 64 kB at a time.

    `missing` are the sequence numbers that were passed over and not met since; frames that a failed sync caused to be
    written twice are met twice.
    """

    def __init__(self, home: JournalFiles, start: Position) -> None:
        """`start.sequence` 0 takes the first frame's number for the expected one."""
        self.position = start
        self.damaged_bytes = 0
        self.missing: set[int] = set()
        self._home = home
        self._furthest = start
        self._fd = -1

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
        found = scan(data, self._home.seed, whole=offset + len(data) >= end, most=most)
        self.position = Position(segment, offset + found.consumed, self._track(found.frames, sequence))
        if self.position.reaches(self._furthest):  # what is read again is not damaged again
            self.damaged_bytes += found.skipped
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

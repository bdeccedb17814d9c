"""What journals could not give back: a file of JSON lines beside them, told by every check until it is acknowledged."""

from __future__ import annotations

import base64
import contextlib
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import msgspec

from gateway.ledger.directory import JournalFiles
from gateway.ledger.lines import LineFile
from gateway.ledger.reader import Replay, Span

FILE_NAME = "damage.jsonl"
MOST_KEPT = 1024 * 1024
"""Bytes of what is left of the records that a line tells of; a disk that breaks down must not fill another."""


class Piece(msgspec.Struct):
    """Bytes as they were found, in base64: from a place in a segment, or the payload of a record that is whole and not
    understood."""

    base64: str
    segment: int | None = None
    offset: int | None = None
    record: int | None = None


class Damaged(msgspec.Struct):
    """A line of the file. `records` are runs of sequence numbers, first and last."""

    found_at: float
    journal: str
    records: list[tuple[int, int]]
    pieces: list[Piece] = []
    acknowledged_at: float | None = None

    @property
    def count(self) -> int:
        return sum(last - first + 1 for first, last in self.records)


_decode = msgspec.json.Decoder(Damaged).decode
_encode = msgspec.json.Encoder().encode


class DamageFile:
    """Any number of processes may use one file at once. Every verb raises `OSError`."""

    def __init__(self, root: Path) -> None:
        """`root` has the journals."""
        self._file = LineFile(root / FILE_NAME)

    def note(self, home: JournalFiles, replay: Replay) -> set[int]:
        """Note what is not in the file yet of the records that a journal has lost; their numbers."""
        new = replay.lost - self.noted()[home.path.name]
        if new:
            self._file.append(_encode(Damaged(time.time(), home.path.name, _runs(new), list(_pieces(home, replay)))))
        return new

    def entries(self) -> list[Damaged]:
        """What is in it, oldest first. A line that cannot be read is of a journal without a name."""
        return [_read(line) for line in self._file.lines()]

    def noted(self) -> Mapping[str, set[int]]:
        """The sequence numbers in it, by journal."""
        found: defaultdict[str, set[int]] = defaultdict(set)
        for entry in self.entries():
            for first, last in entry.records:
                found[entry.journal].update(range(first, last + 1))
        return found

    def acknowledge(self) -> list[Damaged]:
        """Somebody has been told of everything in it: which of it is new to them. It stays in the file."""
        told: list[Damaged] = []
        now = time.time()

        def acknowledged(lines: list[bytes]) -> list[bytes]:
            kept = []
            for line, entry in [(line, _read(line)) for line in lines]:
                if entry.acknowledged_at is None:
                    entry.acknowledged_at = now
                    told.append(entry)
                    line = _encode(entry)
                kept.append(line)
            return kept

        self._file.change(acknowledged)
        return told


def _read(line: bytes) -> Damaged:
    try:
        return _decode(line)
    except msgspec.DecodeError:
        return Damaged(0.0, "", [], [Piece(_base64(line))])


def _runs(numbers: Collection[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _pieces(home: JournalFiles, replay: Replay) -> Iterator[Piece]:
    """What is left of lost records, as far as there is room for it."""
    room = MOST_KEPT
    for record, payload in replay.unreadable.items():
        if len(payload) <= room:
            room -= len(payload)
            yield Piece(_base64(payload), record=record)
    for span in replay.reader.damage:
        data = _bytes(home, span, room)
        room -= len(data)
        if data:
            yield Piece(_base64(data), span.segment, span.start)


def _bytes(home: JournalFiles, span: Span, most: int) -> bytes:
    with contextlib.suppress(FileNotFoundError), home.segment_path(span.segment).open("rb") as file:
        file.seek(span.start)
        return file.read(min(most, span.end - span.start))
    return b""


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()

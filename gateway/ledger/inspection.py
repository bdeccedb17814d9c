"""Reads what journals hold without touching them: those of living processes, and those that wait to be adopted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gateway.ledger.directory import START, JournalFiles, Position, siblings
from gateway.ledger.frames import INTENT, OUTCOME, UnreadableRecord, decode_intent, decode_outcome
from gateway.ledger.reader import Reader

_BATCH = 500
_LOOKS = 5
_PAUSE_S = 0.1


@dataclass(slots=True)
class Inspection:
    """What one journal holds. `alive` says that a process works with it.

    `delivered` are the ends, by request id, that the ledger is said to have; `adjusted` the adjustments among what it
    is said to have, by request id and number; `waiting` are ends on their way; `open` are calls without an end.
    `missing` records have gone from the sequence, `unreadable` ones are whole and not understood; `trouble` says why
    the rest could not be read.
    """

    name: str
    alive: bool
    records: int = 0
    delivered: set[str] = field(default_factory=set)
    adjusted: set[tuple[str, int]] = field(default_factory=set)
    waiting: int = 0
    open: set[str] = field(default_factory=set)
    missing: int = 0
    damaged_bytes: int = 0
    unreadable: int = 0
    trouble: str = ""

    @property
    def whole(self) -> bool:
        return not (self.missing or self.damaged_bytes or self.unreadable)


def inspect_all(root: Path) -> Iterator[Inspection]:
    """Every journal below `root` that holds records. One that is adopted or closed meanwhile is left out. Blocks."""
    for path in siblings(root):
        try:
            found = _inspect(JournalFiles(path))
        except FileNotFoundError:
            continue
        except OSError as error:
            found = Inspection(path.name, alive=False, trouble=error.strerror or str(error))
        if found is not None:
            yield found


def _inspect(files: JournalFiles) -> Inspection | None:
    """A living process deletes what is delivered and appends while we read, so what looks like damage in its journal
    is looked at again before it is believed."""
    found = None
    for look in range(_LOOKS):
        if not files.segments():
            return None
        alive = files.is_owned()
        found = _read(files, alive=alive)
        if found.whole or not alive:
            break
        if look < _LOOKS - 1:
            time.sleep(_PAUSE_S)  # in a thread of its own; the owner may be in the middle of a change
    return found


def _read(files: JournalFiles, *, alive: bool) -> Inspection:
    found = Inspection(files.path.name, alive)
    acked, stop = files.read_ack(), files.end()
    numbers = files.segments()
    start = START if not numbers or numbers[0] == 1 else Position(numbers[0], 0, 0)
    reader = Reader(files, start)
    try:
        while not reader.position.reaches(stop):
            behind = acked is not None and not reader.position.reaches(acked)
            for kind, _, payload in reader.read(acked if behind and acked else stop, _BATCH):
                found.records += 1
                try:
                    _note(found, kind, payload, is_delivered=behind)
                except UnreadableRecord:
                    found.unreadable += 1
    finally:
        reader.close()
    found.missing = len(reader.missing)
    found.damaged_bytes = reader.damaged_bytes
    return found


def _note(found: Inspection, kind: int, payload: bytes, *, is_delivered: bool) -> None:
    if kind == INTENT:
        found.open.add(decode_intent(payload).request_id)
    elif kind == OUTCOME:
        row = decode_outcome(payload)
        found.open.discard(row.request_id)
        if not is_delivered:
            found.waiting += 1
        elif row.kind == "adjust":
            found.adjusted.add((row.request_id, row.number))
        else:
            found.delivered.add(row.request_id)

"""Reads what journals hold without touching them: those of living processes, and those that wait to be adopted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gateway.core.records import OutcomeRecord
from gateway.ledger.directory import START, JournalFiles, siblings
from gateway.ledger.reader import Replay

_BATCH = 500
_LOOKS = 5
_PAUSE_S = 0.1


@dataclass(slots=True)
class Inspection:
    """What one journal holds. `alive` says that a process works with it.

    `delivered` are the ends, by request id, that the ledger is said to have; `adjusted` the adjustments among what it
    is said to have, by request id and number; `waiting` are ends on their way; `open` are calls without an end.
    `missing` records, by sequence number, have gone, `unreadable` ones are whole and not understood; `trouble` says
    why the rest could not be read. `replay` is how it was read.
    """

    name: str
    alive: bool
    records: int = 0
    delivered: set[str] = field(default_factory=set)
    adjusted: set[tuple[str, int]] = field(default_factory=set)
    waiting: int = 0
    open: set[str] = field(default_factory=set)
    missing: set[int] = field(default_factory=set)
    damaged_bytes: int = 0
    unreadable: set[int] = field(default_factory=set)
    trouble: str = ""
    replay: Replay | None = field(default=None, repr=False)

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
    replay = Replay(files, torn_end=not alive)
    stop = files.end()
    try:
        for rows in replay.read(replay.acked or START, _BATCH):
            for row in rows:
                _note_delivered(found, row)
        for rows in replay.read(stop, _BATCH):
            found.waiting += len(rows)
    finally:
        replay.reader.close()
    found.records = replay.records
    found.open = set(replay.open)
    found.missing = replay.reader.missing
    found.unreadable = set(replay.unreadable)
    found.damaged_bytes = replay.reader.damaged_bytes
    found.replay = replay
    return found


def _note_delivered(found: Inspection, row: OutcomeRecord) -> None:
    if row.kind == "adjust":
        found.adjusted.add((row.request_id, row.number))
    else:
        found.delivered.add(row.request_id)

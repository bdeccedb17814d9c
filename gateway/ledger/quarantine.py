"""Rows that the ledger would not take: a file of JSON lines beside the journals, kept until they go in."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gateway.core.body import DecodeError, decode, encode
from gateway.core.records import Decision, OutcomeRecord
from gateway.ledger.frames import decode_outcome, encode_record
from gateway.ledger.lines import LineFile

FILE_NAME = "quarantine.jsonl"


class Quarantined(NamedTuple):
    """A line of the file. `row` is None where the line cannot be read; `reason` says what the ledger found wrong."""

    line: bytes
    row: OutcomeRecord | None
    reason: str
    quarantined_at: float


class Quarantine:
    """Any number of processes may use one file at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = LineFile(path)

    def add(self, row: OutcomeRecord, error: ValueError) -> None:
        """Put a row in, durably. Raises `OSError`."""
        row = decode_outcome(encode_record(row))  # bent until it can be written
        entry = {"quarantined_at": time.time(), "reason": f"{type(error).__name__}: {error}", "row": row._asdict()}
        self._file.append(encode(entry))

    def entries(self) -> list[Quarantined]:
        """What is in it, oldest first."""
        return [_read(line) for line in self._file.lines()]

    def remove(self, lines: Sequence[bytes]) -> None:
        """Take lines out. Raises `OSError`."""
        gone = set(lines)
        self._file.change(lambda now: [line for line in now if line not in gone])


def _read(line: bytes) -> Quarantined:
    try:
        entry = decode(line)
        return Quarantined(line, _row(entry["row"]), str(entry["reason"]), float(entry["quarantined_at"]))
    except (*DecodeError, KeyError, TypeError, ValueError):
        return Quarantined(line, None, "the line cannot be read", 0.0)


def _row(fields: dict[str, Any]) -> OutcomeRecord:
    """The row as it was noted; fields of a newer release are left out. Raises `TypeError` where one is missing."""
    known = {name: value for name, value in fields.items() if name in OutcomeRecord._fields}
    known["decisions"] = tuple(Decision(*decision) for decision in known.get("decisions", ()))
    return OutcomeRecord(**known)

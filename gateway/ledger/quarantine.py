"""Rows that the ledger would not take: a file of JSON lines beside the journals, kept until they go in."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gateway.core.body import DecodeError, decode, encode
from gateway.core.records import Decision, OutcomeRecord
from gateway.ledger.frames import decode_outcome, encode_record

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

    def add(self, row: OutcomeRecord, error: ValueError) -> None:
        """Put a row in, durably. Raises `OSError`."""
        row = decode_outcome(encode_record(row))  # bent until it can be written
        entry = {"quarantined_at": time.time(), "reason": f"{type(error).__name__}: {error}", "row": row._asdict()}
        with _locked(self.path) as descriptor:
            _append(descriptor, encode(entry) + b"\n")

    def entries(self) -> list[Quarantined]:
        """What is in it, oldest first."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        return [_read(line) for line in data.splitlines() if line.strip()]

    def remove(self, lines: Sequence[bytes]) -> None:
        """Take lines out, by writing the file anew; one that is empty then goes. Raises `OSError`."""
        if not self.path.exists():
            return
        gone = set(lines)
        fresh = self.path.with_suffix(".new")
        with _locked(self.path):
            kept = [line for line in self.path.read_bytes().splitlines() if line.strip() and line not in gone]
            if not kept:
                self.path.unlink()
                return
            _write(fresh, b"".join(line + b"\n" for line in kept))
            fresh.replace(self.path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file, open for appending and held alone. One that was replaced while we waited for it is let go."""
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    yield descriptor
                    return
        finally:
            os.close(descriptor)


def _append(descriptor: int, data: bytes) -> None:
    """All of it or, raising `OSError`, nothing."""
    size = os.fstat(descriptor).st_size
    try:
        written = os.write(descriptor, data)
        if written != len(data):
            raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes were written")
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _append(descriptor, data)
    finally:
        os.close(descriptor)


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

"""A journal's directory: who owns it, which segments it has, how far it has been delivered.

It holds `lock`, on which the owner keeps an flock for as long as it lives, `ack`, and the numbered segments.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import uuid
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

LOCK_NAME = "lock"
ACK_NAME = "ack"
SEGMENT_SUFFIX = ".seg"

_ACK = struct.Struct("<QQQ")
_CHECK = struct.Struct("<I")


class JournalOwned(Exception):
    """The journal belongs to another process, or to another object of this one."""


class Position(NamedTuple):
    """A place between two frames: byte `offset` of a segment, and the sequence number that is expected there."""

    segment: int
    offset: int
    sequence: int

    def reaches(self, other: Position) -> bool:
        return (self.segment, self.offset) >= (other.segment, other.offset)


START = Position(0, 0, 1)
"""Before everything; segments and sequence numbers count from 1."""


class JournalFiles:
    """A journal's directory as anyone may read it, its owner's included."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seed = crc32(path.name.encode())

    def segments(self) -> list[int]:
        """The numbers of the segments on disk, oldest first."""
        names = (entry.name.removesuffix(SEGMENT_SUFFIX) for entry in self.path.glob(f"*{SEGMENT_SUFFIX}"))
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def segment_path(self, number: int) -> Path:
        return self.path / f"{number:08d}{SEGMENT_SUFFIX}"

    def end(self) -> Position:
        """Where the last segment on disk ends."""
        numbers = self.segments()
        if not numbers:
            return START
        return Position(numbers[-1], self.segment_path(numbers[-1]).stat().st_size, 0)

    def read_ack(self) -> Position | None:
        """How far the records have been delivered, None when that is not known: then they are delivered again."""
        try:
            data = (self.path / ACK_NAME).read_bytes()
        except FileNotFoundError:
            return None
        body = data[: _ACK.size]
        if len(data) != _ACK.size + _CHECK.size or _CHECK.unpack(data[_ACK.size :])[0] != crc32(body, self.seed):
            return None
        return Position(*_ACK.unpack(body))

    def is_owned(self) -> bool:
        """Whether a living process has it. Raises `FileNotFoundError` when the directory is gone."""
        try:
            os.close(_lock(self.path))
        except JournalOwned:
            return True
        return False


class JournalDirectory(JournalFiles):
    """A directory whose lock this object holds until `release`."""

    def __init__(self, path: Path) -> None:
        """Take the lock. Raises `JournalOwned` when someone has it, `OSError` when the directory is not there."""
        super().__init__(path)
        self._lock = _lock(path)
        self._ack: int | None = None

    def write_ack(self, position: Position) -> None:
        """Note how far the records have been delivered. Overwritten in place: a few bytes with a check sum, which
        needs no new room on a full disk. Torn or lost, it costs a second, idempotent delivery."""
        if self._ack is None:
            self._ack = os.open(self.path / ACK_NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        body = _ACK.pack(*position)
        os.pwrite(self._ack, body + _CHECK.pack(crc32(body, self.seed)), 0)

    def remove(self) -> None:
        """Delete the journal and let it go. Files that are not the journal's stay, and so does the directory then."""
        for number in self.segments():
            self.segment_path(number).unlink(missing_ok=True)
        (self.path / ACK_NAME).unlink(missing_ok=True)
        (self.path / LOCK_NAME).unlink(missing_ok=True)  # last, and under the lock: whoever takes it now sees it gone
        with contextlib.suppress(OSError):  # foreign files are in it, or another process just looked for a lock
            self.path.rmdir()
        self.release()

    def release(self) -> None:
        if self._ack is not None:
            os.close(self._ack)
            self._ack = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def create(root: Path) -> Path:
    """A new journal directory below `root`, with a name of its own."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = root / str(uuid.uuid4())
    path.mkdir(mode=0o700)
    return path


def siblings(root: Path) -> list[Path]:
    """Every journal directory below `root`; what is not named like one is not ours."""
    if not root.is_dir():
        return []
    return sorted(entry for entry in root.iterdir() if _is_uuid(entry.name) and entry.is_dir())


def _is_uuid(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def _lock(directory: Path) -> int:
    path = directory / LOCK_NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise JournalOwned(f"The journal {directory} was replaced while it was being locked.")
    except BlockingIOError as error:
        os.close(descriptor)
        raise JournalOwned(f"The journal {directory} is in use by another process.") from error
    except FileNotFoundError as error:
        os.close(descriptor)
        raise JournalOwned(f"The journal {directory} has just been adopted and removed.") from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor

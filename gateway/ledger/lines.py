"""Files of lines beside the journals, which any number of processes may write at once."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


class LineFile:
    """A file that is there while it has lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[bytes]:
        """What is in it, oldest first. Raises `OSError`."""
        try:
            return _lines(self.path.read_bytes())
        except FileNotFoundError:
            return []

    def append(self, line: bytes) -> None:
        """Put a line in, durably. Raises `OSError`; then no part of it is in."""
        with _locked(self.path) as descriptor:
            _append(descriptor, line + b"\n")

    def change(self, change: Callable[[list[bytes]], list[bytes]]) -> None:
        """Replace its lines by what becomes of them, by writing the file anew. Raises `OSError`."""
        if not self.path.exists():
            return
        fresh = self.path.with_suffix(".new")
        with _locked(self.path):
            lines = change(_lines(self.path.read_bytes()))
            if not lines:
                self.path.unlink()
                return
            _write(fresh, b"".join(line + b"\n" for line in lines))
            fresh.replace(self.path)


def _lines(data: bytes) -> list[bytes]:
    return [line for line in data.splitlines() if line.strip()]


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

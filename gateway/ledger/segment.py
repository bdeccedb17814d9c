"""One file of a journal, while it is being written."""

from __future__ import annotations

import os
from pathlib import Path


class Segment:
    """An append-only file. `open` counts its intents without an outcome; `closed_by` is the sequence number of the
    last outcome that ended one of them. A `finished` segment gets no more frames; the
    directory entry of a `fresh` one may not be durable yet."""

    __slots__ = ("closed_by", "fd", "finished", "fresh", "number", "open", "path", "size")

    def __init__(self, number: int, path: Path) -> None:
        """Create the file. Raises `OSError`."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self.fd = os.open(path, flags, 0o600)
        self.number = number
        self.path = path
        self.size = 0
        self.open = 0
        self.closed_by = 0
        self.finished = False
        self.fresh = True

    def append(self, frame: bytes) -> None:
        """All of the frame or, raising `OSError`, none of it."""
        try:
            written = os.write(self.fd, frame)
            if written != len(frame):
                raise OSError(f"only {written} of {len(frame)} bytes were written")
        except OSError:
            os.ftruncate(self.fd, self.size)
            raise
        self.size += written

    def close(self) -> None:
        """Let the file go; it stays on disk."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

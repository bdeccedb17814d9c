"""Tests run side by side, but for those marked `alone`: these measure times, and have the machine to themselves.

Every test holds a lock together with the others, one that is alone holds it for itself. Whoever wants it passes a gate,
which the one that waits to be alone keeps shut, so that it is not passed by for ever.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_GATE = Path(__file__)
_MACHINE = Path(__file__).parent


@contextmanager
def room(*, alone: bool) -> Iterator[None]:
    """For as long as one test runs."""
    with _opened(_GATE) as gate, _opened(_MACHINE) as machine:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(machine, fcntl.LOCK_UN)  # closing leaves it to a child that a test has forked


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)

"""Word on stderr of work that takes long."""

from __future__ import annotations

import time

from gateway.cli._shared import note

_EVERY_S = 2.0


class Reporter:
    """Says how far it is, every two seconds; work that is done before says nothing."""

    def __init__(self, done: str) -> None:
        self._done = done
        self._next = time.monotonic() + _EVERY_S

    def __call__(self, table: str, rows: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _EVERY_S
            note(f"  {table}: {rows:,} rows {self._done}")

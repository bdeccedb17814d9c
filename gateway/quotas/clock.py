"""Clocks that do not jump: a monotonic clock, set once by somebody else's."""

from __future__ import annotations

import time
from collections.abc import Callable

JUMP_S = 1.0
STANDS_S = 30.0


class Clock:
    """Unix time by a monotonic clock and an offset that is only ever set on purpose."""

    __slots__ = ("_monotonic", "_offset")

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._offset = 0.0

    def now(self) -> float:
        """Unix seconds, in whole milliseconds: every store and the ledger keep such a number as it is."""
        return int((self._monotonic() + self._offset) * 1000) / 1000

    def set(self, moment: float) -> None:
        """From now on it is `moment`, in unix seconds."""
        self._offset = moment - self._monotonic()

    def monotonic(self) -> float:
        return self._monotonic()


class SteadyClock(Clock):
    """The machine's wall clock, but slow to believe in its jumps: one counts only when it has stood for 30 s."""

    __slots__ = ("_jump", "_seen_at", "_wall")

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(monotonic)
        self._wall = wall
        self._jump = 0.0
        self._seen_at = 0.0
        self.set(wall())

    def follow(self) -> bool:
        """Look at the wall clock; whether its jump has just been adopted."""
        moment = self._monotonic()
        jump = self._wall() - (moment + self._offset)
        if abs(jump - self._jump) > JUMP_S:
            self._jump, self._seen_at = jump, moment
        if abs(jump) <= JUMP_S or moment - self._seen_at < STANDS_S:
            return False
        self._offset += jump
        self._jump = 0.0
        return True

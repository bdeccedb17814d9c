"""A connection's deadlines, behind one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf


class Clock:
    """Two deadlines: the client must send (`late` is called), and it must take what it was sent (`stalled`).

    The timer is armed for the nearest deadline and looks again when it fires: a deadline that moves later, as on every
    request of a kept-alive connection, costs an assignment.
    """

    __slots__ = ("_at", "_due", "_late", "_loop", "_stalled", "_timer", "_write_due")

    def __init__(self, loop: asyncio.AbstractEventLoop, late: Callable[[], None], stalled: Callable[[], None]) -> None:
        self._loop = loop
        self._late = late
        self._stalled = stalled
        self._due = inf
        self._write_due = inf
        self._timer: asyncio.TimerHandle | None = None
        self._at = inf  # when the timer fires

    @property
    def running(self) -> bool:
        """Whether the client is expected to send."""
        return self._due < inf

    def expect(self, seconds: float) -> None:
        """The client must send what it is expected to within so many seconds from now."""
        self._due = due = self._loop.time() + seconds
        if due < self._at:
            self._arm(due)

    def rest(self) -> None:
        """The client need not send anything."""
        self._due = inf

    def remaining(self) -> float:
        """Seconds left to send."""
        return self._due - self._loop.time()

    def expect_drain(self, seconds: float) -> None:
        """The client must take what it was sent within so many seconds. A deadline that runs already stays."""
        if self._write_due == inf:
            self._write_due = due = self._loop.time() + seconds
            if due < self._at:
                self._arm(due)

    def drained(self) -> None:
        """The client took it."""
        self._write_due = inf

    def close(self) -> None:
        """No deadline any more."""
        self._due = self._write_due = inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        del self._late, self._stalled  # they refer to the connection, which refers to this

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        self._at = inf
        now = self._loop.time()
        if now >= self._write_due:
            self._write_due = inf
            self._stalled()
        elif now >= self._due:
            self._due = inf
            self._late()
        nearest = min(self._due, self._write_due)
        if nearest < self._at:
            self._arm(nearest)

"""Time-outs that know when it is this process that has been slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LATE_S = 0.02
GRACE_S = 0.1
BUSY_S = 1.0
"""How late a timer has to fire to tell that the process was busy, how much more time an answer gets then, and how much
in all."""


class Patience:
    """Calls `end` when a wait has taken `seconds`, unless it is this process that has been slow: a timer that fires
    late tells that the event loop was busy, and the answer may have come and lie unread. Then there is a little more
    time: without it one busy moment of a gateway would count as a store that is silent, and refuse every call.

    with Patience(0.25, give_up): ...
    """

    __slots__ = ("_deadline", "_end", "_latest", "_loop", "_timer")

    def __init__(self, seconds: float, end: Callable[[], None]) -> None:
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + seconds
        self._latest = self._deadline + BUSY_S

    def __enter__(self) -> None:
        self._timer = self._loop.call_at(self._deadline, self._look)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        if now - self._deadline > LATE_S and now < self._latest:
            self._deadline = now + GRACE_S
            self._timer = self._loop.call_at(self._deadline, self._look)
        else:
            self._end()

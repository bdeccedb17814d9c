"""Places for the calls that one process serves at once, and the queue for those that find none.

Waiting calls are served one per key in turn, so a key with a thousand callers delays another key's call by one
departure and no more. Who finds no room in the queue is told so at once: a late 503 helps nobody.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict

from gateway.client import Client, ClientGone
from gateway.core.errors import GatewayError, overloaded
from gateway.settings.schema import ServerSettings
from gateway.telemetry.metrics import Metrics

_PACE_S = 1.0
"""The least that departures are counted over before their rate is believed."""
_PACE_STALE_S = 10.0
_LONGEST_RETRY_S = 30


class Waiter:
    """A call in the queue. `place` is done when it may run, or must not wait any longer."""

    __slots__ = ("deadline", "key", "place")

    def __init__(self, key: str, place: asyncio.Future[None], deadline: float) -> None:
        self.key = key
        self.place = place
        self.deadline = deadline

    def leave(self) -> None:
        """Its client is gone."""
        if not self.place.done():
            self.place.set_exception(ClientGone())


class FairQueue:
    """Waiters in a line per key. Every operation takes the same time however many wait.

    `waiters` are all of them in the order they came; only this class changes it."""

    def __init__(self) -> None:
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._lines: OrderedDict[str, OrderedDict[Waiter, None]] = OrderedDict()  # by key, whose turn is next first
        self._by_length: dict[int, OrderedDict[str, None]] = {}  # the keys with a line this long
        self._longest = 0

    def __len__(self) -> int:
        return len(self.waiters)

    def add(self, waiter: Waiter) -> None:
        """To the end of its key's line; a key without a line has its turn after all others."""
        self.waiters[waiter] = None
        line = self._lines.get(waiter.key)
        if line is None:
            line = self._lines[waiter.key] = OrderedDict()
        line[waiter] = None
        self._resized(waiter.key, len(line) - 1, len(line))

    def remove(self, waiter: Waiter) -> bool:
        """Take a waiter out, wherever it stands. False where it is not there any more."""
        if waiter not in self.waiters:
            return False
        del self.waiters[waiter]
        line = self._lines[waiter.key]
        del line[waiter]
        if not line:
            del self._lines[waiter.key]
        self._resized(waiter.key, len(line) + 1, len(line))
        return True

    def next(self) -> Waiter:
        """Take out the first of the key whose turn it is. That key's next turn comes after all others'."""
        key, line = next(iter(self._lines.items()))
        waiter = next(iter(line))
        self._lines.move_to_end(key)
        self.remove(waiter)
        return waiter

    def oldest(self) -> Waiter:
        """Who has waited longest, whatever its key."""
        return next(iter(self.waiters))

    def outranked_by(self, key: str) -> Waiter | None:
        """Who should make room for another call of this key: the newest in the longest line, as long as the key's
        own line stays the shorter one. None where the key has its share already."""
        if len(self._lines.get(key, ())) + 1 >= self._longest:
            return None
        greediest = next(iter(self._by_length[self._longest]))
        return next(reversed(self._lines[greediest]))

    def _resized(self, key: str, before: int, after: int) -> None:
        if before:
            keys = self._by_length[before]
            del keys[key]
            if not keys:
                del self._by_length[before]
        if after:
            self._by_length.setdefault(after, OrderedDict())[key] = None
        if after > self._longest or self._longest not in self._by_length:
            self._longest = after  # lengths change by one, so the next longest is never further away


class Admission:
    """Hands out places. Every `enter` that says yes, and every `wait` that returns, owes one `leave`.

    How far the event loop is behind plays no part: what keeps it busy are the calls that run, whose number has a bound
    already, and turning away a call that waits for nothing but a place would not free the processor.
    """

    def __init__(self, metrics: Metrics, places: int) -> None:
        self._depth = metrics.queue_depth
        self._shed = {reason: metrics.shed.labels(reason) for reason in ("queue_full", "timeout", "displaced")}
        self._running = 0
        self._departures = 0
        self._places = places
        self._queue = FairQueue()
        self._waiting = self._queue.waiters
        self._pace = _Pace()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def resize(self, places: int) -> None:
        """Have so many places from now on. Who waits gets the new ones in the same moment; where there are fewer, the
        calls that run stay, and the next is let in when enough of them have left."""
        self._places = places
        self._hand_out()

    def enter(self) -> bool:
        """Take a place if one is free and nobody waits for it."""
        if self._running < self._places and not self._waiting:
            self._running += 1
            return True
        return False

    def leave(self) -> None:
        """Give a place back. Who waits gets it in the same moment."""
        self._running -= 1
        self._departures += 1
        if self._waiting:
            self._hand_out()

    async def wait(self, key: str, client: Client, server: ServerSettings) -> None:
        """Wait for a place. Raises 503 where the queue is full or takes too long, `ClientGone` when the client leaves
        meanwhile."""
        loop = asyncio.get_running_loop()
        if not self._queue:
            self._look_at_pace(loop)
        self._make_room(key, server.max_queue, loop)
        waiter = Waiter(key, loop.create_future(), loop.time() + server.queue_timeout)
        self._queue.add(waiter)
        self._depth.set(len(self._queue))
        self._set_timer(loop)
        client.on_gone(waiter.leave, before_body=True)
        try:
            await waiter.place
        except BaseException:
            if waiter.place.done() and not waiter.place.cancelled() and waiter.place.exception() is None:
                self.leave()  # cancelled in the moment between getting the place and taking it
            raise
        finally:
            self._queue.remove(waiter)
            self._depth.set(len(self._queue))
            client.stop_watching()

    def close(self) -> None:
        """Turn away all that wait and all that come: the process is about to end."""
        self._closed = True
        while self._queue:
            waiter = self._queue.oldest()
            self._dismiss(waiter, overloaded())

    def _make_room(self, key: str, most: int, loop: asyncio.AbstractEventLoop) -> None:
        """See that one more may wait. Raises 503 where it may not."""
        if self._closed:
            raise overloaded()
        if len(self._queue) < most:
            return
        outranked = self._queue.outranked_by(key) if most else None
        if outranked is None:
            self._shed["queue_full"].inc()
            raise self._refusal(loop)
        self._shed["displaced"].inc()
        self._dismiss(outranked, self._refusal(loop))

    def _hand_out(self) -> None:
        while self._running < self._places and self._queue:
            waiter = self._queue.next()
            if not waiter.place.done():
                self._running += 1
                waiter.place.set_result(None)
        self._depth.set(len(self._queue))

    def _dismiss(self, waiter: Waiter, error: GatewayError) -> None:
        self._queue.remove(waiter)
        if not waiter.place.done():
            waiter.place.set_exception(error)

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer serves all: who came first is the first to have waited too long."""
        if self._timer is None and self._queue:
            self._timer = loop.call_at(self._queue.oldest().deadline, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        while self._queue and self._queue.oldest().deadline <= now:
            self._shed["timeout"].inc()
            self._dismiss(self._queue.oldest(), self._refusal(loop))
        self._set_timer(loop)

    def _refusal(self, loop: asyncio.AbstractEventLoop) -> GatewayError:
        """A 503 that says when the calls now waiting will have had their turn, at the pace places come free."""
        wait_s = math.ceil((len(self._queue) + 1) * self._look_at_pace(loop))
        return overloaded(max(1, min(_LONGEST_RETRY_S, wait_s)))

    def _look_at_pace(self, loop: asyncio.AbstractEventLoop) -> float:
        return self._pace.look(loop.time(), self._departures, idle=not self._queue)


class _Pace:
    """How fast places come free. Looked at only when somebody has to be told, so that departures cost an addition."""

    def __init__(self) -> None:
        self._looked = self._since = -math.inf  # never
        self._base = 0
        self._gap = 0.0

    def look(self, now: float, departures: int, *, idle: bool) -> float:
        """Seconds from one departure to the next, lately; 0 where that is not known yet. What nobody has looked at for
        long while nobody waited tells of idleness and not of pace."""
        elapsed, left = now - self._since, departures - self._base
        stale, self._looked = idle and now - self._looked > _PACE_STALE_S, now
        if stale:
            self._since, self._base, self._gap = now, departures, 0.0
        elif elapsed >= _PACE_S:
            self._gap = elapsed / max(1, left)
            if left:
                self._since, self._base = now, departures
        elif not self._gap and left:
            return elapsed / left
        return self._gap

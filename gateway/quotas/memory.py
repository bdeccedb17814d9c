"""Counters in this process's memory: the embedded default, for one process only."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from gateway.core.limits import Actual, Claim, Denied, Granted, Level, Limit
from gateway.quotas.reservation import Counter, Reservations, checked_actual, checked_claims, exact
from gateway.quotas.windows import Calendar

SWEEP_S = 2.0
KEPT_ENDED = 100_000
SPARED_S = 120.0

_new = tuple.__new__  # a third quicker than calling the named tuple, four times a call

CounterKey = tuple[str, str, str, str]


class MemoryStore:
    """A `CounterStore` over the pure state machine. Nothing awaits between a check and its write.

    Windows go by `clock` (unix seconds) and only forwards: a wall clock that steps back stays in the bucket it has
    reached. Leases go by `monotonic`. A hold past its lease is let go when someone needs its room and by a sweep every
    two seconds, so it is free within lease + 2 s.

    Memory is bounded: counters of past windows are dropped by the sweep; of the ids that have ended, those of the last
    two minutes and the newest 100,000 are remembered, none longer than 48 hours. Nothing survives the process, so
    whoever starts it calls `seed` with what the ledger says is used.
    """

    def __init__(
        self,
        calendar: Calendar,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calendar = calendar
        self._clock = clock
        self._monotonic = monotonic
        self._counters: dict[CounterKey, Counter] = {}
        self._reservations = Reservations()
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep_for_ever())

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
            self._sweeper = None

    def seed(self, limit: Limit, used: int) -> None:
        """Set what is settled in the current bucket of a limit's counter, whatever it was: at start, from the ledger.
        The limit's amount and action do not matter."""
        self._counter(limit, self._clock()).settled = exact(used)

    async def reserve(self, rid: str, claims: Sequence[Claim], lease_s: float) -> Granted | Denied:
        checked_claims(claims)
        now = self._clock()
        counters = self._counters_of(claims, now)
        reservations = self._reservations
        if not reservations.knows(rid):
            moment = self._monotonic()
            deadline = moment + lease_s
            refused = reservations.hold(rid, claims, counters, deadline)
            if refused is not None and reservations.expire(moment):
                refused = reservations.hold(rid, claims, counters, deadline)
            if refused is not None:
                return Denied(_level(claims[refused].limit, counters[refused], int(now)))
        return _granted(claims, counters, int(now))

    def settle(self, rid: str, actual: Actual) -> None:
        self._reservations.settle(rid, checked_actual(actual), self._monotonic())

    async def renew(self, rids: Sequence[str], lease_s: float) -> None:
        deadline = self._monotonic() + lease_s
        for rid in rids:
            self._reservations.renew(rid, deadline)

    async def peek(self, limits: Sequence[Limit]) -> Sequence[Level]:
        self._reservations.expire(self._monotonic())
        now = self._clock()
        return [_level(limit, self._counter(limit, now), int(now)) for limit in limits]

    def sweep(self) -> None:
        """Let go what has lapsed and forget what is past."""
        moment = self._monotonic()
        self._reservations.expire(moment)
        self._reservations.forget(moment, keep=KEPT_ENDED, spare_s=SPARED_S)
        now = self._clock()
        for key in [key for key, counter in self._counters.items() if _is_past(counter, now)]:
            del self._counters[key]

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    def _counters_of(self, claims: Sequence[Claim], now: float) -> list[Counter]:
        found = []
        known = self._counters
        for limit, _ in claims:
            counter = known.get((limit.scope, limit.subject, limit.metric, limit.window))
            if counter is None or ((ends_at := counter.ends_at) is not None and now >= ends_at):
                counter = self._turn(limit, now)
            found.append(counter)
        return found

    def _counter(self, limit: Limit, now: float) -> Counter:
        return self._counters_of((Claim(limit, 0),), now)[0]

    def _turn(self, limit: Limit, now: float) -> Counter:
        """A fresh counter for the bucket that `now` is in."""
        key = (limit.scope, limit.subject, limit.metric, limit.window)
        counter = self._counters[key] = Counter(limit.metric, self._calendar.bucket(limit.window, now).ends_at)
        return counter


def _granted(claims: Sequence[Claim], counters: Sequence[Counter], second: int) -> Granted:
    levels = []
    over = []
    for (limit, _), counter in zip(claims, counters):  # noqa: B905 - the keyword costs more than the pairing
        used = counter.settled + counter.reserved
        ends_at = counter.ends_at
        levels.append(_new(Level, (limit, used, None if ends_at is None else ends_at - second)))
        if used > limit.amount and limit.action != "deny":
            over.append(len(levels) - 1)
    return Granted(tuple(levels), tuple(over))


def _level(limit: Limit, counter: Counter, second: int) -> Level:
    ends_at = counter.ends_at
    return Level(limit, counter.settled + counter.reserved, None if ends_at is None else ends_at - second)


def _is_past(counter: Counter, now: float) -> bool:
    """An idle `parallel` counter has nothing to remember either: it never settles to more than 0."""
    if counter.ends_at is not None:
        return now >= counter.ends_at
    return counter.metric == "parallel" and not counter.reserved

"""Counters in this process's memory: the embedded default, for one process only."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from gateway.core.limits import Actual, Base, Claim, Count, Denied, Granted, Level, Limit
from gateway.core.ports import StoreState
from gateway.quotas.clock import SteadyClock
from gateway.quotas.reservation import Counter, Reservations, checked_actual, checked_bases, checked_claims
from gateway.quotas.windows import Calendar

SWEEP_S = 2.0
KEPT_ENDED = 100_000
SPARED_S = 120.0
KEPT_PAST_S = 600.0
"""How long a counter outlives its window, for settlements that come late. Nobody reads it then."""
TICK_S = 0.001
"""What the clock counts in: no call was created a tick from now."""

_new = tuple.__new__  # a third quicker than calling the named tuple, five times a call

CounterKey = tuple[str, str, str, str]


class MemoryStore:
    """A `CounterStore` and `Recountable` over the pure state machine. Nothing awaits between a check and its write.

    Windows go by the wall clock, without its jumps until they have stood for 30 s; leases by `monotonic`. A hold past
    its lease is let go when someone needs its room and by every `pulse`. It is never lost: what it does not know, it
    knows that it does not. Nothing survives the process, so whoever begins to count a limit cuts and bases it.

    Memory is bounded: counters of past windows go after ten minutes; of the ids that have ended, those of the last two
    minutes and the newest 100,000 are remembered, none longer than 48 hours.
    """

    def __init__(
        self,
        calendar: Calendar,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calendar = calendar
        self._clock = SteadyClock(clock, monotonic)
        self._monotonic = monotonic
        self._counters: dict[CounterKey, Counter] = {}
        self._reservations = Reservations(monotonic())
        self._highest = 0.0
        self._suspect = False
        self._turns = 0
        self._next_sweep = 0.0

    def now(self) -> float:
        return self._clock.now()

    async def start(self, installation: str) -> None:
        """There is nothing to connect to, and nobody else whose counters these could be."""

    async def close(self) -> bool:
        """Everything has been settled when `settle` returned."""
        return True

    async def reserve(
        self, rid: str, claims: Sequence[Claim], lease_s: float, at: float, by: float | None = None
    ) -> Granted | Denied:
        checked_claims(claims)
        counters = self._counters_of(claims, at)
        reservations = self._reservations
        if not reservations.knows(rid):
            moment = self._monotonic()
            deadline = moment + lease_s
            refused = reservations.hold(rid, claims, counters, at, deadline)
            if refused is not None and reservations.expire(moment):
                refused = reservations.hold(rid, claims, counters, at, deadline)
            if refused is not None:
                return Denied(_level(claims[refused].limit, counters[refused], int(at)))
        return _granted(claims, counters, at)

    def settle(self, rid: str, claims: Sequence[Claim], at: float, actual: Actual) -> None:
        checked_actual(actual)
        reservations = self._reservations
        hold = reservations.live.get(rid)
        if hold is not None and hold.claims is claims and hold.at == at:
            counters = hold.amounts
        else:
            counters = dict.fromkeys(self._counters_of(claims, at), 0)
        reservations.settle(rid, counters, at, actual, self._monotonic())

    async def renew(self, rids: Sequence[str], lease_s: float) -> Sequence[str]:
        deadline = self._monotonic() + lease_s
        return [rid for rid in rids if not self._reservations.renew(rid, deadline)]

    async def hold(self, rid: str, claims: Sequence[Claim], lease_s: float, at: float) -> None:
        checked_claims(claims)
        deadline = self._monotonic() + lease_s
        if not self._reservations.renew(rid, deadline):
            self._reservations.hold(rid, claims, self._counters_of(claims, at), at, deadline, asking=False)

    async def peek(self, limits: Sequence[Limit]) -> Sequence[Level]:
        self._reservations.expire(self._monotonic())
        now = self.now()
        return [_level(limit, self._counter(limit, now), int(now)) for limit in limits]

    async def pulse(self) -> StoreState:
        moment = self._monotonic()
        self._reservations.expire(moment)
        before = self.now()
        if self._clock.follow():
            self._highest = max(self._highest, before)
            self._suspect = True
        if moment >= self._next_sweep:
            self._next_sweep = moment + SWEEP_S
            self._sweep(moment)
        return "suspect" if self._suspect else "open"

    async def cut(self, limits: Sequence[Limit], ahead_s: float) -> None:
        now = self.now()
        since = self._beyond(max(now, self._highest) + ahead_s)
        for limit in limits:
            if limit.metric != "parallel":
                self._cut(limit, now, since)

    async def audit(self, limits: Sequence[Limit]) -> Sequence[Count]:
        self._reservations.expire(self._monotonic())
        now = self.now()
        return [_count(limit, self._counter(limit, now)) for limit in limits if limit.metric != "parallel"]

    async def held(self) -> Sequence[str]:
        return list(self._reservations.live)

    async def late(self) -> Sequence[str]:
        return list(self._reservations.late)

    async def turn(self) -> int:
        return self._turns

    async def rebase(self, bases: Sequence[Base], landed: Sequence[str], turn: int, *, raising: bool = False) -> bool:
        sums = []
        for count, used in checked_bases(bases):
            counter = self._known(count.limit, count.starts_at)
            if counter is not None and counter.since == count.since:
                sums.append((counter, used))
        if turn != self._turns:
            return False
        self._turns += 1
        self._reservations.rebase(sums, landed, self._monotonic(), raising=raising)
        return True

    async def lead(self, for_s: float) -> bool:
        return True

    @property
    def rebuild(self) -> str:
        return ""

    async def begin_rebuild(self) -> bool:
        return self._suspect

    async def end_rebuild(self) -> bool:
        """Nothing was lost, so calls are granted all the while."""
        suspect, self._suspect = self._suspect, False
        return suspect

    def _cut(self, limit: Limit, now: float, since: float) -> None:
        known = self._known(limit, now)
        counter = self._counter(limit, now) if known is None else known
        counter.cut(since)
        if known is None and counter.starts_at < now:
            counter.based = False
        if counter.until < since:
            self._counter(limit, counter.until).cut(since)

    def _beyond(self, moment: float) -> float:
        """The first tick after a moment that no call was created at yet."""
        return round(moment + TICK_S, 3)

    def _sweep(self, moment: float) -> None:
        self._reservations.forget(moment, keep=KEPT_ENDED, spare_s=SPARED_S)
        past = self.now() - KEPT_PAST_S
        for key in [key for key, counter in self._counters.items() if _is_idle(counter, past)]:
            del self._counters[key]
        for latest in self._counters.values():
            counter: Counter | None = latest
            while counter is not None:
                if counter.before is not None and counter.before.until <= past:
                    counter.before = None
                counter = counter.before

    def _counters_of(self, claims: Sequence[Claim], at: float) -> list[Counter]:
        found = []
        known = self._counters
        for limit, _ in claims:
            counter = known.get((limit.scope, limit.subject, limit.metric, limit.window))
            if counter is None or not counter.starts_at <= at < counter.until:
                counter = self._turn(limit, at)
            found.append(counter)
        return found

    def _counter(self, limit: Limit, at: float) -> Counter:
        return self._counters_of((Claim(limit, 0),), at)[0]

    def _known(self, limit: Limit, at: float) -> Counter | None:
        counter = self._counters.get((limit.scope, limit.subject, limit.metric, limit.window))
        while counter is not None and counter.starts_at > at:
            counter = counter.before
        return counter if counter is not None and at < counter.until else None

    def _turn(self, limit: Limit, at: float) -> Counter:
        """The counter for the bucket that `at` is in, made where there is none. The turns of one window are chained
        from the latest, which is nearly always the one that is asked for, back to the oldest."""
        counter = self._known(limit, at)
        if counter is not None:
            return counter
        bucket = self._calendar.bucket(limit.window, at)
        counter = Counter(limit.metric, bucket.starts_at, bucket.ends_at)
        if counter.starts_at < self._highest:  # the clock was set back: this time has been before
            counter.cut(self._beyond(self._highest))
            counter.based = False
        key = (limit.scope, limit.subject, limit.metric, limit.window)
        later, earlier = None, self._counters.get(key)
        while earlier is not None and earlier.starts_at > counter.starts_at:
            later, earlier = earlier, earlier.before
        counter.before = earlier
        if later is None:
            self._counters[key] = counter
        else:
            later.before = counter
        return counter


def _granted(claims: Sequence[Claim], counters: Sequence[Counter], at: float) -> Granted:
    levels = []
    over = []
    second = int(at)
    for (limit, _), counter in zip(claims, counters):  # noqa: B905 - the keyword costs more than the pairing
        used = counter.settled + counter.reserved
        ends_at = counter.ends_at
        levels.append(_new(Level, (limit, used, None if ends_at is None else ends_at - second)))
        if used > limit.amount and limit.action != "deny":
            over.append(len(levels) - 1)
    return _new(Granted, (tuple(levels), tuple(over), at))


def _level(limit: Limit, counter: Counter, second: int) -> Level:
    ends_at = counter.ends_at
    return Level(limit, counter.settled + counter.reserved, None if ends_at is None else ends_at - second)


def _count(limit: Limit, counter: Counter) -> Count:
    return Count(
        limit,
        counter.starts_at,
        counter.ends_at,
        counter.since,
        counter.based,
        counter.settled,
        counter.reserved,
    )


def _is_idle(counter: Counter, past: float) -> bool:
    """An idle `parallel` counter has nothing to remember: it never settles to more than 0."""
    return counter.until <= past or (counter.metric == "parallel" and not counter.reserved)

"""Reserve, settle, expire, recount: the rules as a state machine without clock or I/O. Every store says the same.

A counter has what the ledger says, what calls have posted since, and what running calls reserve. A hold is what one
request id reserves, by counter. Ids move one way: held -> settled, or held -> lapsed -> settled, and each posts its
actual use at most once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from gateway.core.limits import Actual, Base, Claim, Metric
from gateway.core.money import MAX_AMOUNT

TOMBSTONE_S = 48 * 3600.0
"""How long an id that has ended is remembered, and a late one waits for its row."""
UNWATCHED_S = 5.0
"""Leases run on time that somebody watched. When nobody has looked for longer than this, holders could not renew
either: the process or its store was stopped, or a clock was set. Such a time does not count."""

_TOP = MAX_AMOUNT


def exact(amount: int) -> int:
    """An amount as it came, if every store can count it exactly. Raises `ValueError` for anything but an integer from
    0 up to 2^50: a bool, NaN, a float and a negative number all pass a careless comparison somewhere."""
    if type(amount) is int and 0 <= amount < MAX_AMOUNT:
        return amount
    raise ValueError(f"an amount must be an integer from 0 up to 2^50, not {amount!r}")


def checked_claims(claims: Sequence[Claim]) -> Sequence[Claim]:
    """Raises `ValueError` unless every amount and every limit's amount is exact."""
    for limit, amount in claims:
        bound = limit.amount
        if type(amount) is not int or type(bound) is not int or not (0 <= amount < _TOP and 0 <= bound < _TOP):
            exact(amount)
            exact(bound)
    return claims


def checked_actual(actual: Actual) -> Actual:
    """Raises `ValueError` unless every amount is exact."""
    for amount in actual:
        if type(amount) is not int or not 0 <= amount < _TOP:
            exact(amount)
    return actual


def checked_bases(bases: Sequence[Base]) -> Sequence[Base]:
    """Raises `ValueError` unless every sum is exact. Adjustments may take one below zero."""
    for _, used in bases:
        exact(-used if type(used) is int and used < 0 else used)
    return bases


class Counter:
    """One metric in one turn of a window: from `starts_at` to `ends_at` (None: for ever), unix seconds.

    `carried` is what calls created before `since` have used, `settled` is that and what later ones have posted.
    `before` is the turn before this one that is still kept.
    """

    __slots__ = (
        "based",
        "before",
        "carried",
        "ends_at",
        "metric",
        "reserved",
        "settled",
        "since",
        "starts_at",
        "until",
    )

    def __init__(self, metric: Metric, starts_at: int = 0, ends_at: int | None = None) -> None:
        self.metric: Metric = metric
        self.starts_at = float(starts_at)
        self.ends_at = ends_at
        self.until = math.inf if ends_at is None else float(ends_at)
        self.carried = 0
        self.settled = 0
        self.reserved = 0
        self.since = 0.0
        self.based = True
        self.before: Counter | None = None

    def cut(self, since: float) -> None:
        """Move the line, never back: what was noted as late must stay before it. What stood so far stands in."""
        self.carried = self.settled
        self.since = max(self.since, min(since, self.until))

    def base(self, used: int) -> None:
        """Set what is carried."""
        self.settled += used - self.carried
        self.carried = used
        self.based = True


class Hold:
    """What one id reserves for `claims` in the windows of `at`, summed by counter, until `deadline` on whatever clock
    the caller keeps."""

    __slots__ = ("amounts", "at", "claims", "deadline")

    def __init__(self, claims: Sequence[Claim], at: float, amounts: dict[Counter, int], deadline: float) -> None:
        self.claims = claims
        self.at = at
        self.amounts = amounts
        self.deadline = deadline

    def release(self) -> None:
        for counter, amount in self.amounts.items():
            counter.reserved -= amount


class Late:
    """What a call from before the line has used, by counter, and when it settled."""

    __slots__ = ("amounts", "settled_at")

    def __init__(self, amounts: list[tuple[Counter, int]], settled_at: float) -> None:
        self.amounts = amounts
        self.settled_at = settled_at


class Reservations:
    """The life of every request id: live holds, lapsed ids that may still be settled, settled ids, and those of the
    settled whose use stands in the ledger's part of a counter although the ledger may not have it yet."""

    __slots__ = ("_earliest", "_watched", "lapsed", "late", "live", "settled")

    def __init__(self, now: float) -> None:
        self.live: dict[str, Hold] = {}
        self.lapsed: dict[str, float] = {}
        self.settled: dict[str, float] = {}
        self.late: dict[str, Late] = {}
        self._earliest = math.inf
        self._watched = now

    def knows(self, rid: str) -> bool:
        return rid in self.live or rid in self.settled or rid in self.lapsed

    def hold(
        self,
        rid: str,
        claims: Sequence[Claim],
        counters: Sequence[Counter],
        at: float,
        deadline: float,
        *,
        asking: bool = True,
    ) -> int | None:
        """Hold every claim on the counter beside it, or nothing: then the index of the first claim without room. Who
        does not ask for room gets it.

        A limit of 0 has room for nothing, not even for a claim of 0.
        """
        amounts: dict[Counter, int] = {}
        for index, (limit, amount) in enumerate(claims):
            counter = counters[index]
            bound = limit.amount
            if (counter.settled + counter.reserved + amount > bound or not bound) and limit.action == "deny" and asking:
                for held, part in amounts.items():
                    held.reserved -= part
                return index
            counter.reserved += amount
            amounts[counter] = amounts[counter] + amount if counter in amounts else amount
        self.live[rid] = Hold(claims, at, amounts, deadline)
        if deadline < self._earliest:
            self._earliest = deadline
        return None

    def settle(self, rid: str, counters: Iterable[Counter], at: float, actual: Actual, now: float) -> None:
        """End the hold, if there is one, and count what was used on every one of the distinct `counters`, whatever
        became of the hold. Once: an id that is settled already stays as it is, and one that was never seen is
        remembered as settled, so that a reservation which overtakes its refund holds nothing."""
        if rid in self.settled:
            return
        hold = self.live.pop(rid, None)
        if hold is not None:
            hold.release()
        else:
            self.lapsed.pop(rid, None)
        self.settled[rid] = now
        self._post(rid, counters, at, actual, now)

    def _post(self, rid: str, counters: Iterable[Counter], at: float, actual: Actual, now: float) -> None:
        requests, tokens, cost = actual
        used = {"requests": requests, "tokens": tokens, "cost": cost, "parallel": 0}
        late: list[tuple[Counter, int]] | None = None
        for counter in counters:
            amount = used[counter.metric]
            counter.settled += amount
            if at < counter.since and amount:
                counter.carried += amount
                late = late or []
                late.append((counter, amount))
        if late is not None:
            self.late[rid] = Late(late, now)

    def rebase(
        self, sums: Iterable[tuple[Counter, int]], landed: Iterable[str], now: float, *, raising: bool = False
    ) -> None:
        """Set the ledger's part of counters to these sums, plus what the ledger does not have yet; when `raising`,
        where that is more than what stands there."""
        for rid in landed:
            self.late.pop(rid, None)
        for rid in [rid for rid, late in self.late.items() if now - late.settled_at > TOMBSTONE_S]:
            del self.late[rid]
        missing: defaultdict[Counter, int] = defaultdict(int)
        for late in self.late.values():
            for counter, amount in late.amounts:
                missing[counter] += amount
        for counter, used in sums:
            whole = used + missing[counter]
            counter.base(max(counter.carried, whole) if raising else whole)

    def renew(self, rid: str, deadline: float) -> bool:
        """Give a live hold a new deadline; whether the id is known. A lapsed one stays lapsed: its room may be
        someone else's."""
        hold = self.live.get(rid)
        if hold is None:
            return self.knows(rid)
        hold.deadline = deadline
        self._earliest = min(self._earliest, deadline)
        return True

    def expire(self, now: float) -> int:
        """Release the holds whose deadline has passed; how many there were."""
        gap = now - self._watched
        self._watched = now
        if gap > UNWATCHED_S:
            self._postpone(gap)
        if now < self._earliest:
            return 0
        due = [rid for rid, hold in self.live.items() if hold.deadline <= now]
        for rid in due:
            self.live.pop(rid).release()
            self.lapsed[rid] = now
        self._earliest = min((hold.deadline for hold in self.live.values()), default=math.inf)
        return len(due)

    def _postpone(self, gap: float) -> None:
        for hold in self.live.values():
            hold.deadline += gap
        self._earliest += gap

    def forget(self, now: float, *, keep: int, spare_s: float) -> None:
        """Drop the oldest ended ids: those past their 48 hours, and those beyond the newest `keep`, except that
        nothing younger than `spare_s` goes."""
        _drop_oldest(self.settled, now, keep, spare_s)
        _drop_oldest(self.lapsed, now, keep, spare_s)


def _drop_oldest(ended: dict[str, float], now: float, keep: int, spare_s: float) -> None:
    surplus = len(ended) - keep
    doomed: list[str] = []
    for rid, ended_at in ended.items():
        age = now - ended_at
        if age <= spare_s or (len(doomed) >= surplus and age <= TOMBSTONE_S):
            break
        doomed.append(rid)
    for rid in doomed:
        del ended[rid]

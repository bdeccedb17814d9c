"""Reserve, settle, expire: the rules as a state machine without clock or I/O.

A counter has what is settled and what is reserved. A hold is what one request id reserves, by counter. Ids move one
way: held -> settled, or held -> lapsed -> settled, and each posts its actual use at most once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from gateway.core.limits import Actual, Claim, Metric
from gateway.core.money import MAX_AMOUNT

TOMBSTONE_S = 48 * 3600.0
"""How long an id that has ended is remembered."""

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


class Counter:
    """One metric in one turn of a window, which ends at a unix second; None: never."""

    __slots__ = ("ends_at", "metric", "reserved", "settled")

    def __init__(self, metric: Metric, ends_at: int | None = None) -> None:
        self.metric: Metric = metric
        self.ends_at = ends_at
        self.settled = 0
        self.reserved = 0


class Hold:
    """What one id reserves, summed by counter, until `deadline` on whatever clock the caller keeps."""

    __slots__ = ("amounts", "deadline")

    def __init__(self, amounts: dict[Counter, int], deadline: float) -> None:
        self.amounts = amounts
        self.deadline = deadline

    def release(self) -> None:
        for counter, amount in self.amounts.items():
            counter.reserved -= amount

    def post(self, actual: Actual) -> None:
        """Count the use once per counter, however many claims were held on it."""
        requests, tokens, cost = actual
        used = {"requests": requests, "tokens": tokens, "cost": cost, "parallel": 0}
        for counter in self.amounts:
            counter.settled += used[counter.metric]


class Reservations:
    """The life of every request id: live holds, lapsed holds that may still be settled, and settled ids."""

    __slots__ = ("_earliest", "lapsed", "live", "settled")

    def __init__(self) -> None:
        self.live: dict[str, Hold] = {}
        self.lapsed: dict[str, Hold] = {}
        self.settled: dict[str, float] = {}
        self._earliest = math.inf

    def knows(self, rid: str) -> bool:
        return rid in self.live or rid in self.settled or rid in self.lapsed

    def hold(self, rid: str, claims: Iterable[Claim], counters: Sequence[Counter], deadline: float) -> int | None:
        """Hold every claim on the counter beside it, or nothing: then the index of the first claim without room.

        A limit of 0 has room for nothing, not even for a claim of 0.
        """
        amounts: dict[Counter, int] = {}
        for index, (limit, amount) in enumerate(claims):
            counter = counters[index]
            bound = limit.amount
            if (counter.settled + counter.reserved + amount > bound or not bound) and limit.action == "deny":
                for held, part in amounts.items():
                    held.reserved -= part
                return index
            counter.reserved += amount
            amounts[counter] = amounts[counter] + amount if counter in amounts else amount
        self.live[rid] = Hold(amounts, deadline)
        if deadline < self._earliest:
            self._earliest = deadline
        return None

    def settle(self, rid: str, actual: Actual, now: float) -> None:
        """Turn the hold into what was used. Once: an id that is settled already stays as it is, and one that was
        never seen is remembered as settled, so that a reservation which overtakes its refund holds nothing."""
        hold = self.live.pop(rid, None)
        if hold is not None:
            hold.release()
            hold.post(actual)
        elif (late := self.lapsed.pop(rid, None)) is not None:
            late.post(actual)
        elif rid in self.settled:
            return
        self.settled[rid] = now

    def renew(self, rid: str, deadline: float) -> None:
        """Give a live hold a new deadline. A lapsed one stays lapsed: its room may be someone else's."""
        hold = self.live.get(rid)
        if hold is not None:
            hold.deadline = deadline
            self._earliest = min(self._earliest, deadline)

    def expire(self, now: float) -> int:
        """Release the holds whose deadline has passed; how many there were."""
        if now < self._earliest:
            return 0
        due = [rid for rid, hold in self.live.items() if hold.deadline <= now]
        for rid in due:
            hold = self.lapsed[rid] = self.live.pop(rid)
            hold.release()
        self._earliest = min((hold.deadline for hold in self.live.values()), default=math.inf)
        return len(due)

    def forget(self, now: float, *, keep: int, spare_s: float) -> None:
        """Drop the oldest ended ids: those past their 48 hours, and those beyond the newest `keep`, except that
        nothing younger than `spare_s` goes."""
        _drop_oldest(self.settled, self.settled.values(), now, keep, spare_s)
        _drop_oldest(self.lapsed, (hold.deadline for hold in self.lapsed.values()), now, keep, spare_s)


def _drop_oldest(ended: dict[str, Any], times: Iterable[float], now: float, keep: int, spare_s: float) -> None:
    surplus = len(ended) - keep
    doomed: list[str] = []
    for rid, ended_at in zip(ended, times, strict=True):
        age = now - ended_at
        if age <= spare_s or (len(doomed) >= surplus and age <= TOMBSTONE_S):
            break
        doomed.append(rid)
    for rid in doomed:
        del ended[rid]

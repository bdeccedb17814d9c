"""What counters ought to say, in the most obvious words: every number is summed afresh from the calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal
from zoneinfo import ZoneInfo

from gateway.core.limits import NOTHING, Actual, Claim, Limit, Window
from gateway.quotas.windows import Bucket, bucket_at

ZONE = ZoneInfo("UTC")
CounterId = tuple[int, int]
"""Which limit, and the unix second at which the turn of its window starts."""


@cache
def _bucket(window: Window, at: float) -> Bucket:
    return bucket_at(window, at, ZONE)


@dataclass
class Call:
    """`stored` is what the store knows of it, `counted` whether it has settled there, and `late` on which counters it
    did so behind their line."""

    claims: list[tuple[int, int]]
    at: float
    gateway: int
    deadline: float = 0.0
    stored: Literal["", "held", "lapsed", "settled"] = ""
    running: bool = True
    actual: Actual = NOTHING
    counted: bool = False
    settled_step: int = 0
    landed: bool = False
    crashed: bool = False
    late: set[CounterId] = field(default_factory=set)


@dataclass
class Oracle:
    """`missing` are the calls that a base could not know of, by counter: they had settled before the line was drawn,
    and their rows had not landed when the ledger was asked. `adopted` are the orphans' rows that a base included."""

    limits: list[Limit]
    calls: dict[str, Call] = field(default_factory=dict)
    lines: dict[CounterId, int] = field(default_factory=dict)
    missing: dict[CounterId, set[str]] = field(default_factory=dict)
    adopted: dict[CounterId, set[str]] = field(default_factory=dict)
    unsure: set[CounterId] = field(default_factory=set)
    step: int = 0

    def turn(self, index: int, at: float) -> CounterId:
        return index, _bucket(self.limits[index].window, at).starts_at

    def ends_at(self, counter: CounterId) -> float:
        ends_at = _bucket(self.limits[counter[0]].window, counter[1]).ends_at
        return float("inf") if ends_at is None else ends_at

    def counters(self) -> set[CounterId]:
        return {self.turn(index, call.at) for call in self.calls.values() for index, _ in call.claims}

    def of(self, counter: CounterId) -> Iterable[tuple[str, Call]]:
        index = counter[0]
        for rid, call in self.calls.items():
            if any(claimed == index for claimed, _ in call.claims) and self.turn(index, call.at) == counter:
                yield rid, call

    def reserved(self, counter: CounterId) -> int:
        return sum(
            amount
            for _, call in self.of(counter)
            if call.stored == "held"
            for index, amount in call.claims
            if index == counter[0]
        )

    def settled(self, counter: CounterId) -> int:
        """Ledger rows, and settled calls whose row has not landed; but not what its base could not know of."""
        metric = self.limits[counter[0]].metric
        missing, adopted = self.missing.get(counter, set()), self.adopted.get(counter, set())
        return sum(
            call.actual.of(metric)
            for rid, call in self.of(counter)
            if (call.counted and rid not in missing) or rid in adopted
        )

    def ledger(self, counter: CounterId, before: float) -> int:
        metric = self.limits[counter[0]].metric
        return sum(call.actual.of(metric) for _, call in self.of(counter) if call.landed and call.at < before)

    def refuses(self, claims: Sequence[Claim], levels: Sequence[int]) -> int | None:
        """The first claim without room, given where each claim's counter stands."""
        wanted: dict[int, int] = {}
        for position, ((limit, amount), level) in enumerate(zip(claims, levels, strict=True)):
            index = self.limits.index(limit)
            wanted[index] = wanted.get(index, 0) + amount
            full = limit.amount == 0 or level + wanted[index] > limit.amount
            if limit.action == "deny" and full:
                return position
        return None

    def base(self, counter: CounterId, since: float) -> None:
        """The ledger has been asked and what it said was set."""
        line = self.lines.get(counter, -1)
        self.missing[counter] = {
            rid
            for rid, call in self.of(counter)
            if call.counted and not call.landed and call.settled_step <= line and counter not in call.late
        }
        self.adopted[counter] = {
            rid for rid, call in self.of(counter) if call.crashed and call.landed and call.at < since
        }
        self.unsure.discard(counter)

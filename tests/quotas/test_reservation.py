"""The state machine, and the memory store over it, against a plain model, whatever happens in whatever order.

The invariants, as they are named below: I1 nothing is accepted past a limit; I2 what is reserved is the sum of the live
holds; I3 nothing is negative; I4 a refusal changes nothing; I5 an id counts at most once; I6 what remains, is reserved
and is settled makes the limit; I7 the first settlement stands; I8 settlements commute; I9 what is accepted at once fits
the headroom; I12 without traffic everything reserved is free again.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field, replace
from typing import Literal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.core.limits import NOTHING, Actual, Claim, Denied, Granted, Limit
from gateway.quotas.memory import MemoryStore
from gateway.quotas.reservation import TOMBSTONE_S, Counter, Reservations, exact
from gateway.quotas.windows import Calendar

LIMITS = (
    Limit("user", "ada", "tokens", "month", 40),
    Limit("department", "lab", "tokens", "month", 60),
    Limit("user", "ada", "cost", "total", 50),
    Limit("key", "k", "parallel", "none", 3),
    Limit("global", "", "requests", "day", 10, "warn"),
)
LEASE_S = 10.0
RIDS = st.sampled_from([f"r{i}" for i in range(12)])
AMOUNTS = st.integers(0, 25)
PICKS = st.lists(st.tuples(st.sampled_from(range(len(LIMITS))), AMOUNTS), min_size=1, max_size=4)
ACTUALS = st.builds(Actual, st.integers(0, 1), AMOUNTS, AMOUNTS)


@dataclass
class ModelHold:
    amounts: dict[int, int]
    deadline: float
    state: Literal["held", "lapsed", "settled"] = "held"


@dataclass
class Model:
    """The same rules in the most obvious words: every number is summed afresh from the holds."""

    holds: dict[str, ModelHold] = field(default_factory=dict)
    posted: dict[str, dict[int, int]] = field(default_factory=dict)

    def reserved(self, index: int) -> int:
        return sum(hold.amounts.get(index, 0) for hold in self.holds.values() if hold.state == "held")

    def settled(self, index: int) -> int:
        return sum(posted.get(index, 0) for posted in self.posted.values())

    def level(self, index: int) -> int:
        return self.reserved(index) + self.settled(index)

    def refuses(self, claims: list[tuple[int, int]], limits: list[Limit]) -> int | None:
        wanted: dict[int, int] = {}
        for position, (index, amount) in enumerate(claims):
            wanted[index] = wanted.get(index, 0) + amount
            limit = limits[index]
            full = limit.amount == 0 or self.level(index) + wanted[index] > limit.amount
            if limit.action == "deny" and full:
                return position
        return None

    def hold(self, rid: str, claims: list[tuple[int, int]], deadline: float) -> None:
        amounts: dict[int, int] = {}
        for index, amount in claims:
            amounts[index] = amounts.get(index, 0) + amount
        self.holds[rid] = ModelHold(amounts, deadline)

    def settle(self, rid: str, actual: Actual) -> None:
        hold = self.holds.setdefault(rid, ModelHold({}, 0.0))
        if hold.state != "settled":
            hold.state = "settled"
            self.posted[rid] = {index: actual.of(LIMITS[index].metric) for index in hold.amounts}

    def expire(self, now: float) -> None:
        for hold in self.holds.values():
            if hold.state == "held" and hold.deadline <= now:
                hold.state = "lapsed"


class Rules(RuleBasedStateMachine):
    """What may happen; subclasses say what it happens to. Holds lapse as soon as their time has come."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.limits = list(LIMITS)
        self.now = 1000.0

    def try_reserve(self, rid: str, claims: list[Claim]) -> int | None:
        raise NotImplementedError

    def do_settle(self, rid: str, actual: Actual) -> None:
        raise NotImplementedError

    def do_renew(self, rid: str) -> None:
        raise NotImplementedError

    def levels(self) -> list[int]:
        raise NotImplementedError

    def counters(self) -> list[Counter]:
        raise NotImplementedError

    @rule(rid=RIDS, picks=PICKS)
    def reserve(self, rid: str, picks: list[tuple[int, int]]) -> None:
        claims = [Claim(self.limits[index], amount) for index, amount in picks]
        before = self.levels()
        refused = self.try_reserve(rid, claims)
        if rid in self.model.holds:
            assert refused is None
            assert self.levels() == before  # I5
            return
        assert refused == self.model.refuses(picks, self.limits)
        if refused is not None:
            assert self.levels() == before  # I4
            return
        self.model.hold(rid, picks, self.now + LEASE_S)
        for (limit, _), (index, _) in zip(claims, picks, strict=True):
            level = self.levels()[index]
            assert limit.action != "deny" or level <= limit.amount  # I1, I9
            assert limit.action != "deny" or max(0, limit.amount - level) + level == limit.amount  # I6

    @rule(rid=RIDS, actual=ACTUALS)
    def settle(self, rid: str, actual: Actual) -> None:
        self.do_settle(rid, actual)
        self.model.settle(rid, actual)

    @rule(rid=RIDS)
    def refund(self, rid: str) -> None:
        self.settle(rid, NOTHING)

    @rule(rid=RIDS)
    def renew(self, rid: str) -> None:
        self.do_renew(rid)
        hold = self.model.holds.get(rid)
        if hold is not None:
            hold.deadline = self.now + LEASE_S

    @rule(seconds=st.floats(0.5, 8.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.model.expire(self.now)

    @rule(index=st.sampled_from(range(len(LIMITS))), amount=st.integers(0, 80))
    def limit_changes(self, index: int, amount: int) -> None:
        self.limits[index] = replace(self.limits[index], amount=amount)

    @precondition(lambda self: any(hold.state == "held" for hold in self.model.holds.values()))
    @rule()
    def all_gateways_die(self) -> None:
        self.time_passes(LEASE_S + 5)
        self.levels()
        assert all(counter.reserved == 0 for counter in self.counters())  # I12

    @invariant()
    def levels_are_the_models(self) -> None:
        assert self.levels() == [self.model.level(index) for index in range(len(LIMITS))]  # I2, I5, I7

    @invariant()
    def nothing_is_negative(self) -> None:
        for counter in self.counters():
            assert counter.reserved >= 0  # I3
            assert counter.settled >= 0


class StateMachineRules(Rules):
    def __init__(self) -> None:
        super().__init__()
        self.reservations = Reservations()
        self.by_key = {
            (limit.scope, limit.subject, limit.metric, limit.window): Counter(limit.metric) for limit in LIMITS
        }

    def counter(self, limit: Limit) -> Counter:
        return self.by_key[limit.scope, limit.subject, limit.metric, limit.window]

    def try_reserve(self, rid: str, claims: list[Claim]) -> int | None:
        if self.reservations.knows(rid):
            return None
        counters = [self.counter(claim.limit) for claim in claims]
        return self.reservations.hold(rid, claims, counters, self.now + LEASE_S)

    def do_settle(self, rid: str, actual: Actual) -> None:
        self.reservations.settle(rid, actual, self.now)

    def do_renew(self, rid: str) -> None:
        self.reservations.renew(rid, self.now + LEASE_S)

    def levels(self) -> list[int]:
        self.reservations.expire(self.now)
        return [counter.settled + counter.reserved for counter in map(self.counter, LIMITS)]

    def counters(self) -> list[Counter]:
        return list(self.by_key.values())


class MemoryStoreRules(Rules):
    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore(Calendar(ZoneInfo("UTC")), clock=lambda: 1_795_000_000.0, monotonic=lambda: self.now)

    def try_reserve(self, rid: str, claims: list[Claim]) -> int | None:
        answer = _at_once(self.store.reserve(rid, claims, LEASE_S))
        if isinstance(answer, Granted):
            over = [i for i, claim in enumerate(claims) if claim.limit.action == "warn"]
            assert list(answer.over) == [i for i in over if answer.levels[i].used > claims[i].limit.amount]
            return None
        assert isinstance(answer, Denied)
        return next(i for i, claim in enumerate(claims) if claim.limit is answer.level.limit and self._full(claims, i))

    def _full(self, claims: list[Claim], upto: int) -> bool:
        picks = [(self.limits.index(claim.limit), claim.amount) for claim in claims[: upto + 1]]
        return self.model.refuses(picks, self.limits) == upto

    def do_settle(self, rid: str, actual: Actual) -> None:
        self.store.settle(rid, actual)

    def do_renew(self, rid: str) -> None:
        _at_once(self.store.renew([rid], LEASE_S))

    def levels(self) -> list[int]:
        peeked = _at_once(self.store.peek(LIMITS))
        return [level.used for level in peeked]  # type: ignore[attr-defined]

    def counters(self) -> list[Counter]:
        return list(self.store._counters.values())

    @rule()
    def sweep(self) -> None:
        self.store.sweep()


def _at_once(coroutine: object) -> object:
    """Run a coroutine that must not suspend."""
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)  # type: ignore[attr-defined]
    return ended.value.value


STEPS = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestStateMachine = StateMachineRules.TestCase
TestStateMachine.settings = STEPS
TestMemoryStore = MemoryStoreRules.TestCase
TestMemoryStore.settings = STEPS


def test_settlements_commute() -> None:  # I8
    outcomes = set()
    for order in itertools.permutations([("a", 3), ("b", 5), ("c", 7)]):
        reservations, counter = Reservations(), Counter("tokens")
        for rid, _ in order:
            reservations.hold(rid, [Claim(LIMITS[0], 10)], [counter], 10.0)
        reservations.expire(5.0)
        for rid, used in order:
            reservations.settle(rid, Actual(tokens=used), 6.0)
        outcomes.add((counter.settled, counter.reserved))
    assert outcomes == {(15, 0)}


def test_ended_ids_are_forgotten_oldest_first_but_never_fresh_ones() -> None:
    reservations = Reservations()
    for second in range(10):
        reservations.settle(f"r{second}", NOTHING, float(second))
    reservations.forget(10.0, keep=4, spare_s=2.0)
    assert list(reservations.settled) == ["r6", "r7", "r8", "r9"]
    reservations.forget(10.0, keep=0, spare_s=2.0)
    assert list(reservations.settled) == ["r8", "r9"]
    reservations.forget(TOMBSTONE_S + 8.5, keep=100, spare_s=2.0)
    assert list(reservations.settled) == ["r9"]


def test_a_shorter_renewed_lease_ends_sooner() -> None:
    reservations, counter = Reservations(), Counter("tokens")
    reservations.hold("a", [Claim(LIMITS[0], 10)], [counter], 100.0)
    reservations.renew("a", 20.0)
    assert reservations.expire(30.0) == 1
    assert counter.reserved == 0


@pytest.mark.parametrize("amount", [True, -1, 2**50, 1.5, float("nan"), float("inf"), "7", None])
def test_only_small_plain_integers_are_amounts(amount: object) -> None:
    with pytest.raises(ValueError, match="integer"):
        exact(amount)  # type: ignore[arg-type]


def test_the_memory_store_never_suspends_a_reservation() -> None:
    store = MemoryStore(Calendar(ZoneInfo("UTC")))
    assert isinstance(_at_once(store.reserve("a", [Claim(LIMITS[0], 1)], LEASE_S)), Granted)
    asyncio.run(store.close())

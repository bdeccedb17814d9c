"""Everything that may happen to a counter store, in any order, against an oracle.

The invariants, as the checks below name them:

 I1  A claim that denies never takes its counter past its limit; a limit that was lowered lets nothing in until there
     is room again.
 I2  What is reserved is the sum of the live holds: without holds it is nothing.
 I3  What is reserved and what is posted is never negative.
 I4  A refusal changes no counter.
 I5  A call counts at most once, however often and in whatever order it is reserved, settled and asked about.
 I6  What remains, what is reserved and what is settled make the limit, for every reader.
 I7  The first settlement stands: a refund after it and a settlement after a refund change nothing.
 I8  Calls may settle in any order.
 I9  What two calls were granted at once fits the room there was.
 I10 A store that is rebuilt from the ledger and the running calls says what it said before it was lost.
 I11 What is settled stays in the window its call began in.
 I12 Without traffic everything reserved is free again when the leases are over.
 I13 Two limits that bind the same calls stand the same.
 D   At every moment after a base, a counter's settled part is the ledger's rows of its window plus the settled calls
     whose rows have not landed, except those that settled before the line was drawn and landed after the ledger was
     asked: the next base has them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.core.limits import NOTHING, Actual, Base, Claim, Count, Denied, Granted, Limit
from gateway.core.ports import RecountableStore, StoreUnavailable
from tests.quotas.oracle import Call, CounterId, Oracle

T = TypeVar("T")

LIMITS = (
    Limit("user", "ada", "tokens", "month", 120),
    Limit("department", "lab", "tokens", "month", 120),
    Limit("user", "ada", "cost", "total", 150),
    Limit("key", "k", "parallel", "none", 3),
    Limit("global", "", "requests", "day", 4, "warn"),
    Limit("model", "m", "requests", "minute", 6),
)
TWINS = (0, 1)
"""These two are always claimed together."""
LEASE_S = 20.0
KEPT_S = 600.0
AMOUNTS = st.integers(0, 25)
SINGLE = st.sampled_from([1, 1, 1, 0])
PICKS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([1, 2]), AMOUNTS),
        st.tuples(st.sampled_from([3, 4, 5]), SINGLE),
    ),
    min_size=1,
    max_size=4,
)
ACTUALS = st.one_of(st.builds(Actual, SINGLE, AMOUNTS, AMOUNTS), st.just(NOTHING))
AGO = st.sampled_from([0.0, 0.0, 0.001, 1.0, 30.0, 50.0])
ANY = st.integers(0, 10_000)
GATEWAYS = st.integers(0, 1)


class Asked(NamedTuple):
    """What a gateway was told by the ledger and has not set yet: `told` are, by counter, the rows it did not know."""

    turn: int
    bases: Sequence[Base]
    landed: Sequence[str]
    sinces: dict[CounterId, float]
    told: dict[CounterId, tuple[set[str], set[str]]]


class Rules(RuleBasedStateMachine):
    """What may happen; subclasses say what it happens to, and how time passes."""

    store: RecountableStore
    steps: ClassVar[list[int]] = [0]
    settlements: ClassVar[list[int]] = [0]
    """How many there have been, in all runs."""

    def __init__(self) -> None:
        super().__init__()
        self.oracle = Oracle(list(LIMITS))
        self.lost = False
        self.asked: dict[int, Asked] = {}

    def run(self, work: Awaitable[T]) -> T:
        raise NotImplementedError

    def lapse(self, rids: Sequence[str]) -> None:
        """Let the leases of these run out, and of no others."""
        raise NotImplementedError

    def empty(self) -> None:
        """Lose everything that the store knows."""
        raise NotImplementedError

    def after_the_loss(self) -> None:
        raise NotImplementedError

    def stands(self, counters: Sequence[CounterId]) -> list[tuple[int, int]]:
        """What is settled and reserved on each, whatever turn of its window it is in."""
        raise NotImplementedError

    def claims(self, picks: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(index, amount) for pick, amount in picks for index in (TWINS if pick in TWINS else (pick,))]

    def as_claims(self, call: Call) -> list[Claim]:
        return [Claim(self.oracle.limits[index], amount) for index, amount in call.claims]

    def new_call(self, picks: Sequence[tuple[int, int]], ago: float, gateway: int) -> tuple[str, Call]:
        rid = f"r{len(self.oracle.calls)}"
        call = self.oracle.calls[rid] = Call(self.claims(picks), round(self.store.now() - ago, 3), gateway)
        return rid, call

    def pick(self, number: int, **wanted: Any) -> tuple[str, Call] | None:
        found = [item for item in self.oracle.calls.items() if all(getattr(item[1], k) == v for k, v in wanted.items())]
        return found[number % len(found)] if found else None

    def reserve_now(self, rid: str, call: Call) -> Granted | Denied:
        answer = self.run(self.store.reserve(rid, self.as_claims(call), LEASE_S, call.at))
        if isinstance(answer, Granted):
            assert answer.at == call.at
            if not call.stored:
                call.stored, call.deadline = "held", self.store.now() + LEASE_S
        return answer

    def levels(self, call: Call) -> list[int]:
        return [sum(each) for each in self.stands([self.oracle.turn(index, call.at) for index, _ in call.claims])]

    def all_stand(self) -> list[tuple[int, int]]:
        return self.stands(sorted(self.oracle.counters()))

    @rule(picks=PICKS, ago=AGO, gateway=GATEWAYS)
    def reserve(self, picks: list[tuple[int, int]], ago: float, gateway: int) -> None:
        rid, call = self.new_call(picks, ago, gateway)
        claims, before, levels = self.as_claims(call), self.all_stand(), self.levels(call)
        if self.lost:
            try:
                self.reserve_now(rid, call)
            except StoreUnavailable:
                call.running = False
                return
            raise AssertionError("a lost store has granted something")
        refused = self.oracle.refuses(claims, levels)
        answer = self.reserve_now(rid, call)
        assert isinstance(answer, Denied) == (refused is not None), (answer, refused)  # I1
        if isinstance(answer, Denied):
            assert refused is not None
            assert answer.level[:2] == (claims[refused].limit, levels[refused])
            assert self.all_stand() == before  # I4
            call.running = False
            return
        after = self.levels(call)
        assert [level.used for level in answer.levels] == after  # I6
        for (limit, _), level in zip(claims, after, strict=True):
            assert limit.action != "deny" or level <= limit.amount  # I1, I9
        assert list(answer.over) == [
            i for i, (limit, _) in enumerate(claims) if limit.action != "deny" and after[i] > limit.amount
        ]

    @precondition(lambda self: self.oracle.calls)
    @rule(number=ANY)
    def ask_again_with_the_same_id(self, number: int) -> None:
        found = self.pick(number)
        if found is None or self.lost or not found[1].stored:
            return
        before = self.all_stand()
        assert isinstance(self.reserve_now(*found), Granted)
        assert self.all_stand() == before  # I5

    @rule(picks=PICKS, ago=AGO, gateway=GATEWAYS, arrives=st.booleans(), allowed=st.booleans())
    def lose_the_reply(
        self, picks: list[tuple[int, int]], ago: float, gateway: int, arrives: bool, allowed: bool
    ) -> None:
        """The caller hears nothing. It gives up, or its policies let it go on: then it settles like any other."""
        rid, call = self.new_call(picks, ago, gateway)
        if arrives and not self.lost:
            self.reserve_now(rid, call)
        if not allowed:
            self.store.settle(rid, (), call.at, NOTHING)
            call.stored, call.running = "settled", False

    @precondition(lambda self: self.pick(0, running=True))
    @rule(number=ANY, actual=ACTUALS)
    def settle(self, number: int, actual: Actual) -> None:
        found = self.pick(number, running=True)
        if found is None:
            return
        rid, call = found
        lines = {self.counter_of(count): count.since for count in self.run(self.store.audit(self.oracle.limits))}
        call.late = {counter for counter, since in lines.items() if call.at < since or self.lost}
        self.store.settle(rid, self.as_claims(call), call.at, actual)
        self.settlements[0] += 1
        call.stored, call.running = "settled", False
        call.actual, call.counted, call.settled_step = actual, True, self.oracle.step

    @rule(picks=PICKS, ago=AGO, actual=ACTUALS)
    def serve(self, picks: list[tuple[int, int]], ago: float, actual: Actual) -> None:
        """Rules are drawn alike, and traffic is what there is most of."""
        self.reserve(picks, ago, 0)
        newest = len(self.oracle.calls) - 1
        if self.oracle.calls[f"r{newest}"].running:
            self.settle(len([call for call in self.oracle.calls.values() if call.running]) - 1, actual)

    @rule(traffic=st.lists(st.tuples(PICKS, AGO), max_size=3), ends=st.lists(st.tuples(ANY, ACTUALS), max_size=3))
    def go_on(self, traffic: list[tuple[list[tuple[int, int]], float]], ends: list[tuple[int, Actual]]) -> None:
        for number, (picks, ago) in enumerate(traffic):
            self.reserve(picks, ago, number % 2)
        for number, actual in ends:
            self.settle(number, actual)

    @precondition(lambda self: self.pick(0, stored="settled"))
    @rule(number=ANY, actual=ACTUALS)
    def settle_again(self, number: int, actual: Actual) -> None:
        found = self.pick(number, stored="settled")
        if found is not None:
            rid, call = found
            self.store.settle(rid, self.as_claims(call), call.at, actual)  # I5, I7

    @precondition(lambda self: self.pick(0, running=True))
    @rule(gateway=GATEWAYS)
    def renew(self, gateway: int) -> None:
        """And hold again what is not known."""
        mine = {rid: call for rid, call in self.oracle.calls.items() if call.running and call.gateway == gateway}
        unknown = self.run(self.store.renew(list(mine), LEASE_S))
        assert set(unknown) == {rid for rid, call in mine.items() if not call.stored}
        for call in mine.values():
            call.deadline = self.store.now() + LEASE_S
        for rid in unknown:
            self.hold(rid)

    def hold(self, rid: str) -> None:
        call = self.oracle.calls[rid]
        self.run(self.store.hold(rid, self.as_claims(call), LEASE_S, call.at))
        if call.stored in ("", "held"):
            call.stored, call.deadline = "held", self.store.now() + LEASE_S

    @precondition(lambda self: self.oracle.calls)
    @rule(number=ANY)
    def hold_again(self, number: int) -> None:
        found = self.pick(number, running=True) or self.pick(number, stored="settled")
        if found is not None:
            self.hold(found[0])

    @precondition(lambda self: self.pick(0, running=True))
    @rule(gateway=GATEWAYS)
    def crash(self, gateway: int) -> None:
        """The gateway's calls are no longer renewed. Their intents are in its journal, for whoever adopts it."""
        gone = [rid for rid, call in self.oracle.calls.items() if call.running and call.gateway == gateway]
        for rid in gone:
            call = self.oracle.calls[rid]
            call.running, call.crashed = False, True
        self.lapse(gone)
        for rid in gone:
            call = self.oracle.calls[rid]
            call.stored = "lapsed" if call.stored == "held" else call.stored

    @precondition(lambda self: self.pick(0, crashed=True, landed=False))
    @rule(number=ANY)
    def adopt(self, number: int) -> None:
        """A dead gateway's call becomes an orphan's row: it was a request, what it used is not known."""
        found = self.pick(number, crashed=True, landed=False)
        if found is not None:
            found[1].actual, found[1].landed = Actual(1, 0, 0), True

    @precondition(lambda self: self.pick(0, counted=True, landed=False))
    @rule(number=ANY)
    def land(self, number: int) -> None:
        found = self.pick(number, counted=True, landed=False)
        if found is not None:
            found[1].landed = True

    @rule(indexes=st.sets(st.sampled_from(range(1, len(LIMITS))), min_size=1), ahead=st.sampled_from([0.0, 3.0, 90.0]))
    def cut(self, indexes: set[int], ahead: float) -> None:
        wanted = {index for pick in indexes for index in (TWINS if pick in TWINS else (pick,))}
        self.cut_now(sorted(wanted), ahead)

    def cut_now(self, indexes: Sequence[int], ahead: float) -> None:
        self.run(self.store.cut([self.oracle.limits[index] for index in indexes], ahead))
        now = self.store.now()
        for index in indexes:
            self.oracle.lines[self.oracle.turn(index, now)] = self.oracle.step

    @rule()
    def recount(self) -> None:
        self.ask_the_ledger(0)
        self.set_bases(0)

    @rule(gateway=st.sampled_from((0, 1)))
    def ask_the_ledger(self, gateway: int) -> None:
        """What is told is true at this moment; it is set when other things have happened, and ignored when another
        gateway has set what it was told later."""
        oracle = self.oracle
        turn = self.run(self.store.turn())
        counts = [count for count in self.run(self.store.audit(oracle.limits)) if count.since > count.starts_at]
        bases, sinces = [], {}
        for count in counts:
            counter = self.counter_of(count)
            bases.append(Base(count, oracle.ledger(counter, count.since)))
            sinces[counter] = count.since
        late = self.run(self.store.late())
        told = {counter: self.as_told(counter, since) for counter, since in sinces.items()}
        self.asked[gateway] = Asked(turn, bases, [rid for rid in late if oracle.calls[rid].landed], sinces, told)

    def as_told(self, counter: CounterId, since: float) -> tuple[set[str], set[str]]:
        shadow = replace(self.oracle, missing={}, adopted={}, unsure=set())
        shadow.base(counter, since)
        return shadow.missing[counter], shadow.adopted[counter]

    @precondition(lambda self: self.asked)
    @rule(gateway=st.sampled_from((0, 1)))
    def set_bases(self, gateway: int) -> None:
        if gateway not in self.asked:
            return
        turn, bases, landed, sinces, told = self.asked.pop(gateway)
        now = {self.counter_of(count): count.since for count in self.run(self.store.audit(self.oracle.limits))}
        if not self.run(self.store.rebase(bases, landed, turn)):
            return
        for counter, since in sinces.items():
            if counter not in now:
                self.oracle.unsure.add(counter)  # its window has turned; nobody asks any more
            elif now[counter] == since:
                self.oracle.missing[counter], self.oracle.adopted[counter] = told[counter]
                self.oracle.unsure.discard(counter)

    def counter_of(self, count: Count) -> CounterId:
        return self.oracle.limits.index(count.limit), int(count.starts_at)

    @rule()
    def lose_everything(self) -> None:
        self.empty()
        self.asked.clear()
        for call in self.oracle.calls.values():
            call.stored, call.late = "", set()
        self.oracle.unsure = {
            self.oracle.turn(index, self.store.now() - ago) for index in range(len(LIMITS)) for ago in (0, 30, 60, 120)
        } | self.oracle.counters()
        self.after_the_loss()

    @precondition(lambda self: self.lost)
    @rule(flushed=st.booleans())
    def rebuild(self, flushed: bool) -> None:
        assert self.run(self.store.begin_rebuild())
        for rid, call in self.oracle.calls.items():
            if call.running:
                self.hold(rid)
        self.oracle.step += 1
        self.cut_now(range(len(LIMITS)), 3.0)
        if flushed:
            for call in self.oracle.calls.values():
                call.landed = call.landed or call.counted
        self.recount()
        assert self.run(self.store.end_rebuild())
        self.lost = False
        for index in range(len(LIMITS)):  # I10
            if LIMITS[index].metric != "parallel":
                assert self.oracle.turn(index, self.store.now()) not in self.oracle.unsure or not self.steady()

    def steady(self) -> bool:
        """Whether no window has turned within the last seconds."""
        now = self.store.now()
        return all(self.oracle.turn(i, now) == self.oracle.turn(i, now - 5) for i in range(len(LIMITS)))

    @rule(index=st.sampled_from(range(len(LIMITS))), amount=st.integers(0, 120))
    def change_a_limit(self, index: int, amount: int) -> None:
        for each in TWINS if index in TWINS else (index,):
            self.oracle.limits[each] = replace(self.oracle.limits[each], amount=amount)

    @precondition(lambda self: self.pick(0, running=True))
    @rule()
    def all_traffic_ends(self) -> None:
        self.crash(0)
        self.crash(1)
        self.run(self.store.pulse())
        for settled_and_reserved in self.all_stand():
            assert settled_and_reserved[1] == 0  # I12

    @invariant()
    def counters_are_what_they_ought_to_be(self) -> None:
        oracle = self.oracle
        oracle.step += 1
        self.steps[0] += 1
        now = self.store.now()
        in_force = [oracle.turn(index, now) for index in range(len(LIMITS))]
        counters = {counter for counter in oracle.counters() if oracle.ends_at(counter) > now - KEPT_S}
        asked = sorted(counters.union(in_force))
        stand = dict(zip(asked, self.stands(asked), strict=True))
        for counter, (settled, reserved) in stand.items():
            assert reserved == oracle.reserved(counter), counter  # I2, I3
            assert settled >= 0  # I3
            if counter not in oracle.unsure:
                assert settled == oracle.settled(counter), counter  # D, I5, I7, I8, I11
        one, other = (stand[in_force[index]] for index in TWINS)
        assert one == other  # I13
        self.readers_see([sum(stand[counter]) for counter in in_force], now)

    def readers_see(self, levels: Sequence[int], now: float) -> None:
        oracle = self.oracle
        peeked = [level.used for level in self.run(self.store.peek(oracle.limits))]
        audited = [count.settled + count.reserved for count in self.run(self.store.audit(oracle.limits))]
        later = self.store.now()
        if all(oracle.turn(index, now) == oracle.turn(index, later) for index in range(len(LIMITS))):
            assert peeked == levels  # I6
            assert audited == [level for level, limit in zip(levels, LIMITS, strict=True) if limit.metric != "parallel"]

"""Counters in Redis or a server that speaks like it, shared by any number of gateways."""

from __future__ import annotations

import itertools
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TypeVar

from gateway.core.limits import Actual, Base, Claim, Count, Denied, Granted, Level, Limit
from gateway.core.ports import DECISION_S, StoreState, StoreUnavailable
from gateway.quotas.batcher import Batcher, Command, Reply
from gateway.quotas.clock import Clock
from gateway.quotas.link import DIGESTS, RedisLink, pack
from gateway.quotas.reservation import checked_actual, checked_bases, checked_claims
from gateway.quotas.slots import Slot, Slots
from gateway.quotas.windows import Calendar

START_S = 2.0
CLOSE_S = 5.0
LOOK_S = 5.0
"""How often the server is asked how it is: for evictions, which leave no other trace."""
REBUILD_S = 10.0
"""A rebuild that takes longer is another gateway's to begin anew."""
CLOCKS_APART_S = 2.0
SLOWEST_S = 60.0
"""No call reserves longer after it was created; a moment further off was taken from a clock that has been set since."""
CHUNK = 500

log = logging.getLogger("aidock.quotas")

T = TypeVar("T")


class RedisStore:
    """A `CounterStore` and `Recountable` in which every verb is one script call, atomic and idempotent by request id.

    `url` is redis://, rediss:// or unix://. The server's TIME is the time: learnt at start, kept by `clock`, a
    monotonic one from any origin, and learnt again when a script finds the two more than 2 s apart. A hold past its
    lease is let go when someone needs its room and by every gateway's `pulse`.

    The awaited verbs raise `StoreUnavailable` after `decision_s` of silence, and `reserve` also while the store is
    lost or being rebuilt.
    """

    def __init__(
        self,
        url: str,
        calendar: Calendar,
        *,
        prefix: str = "aidock",
        clock: Callable[[], float] = time.monotonic,
        decision_s: float = DECISION_S,
    ) -> None:
        self._calendar = calendar
        self._clock = Clock(clock)
        self._space = space = f"{{{prefix}}}"
        self._slots = Slots(calendar, space)
        self._record = f"{space}:call:"
        self._leases, self._late, self._watch = f"{space}:leases", f"{space}:late", f"{space}:watch"
        self._marker, self._lead = f"{space}:marker", f"{space}:lead"
        self._tags = itertools.count()
        self._me = uuid.uuid4().hex
        self._token = ""
        self._told = self._broken = ""
        self._installation = ""
        self._evicted = 0
        self._next_look = 0.0
        self._link = RedisLink(url)
        self._batcher = Batcher(self._link, decision_s)

    def now(self) -> float:
        return self._clock.now()

    async def start(self, installation: str) -> None:
        self._installation = installation
        self._clock.set(await self._link.open(START_S))
        self._evicted = self._link.info.evicted_keys
        self._batcher.start()

    async def close(self) -> bool:
        return await self._batcher.close(CLOSE_S)

    async def reserve(
        self, rid: str, claims: Sequence[Claim], lease_s: float, at: float, by: float | None = None
    ) -> Granted | Denied:
        checked_claims(claims)
        if not claims:
            return Granted((), (), at)
        now = self.now()
        if not -CLOCKS_APART_S <= now - at <= SLOWEST_S:
            at = now
        slots, command = self._reserving(rid, claims, lease_s, now, at)
        reply = await self._batcher.call(command, by)
        if reply[1] == b"clock":
            now = at = self._learn(reply)
            slots, command = self._reserving(rid, claims, lease_s, now, at)
            reply = await self._batcher.call(command, by)
        match reply[1]:
            case b"granted":
                return _granted(slots, reply[2:], at)
            case b"denied":
                index, used = _integers(reply[2:], 2)
                return Denied(_level(slots[index], used, int(at)))
            case b"closed":
                raise StoreUnavailable("the counters are being rebuilt from the ledger")
        raise _senseless(reply)

    def settle(self, rid: str, claims: Sequence[Claim], at: float, actual: Actual) -> None:
        requests, tokens, cost = checked_actual(actual)
        used = {"requests": requests, "tokens": tokens, "cost": cost, "parallel": 0}
        counters: dict[str, tuple[int, str]] = {}
        for limit, _ in claims:
            slot = self._slots.at(limit, at)
            counters[slot.key] = (used[limit.metric], slot.expiry)
        keys = [self._record + rid, self._leases, self._late, self._marker, *counters]
        arguments: list[str | int] = [len(keys), *keys]
        arguments += (rid, round(at * 1000))
        for each in counters.values():
            arguments += each
        self._batcher.post(_command("settle", rid, arguments))

    async def renew(self, rids: Sequence[str], lease_s: float) -> Sequence[str]:
        unknown: list[str] = []
        for chunk in _chunks(rids):
            records = [self._record + rid for rid in chunk]
            reply = await self._ask("renew", [self._leases, *records], int(lease_s * 1000))
            unknown += [chunk[index] for index in _integers(reply[2:])]
        return unknown

    async def hold(self, rid: str, claims: Sequence[Claim], lease_s: float, at: float) -> None:
        checked_claims(claims)
        slots = [self._slots.at(limit, at) for limit, _ in claims]
        keys = [self._record + rid, self._leases, *(slot.key for slot in slots)]
        await self._ask("hold", keys, int(lease_s * 1000), *_as_arguments(slots, claims))

    async def peek(self, limits: Sequence[Limit]) -> Sequence[Level]:
        levels: list[Level] = []
        for chunk in _chunks(limits):
            now, slots, reply = await self._on_time("peek", chunk)
            second = int(now)
            used = _integers(reply[2:], len(slots))
            levels += [_level(slot, each, second) for slot, each in zip(slots, used, strict=True)]
        return levels

    async def pulse(self) -> StoreState:
        moment = self._clock.monotonic()
        if moment >= self._next_look:
            self._batcher.look()
        reply = await self._ask("pulse", [self._leases, self._watch, self._marker, self._late])
        if moment >= self._next_look:
            self._next_look = moment + LOOK_S
        told, marker = reply[2], reply[3]
        if type(told) is not int or type(marker) is not bytes:
            raise _senseless(reply)
        if abs(told / 1000 - self.now()) > CLOCKS_APART_S:
            self._learn(reply)
        self._told = marker.decode()
        state = self._state(self._told)
        self._broken = self._told if state in ("lost", "suspect") else ""
        return state

    @property
    def rebuild(self) -> str:
        word, _, name = self._told.partition(" ")
        return name if word == "rebuilding" else ""

    async def cut(self, limits: Sequence[Limit], ahead_s: float) -> None:
        for chunk in _chunks(_counted(limits)):
            await self._on_time("cut", chunk, ahead_s)

    async def audit(self, limits: Sequence[Limit]) -> Sequence[Count]:
        counts: list[Count] = []
        for chunk in _chunks(_counted(limits)):
            _, slots, reply = await self._on_time("audit", chunk)
            told = iter(_integers(reply[2:], 4 * len(slots)))
            for slot, settled, reserved, since, based in zip(slots, told, told, told, told, strict=True):
                counts.append(
                    Count(slot.limit, slot.starts_at, slot.ends_at, since / 1000, based == 1, settled, reserved)
                )
        return counts

    async def late(self) -> Sequence[str]:
        reply = await self._ask("late", [self._late])
        return [rid.decode() for rid in reply[2:] if type(rid) is bytes]

    async def turn(self) -> int:
        reply = await self._ask("turn", [self._watch])
        return _integers(reply[2:], 1)[0]

    async def rebase(self, bases: Sequence[Base], landed: Sequence[str], turn: int, *, raising: bool = False) -> bool:
        checked_bases(bases)
        steps: list[tuple[Sequence[Base], Sequence[str]]] = [((), chunk) for chunk in _chunks(landed)]
        steps += [(chunk, ()) for chunk in _chunks(bases)]
        for some, ids in steps or [((), ())]:
            reply = await self._rebase(some, ids, turn, raising)
            if reply[1] != b"rebased":
                return False
            (turn,) = _integers(reply[2:], 1)
        return True

    async def held(self) -> Sequence[str]:
        reply = await self._ask("held", [self._leases])
        return [record.decode().removeprefix(self._record) for record in reply[2:] if type(record) is bytes]

    async def lead(self, for_s: float) -> bool:
        reply = await self._ask("lead", [self._lead], self._me, int(for_s * 1000))
        return _integers(reply[2:], 1) == [1]

    async def begin_rebuild(self) -> bool:
        if await self._mark("go on"):
            return True
        self._token = uuid.uuid4().hex
        if not await self._mark("begin"):
            return False
        info = self._link.info
        self._told = f"rebuilding {self._token} {info.run_id}"
        self._batcher.lossy = False
        self._evicted = info.evicted_keys
        return True

    async def end_rebuild(self) -> bool:
        return await self._mark("end")

    def _reserving(
        self, rid: str, claims: Sequence[Claim], lease_s: float, now: float, at: float
    ) -> tuple[list[Slot], Command]:
        slots = [self._slots.at(limit, at) for limit, _ in claims]
        arguments: list[str | int] = [4 + len(slots), self._record + rid, self._leases, self._watch, self._marker]
        arguments += [slot.key for slot in slots]
        arguments += (rid, round(now * 1000), int(lease_s * 1000), self._trusted())
        arguments += _as_arguments(slots, claims)
        return slots, _command("reserve", rid, arguments)

    async def _on_time(
        self, verb: str, limits: Sequence[Limit], ahead_s: float = 0.0
    ) -> tuple[float, list[Slot], Reply]:
        """Call with keys for the server's time; when it says that ours is off, set ours by it and try once more."""
        for _ in range(2):
            now = self.now()
            slots = [self._slots.at(limit, now) for limit in limits]
            tail: list[str | int] = [round(now * 1000)]
            keys = [self._leases, self._watch]
            if verb == "cut":
                slots = self._turns(slots, now + ahead_s)
                keys.append(self._marker)
                tail.append(round(ahead_s * 1000))
                for slot in slots:
                    tail += (slot.starts_at * 1000, "" if slot.ends_at is None else slot.ends_at * 1000, slot.expiry)
            reply = await self._ask(verb, [*keys, *(slot.key for slot in slots)], *tail)
            if reply[1] != b"clock":
                return now, slots, reply
            self._learn(reply)
        raise StoreUnavailable("the counter store's clock does not hold still")

    def _turns(self, slots: Sequence[Slot], line: float) -> list[Slot]:
        """These turns, and the next ones where they may begin before the line. The server knows for sure."""
        soon = line + CLOCKS_APART_S
        nexts = [self._slots.make(slot.limit, slot.until) for slot in slots if slot.until < soon]
        return [*slots, *nexts]

    async def _rebase(self, bases: Sequence[Base], landed: Sequence[str], turn: int, raising: bool) -> Reply:
        keys = [self._late, self._watch]
        tail: list[str | int] = []
        for count, used in bases:
            keys.append(self._slots.make(count.limit, count.starts_at).key)
            tail += (round(count.since * 1000), used)
        return await self._ask("rebase", keys, turn, int(raising), len(landed), *landed, *tail)

    async def _mark(self, what: str) -> bool:
        run_id = self._link.info.run_id
        tail = (what, self._installation, run_id, self._token, self._broken, int(REBUILD_S * 1000))
        reply = await self._ask("mark", [self._marker, self._late], *tail)
        return _integers(reply[2:], 1) == [1]

    def _trusted(self) -> str:
        """The marker of a store whose counters are ours, on the server that the link last met. One that has been
        started anew, or stands in for another, may have forgotten something, until somebody has rebuilt it."""
        return f"open {self._installation} {self._link.info.run_id}"

    def _state(self, marker: str) -> StoreState:
        word, _, rest = marker.partition(" ")
        whose, _, run_id = rest.partition(" ")
        info = self._link.info
        if word == "rebuilding" and run_id == info.run_id:
            return "rebuilding"
        if word != "open" or whose != self._installation:
            return "lost"
        if run_id != info.run_id or info.evicted_keys > self._evicted or self._batcher.lossy:
            return "suspect"
        return "open"

    def _learn(self, reply: Reply) -> float:
        """Set the clock by the server's; the moment it is."""
        (milliseconds,) = _integers(reply[2:3], 1)
        self._clock.set(milliseconds / 1000)
        log.warning("The clock was off the counter store's and is set by it.")
        return self.now()

    async def _ask(self, verb: str, keys: Sequence[str], *tail: str | int) -> Reply:
        tag = str(next(self._tags))
        return await self._batcher.call(_command(verb, tag, [len(keys), *keys, tag, *tail]))


def _counted(limits: Sequence[Limit]) -> list[Limit]:
    return [limit for limit in limits if limit.metric != "parallel"]


def _chunks(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]


def _as_arguments(slots: Sequence[Slot], claims: Sequence[Claim]) -> list[str | int]:
    arguments: list[str | int] = []
    for slot, (_, amount) in zip(slots, claims):  # noqa: B905 - the keyword costs more than the pairing
        arguments.append(amount)
        arguments += slot.tail
    return arguments


def _granted(slots: Sequence[Slot], used: Sequence[bytes | int], at: float) -> Granted:
    second = int(at)
    levels = tuple([_level(slot, each, second) for slot, each in zip(slots, _integers(used, len(slots)), strict=True)])
    over = [i for i, (limit, each, _) in enumerate(levels) if each > limit.amount and limit.action != "deny"]
    return Granted(levels, tuple(over), at)


def _level(slot: Slot, used: int, second: int) -> Level:
    return Level(slot.limit, used, None if slot.ends_at is None else slot.ends_at - second)


def _integers(items: Sequence[bytes | int], count: int | None = None) -> list[int]:
    numbers = [item for item in items if type(item) is int]
    if len(numbers) != len(items) or count not in (None, len(items)):
        raise _senseless(items)
    return numbers


def _senseless(reply: Sequence[bytes | int]) -> StoreUnavailable:
    return StoreUnavailable(f"the counter store answered what was not asked, {len(reply)} items")


def _command(script: str, tag: str, arguments: Sequence[str | int]) -> Command:
    return Command(script, tag, tuple(arguments), pack("EVALSHA", DIGESTS[script], *arguments))

"""Keeps counters equal to the ledger, of which they are a cache.

Whoever begins to count a limit draws a line: what calls created before it have used is the ledger's to say, what later
ones use is posted as they settle. Behind the line the ledger is asked again and again, until the last call from before
it has ended and its row has landed; every answer is absolute and set at once, so that any number of gateways may ask.
Whatever may have cost a counter something (a store that restarted, a journal that was adopted, settlements that could
not be delivered) is answered by drawing the line again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import tzinfo

from sqlalchemy.ext.asyncio import AsyncSession

from gateway.core.call import Call
from gateway.core.limits import Base, Count, Limit
from gateway.core.money import MAX_AMOUNT
from gateway.core.ports import RecountableStore, StoreState, StoreUnavailable
from gateway.reserve import LEASE_S
from gateway.storage import ledger, revisions
from gateway.storage.engine import Database
from gateway.storage.errors import DatabaseUnavailable

logger = logging.getLogger("aidock.recount")

REVISION = "recount"
"""The revision that is raised when ledger rows were changed beside the calls: prices, a restored backup."""

_CHUNK = 200
_MOST = MAX_AMOUNT - 1
"""What counters can hold; more was never granted, and must not keep other counters from being set."""
_TRIES = 10

_Name = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Pace:
    """How quickly counters are looked after, in seconds.

    `ahead` is how far ahead a line is drawn: by then every gateway counts the limit. `clocks_apart` is more than two
    gateways' clocks can differ. A store is looked at every `pulse`, the ledger asked every `quick` for as long after a
    line as it is `fresh`, and every `slow` afterwards. `landing` is how long a row may take after its call has
    settled; one that takes longer is counted by a later round. A store that has forgotten waits `gather` for the other
    gateways to hold again what their running calls had held, and for their rows to land.
    """

    ahead: float = 5.0
    clocks_apart: float = 2.5
    pulse: float = 0.25
    quick: float = 2.0
    slow: float = 60.0
    fresh: float = 120.0
    landing: float = 1.0
    gather: float = 0.8
    flush: float = 2.0


class Recount:
    """The recount of one process. `running` are its calls under way; `flush` waits until what it has noted so far is
    in the ledger. `alone` says that no other process shares the store. `remind` tells whoever else keeps something in
    it that it has forgotten."""

    def __init__(
        self,
        store: RecountableStore,
        database: Database,
        zone: tzinfo,
        *,
        running: Callable[[], Sequence[Call]],
        flush: Callable[[], Awaitable[None]],
        alone: bool,
        pace: Pace = Pace(),
        remind: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._database = database
        self._zone = zone
        self._running = running
        self._flush = flush
        self._alone = alone
        self._pace = pace
        self._remind = remind
        self._serving = False
        self._known: dict[str, dict[_Name, Limit]] = {}
        self._doubt = False
        self._revision: int | None = None
        self._state: StoreState = "open"
        self._fresh_until = 0.0
        self._next_round = 0.0
        self._next_look = 0.0
        self._troubled = False

    @property
    def state(self) -> str:
        """For people: `ok`, or what keeps counters from being right."""
        if self._state in ("lost", "rebuilding"):
            return "the counters are being rebuilt from the ledger"
        return "degraded: the counters wait for the database or their store" if self._troubled else "ok"

    @property
    def limits(self) -> Sequence[Limit]:
        """Every limit that is counted here."""
        return list({name: limit for known in self._known.values() for name, limit in known.items()}.values())

    async def prepare(self, origin: str, limits: Iterable[Limit]) -> None:
        """Begin to count the limits of an origin that it did not have before; they know then what came before them.
        One that was taken away and comes back is new: nobody counted meanwhile. Raises `DatabaseUnavailable` and
        `StoreUnavailable`: a limit that cannot be counted up must not bind yet, or it would begin at nothing."""
        wanted = {_name(limit): limit for limit in limits}
        kept = {name: wanted[name] for name in self._known.get(origin, {}) if name in wanted}
        self._known[origin] = kept
        counted = {name for known in self._known.values() for name in known}
        new = [limit for name, limit in wanted.items() if name not in counted]
        if new:
            await self._draw_the_line(new)
        self._known[origin] = wanted

    async def begin(self) -> None:
        """Return when the store is open, rebuilt where it was lost. Raises `StoreUnavailable`."""
        while True:
            self._state = await self._store.pulse()
            match self._state:
                case "open":
                    break
                case "suspect":
                    await self._cut_all()
                case _:
                    await self._rebuild()
            await asyncio.sleep(self._pace.pulse)
        self._serving = True

    async def run(self) -> None:
        """Look after the store, until cancelled."""
        while True:
            await asyncio.sleep(self._pace.pulse)
            try:
                await self._tend()
            except (StoreUnavailable, DatabaseUnavailable) as error:
                if not self._troubled:
                    logger.warning("The counters cannot be looked after now.", extra={"reason": str(error)})
                self._troubled = True
            except Exception:
                # One bad round must not end the job that the next one can do.
                logger.exception("A round of the recount failed.")
            else:
                self._troubled = False

    async def keep(self) -> None:
        """Renew what the running calls hold, and hold again what the store has forgotten. Raises
        `StoreUnavailable`."""
        calls = [call for call in self._running() if call.claims]
        for start in range(0, len(calls), _CHUNK):
            chunk = {call.request_id: call for call in calls[start : start + _CHUNK]}
            for request_id in await self._store.renew(list(chunk), LEASE_S):
                await self._hold_again(chunk[request_id])

    def doubt(self) -> None:
        """Something may be missing from the counters: count all of them anew, shortly."""
        self._doubt = True

    async def recount(self) -> None:
        """Count everything anew and return when the counters say what the ledger says. Raises `StoreUnavailable` and
        `DatabaseUnavailable`."""
        await self._flush_soon()
        await self._cut(self.limits, ahead_s=0.0 if self._alone else self._pace.clocks_apart)
        await self._flush_soon()
        await self._base(self.limits, every=True)

    async def _tend(self) -> None:
        before, self._state = self._state, await self._store.pulse()
        match self._state:
            case "lost":
                await self._rebuild()
                return
            case "rebuilding":
                if before != "rebuilding":
                    await self._hold_all_again()
                return
            case "suspect":
                self._doubt = True
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + self._pace.quick
            await self._look_for_changes()
        if self._doubt:
            await self._cut_all()
        if now >= self._next_round:
            self._next_round = now + (self._pace.quick if now < self._fresh_until else self._pace.slow)
            await self._round()

    async def _look_for_changes(self) -> None:
        async with self._database.read() as session:
            revision = await revisions.current(session, REVISION)
        if self._revision is not None and revision != self._revision:
            self._doubt = True
        self._revision = revision

    async def _round(self) -> None:
        if self._alone or await self._store.lead(2 * self._pace.quick):
            await self._base(self.limits)
            if time.monotonic() >= self._fresh_until:
                await self._look_for_losses()

    async def _cut_all(self) -> None:
        """For a store that may have forgotten something, in which case it grants nothing until it is accepted: say what
        runs here, and let the others do so and their last rows land."""
        if self._state == "suspect":
            await self._hold_all_again()
            await self._cut(self.limits)
            await asyncio.sleep(0 if self._alone else self._pace.gather)
        await self._draw_the_line(self.limits)
        await self._store.accept()
        self._doubt = False

    async def _draw_the_line(self, limits: Sequence[Limit]) -> None:
        """What stood before the line stands in for the ledger's part, unless the ledger knows of more: a counter that
        nobody kept, or a store that forgot, says too little."""
        await self._cut(limits)
        await self._flush_soon()
        await self._base(limits, every=True, raising=True)

    async def _cut(self, limits: Sequence[Limit], ahead_s: float | None = None) -> None:
        if ahead_s is None:
            ahead_s = 0.0 if self._alone and not self._serving else self._pace.ahead
        await self._store.cut(limits, ahead_s)
        self._fresh_until = time.monotonic() + ahead_s + self._pace.fresh
        self._next_round = 0.0

    async def _base(self, limits: Sequence[Limit], *, every: bool = False, raising: bool = False) -> None:
        """Set the ledger's part of those counters that it has not been asked about, and of those whose line lies so
        far back that every row from before it should have landed."""
        for _ in range(_TRIES):
            if await self._try_base(limits, every=every, raising=raising):
                return
        raise StoreUnavailable("other gateways keep setting the counters")

    async def _try_base(self, limits: Sequence[Limit], *, every: bool, raising: bool) -> bool:
        """False where another gateway, or another task of this one, has done the same meanwhile."""
        turn = await self._store.turn()
        due_before = self._store.now() - self._pace.landing
        counts = [
            count
            for count in await self._store.audit(limits)
            if count.since > count.starts_at and (every or not count.based or count.since <= due_before)
        ]
        async with self._database.read() as session:
            used = await _used(session, counts, self._zone)
            late = await self._store.late()
            landed = await ledger.landed(session, late) if late else ()
        bases = [Base(count, used[index]) for index, count in enumerate(counts)]
        return await self._store.rebase(bases, list(landed), turn, raising=raising)

    async def _look_for_losses(self) -> None:
        """Every call settles before its row lands, so a counter below the sum of its rows has lost something. So has
        one that was never counted up, as another program's key in its place is."""
        counts = await self._store.audit(self.limits)
        async with self._database.read() as session:
            used = await _used(session, [count._replace(since=math.inf) for count in counts], self._zone)
        now = {count.limit: count for count in await self._store.audit(self.limits)}
        short = [
            count.limit
            for count, sum_of_rows in zip(counts, used, strict=True)
            if now[count.limit].starts_at == count.starts_at
            and (now[count.limit].settled < sum_of_rows or not now[count.limit].based)
        ]
        if short:
            logger.warning("Counters have lost something; they are set by the ledger.", extra={"limits": len(short)})
            await self._draw_the_line(short)

    async def _rebuild(self) -> None:
        """Fill an empty store, or wait until another gateway has; either way say what runs here."""
        mine = await self._store.begin_rebuild()
        await self._hold_all_again()
        if not mine:
            return
        logger.warning("The counter store is empty or another installation's; it is rebuilt from the ledger.")
        await self._cut(self.limits)
        await asyncio.sleep(0 if self._alone else self._pace.gather)
        await self._flush_soon()
        await self._base(self.limits, every=True)
        if await self._store.end_rebuild():
            self._state = "open"
            self._doubt = False
            logger.warning("The counters are rebuilt.", extra={"limits": len(self.limits)})

    async def _hold_all_again(self) -> None:
        if self._remind is not None:
            await self._remind()
        for call in self._running():
            if call.claims:
                await self._hold_again(call)

    async def _hold_again(self, call: Call) -> None:
        """Safe at any moment: an id that has settled holds nothing."""
        await self._store.hold(call.request_id, call.claims, LEASE_S, call.created_at)

    async def _flush_soon(self) -> None:
        """Let rows land that are on their way; those that do not make it are counted by a later round."""
        try:
            await asyncio.wait_for(self._flush(), self._pace.flush)
        except TimeoutError:
            logger.info("Ledger rows are still on their way; a later round counts them.")


async def _used(session: AsyncSession, counts: Sequence[Count], zone: tzinfo) -> list[int]:
    """What the ledger says that each counter's subject used before its line."""
    spans = [ledger.Span(each.limit, each.starts_at, None if each.since == math.inf else each.since) for each in counts]
    return [max(-_MOST, min(_MOST, amount)) for amount in await ledger.used(session, spans, zone)]


def _name(limit: Limit) -> _Name:
    return limit.scope, limit.subject, limit.metric, limit.window

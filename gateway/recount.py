"""Keeps counters equal to the ledger, of which they are a cache.

Whoever begins to count a limit draws a line: what calls created before it have used is the ledger's to say, what later
ones use is posted as they settle. Behind the line the ledger is asked again and again, until the last call from before
it has ended and its row has landed; every answer is absolute and set at once, so that any number of gateways may ask.
Whatever may have cost a counter something (a store that restarted, a journal that was adopted, settlements that could
not be delivered) is answered by drawing the line again.

A store that has forgotten something grants nothing until it is rebuilt. One gateway does that, when all on the roll
have told what they know: what they run is held again, and every call that they had settled before has its row.
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
from gateway.roll import Roll
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
    settled; one that takes longer is counted by a later round. Whoever rebuilds a store asks every `ask` whether all
    gateways have told what they know, for `patience` at most: what one that stands still for so long knew is counted
    by a later round too.
    """

    ahead: float = 5.0
    clocks_apart: float = 2.5
    pulse: float = 0.25
    quick: float = 2.0
    slow: float = 60.0
    fresh: float = 120.0
    landing: float = 1.0
    ask: float = 0.05
    patience: float = LEASE_S
    flush: float = 2.0


class Recount:
    """The recount of one process. `running` are its calls under way; `flush` waits until what it has noted so far is
    in the ledger. `alone` says that no other process shares the store; of those that do, `roll` knows. `adopt` brings
    in what dead ones have left. `remind` tells whoever else keeps something in the store that it has forgotten."""

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
        roll: Roll | None = None,
        adopt: Callable[[], Awaitable[None]] | None = None,
        remind: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._database = database
        self._zone = zone
        self._running = running
        self._flush = flush
        self._alone = alone
        self._pace = pace
        self._roll = roll
        self._adopt = adopt
        self._remind = remind
        self._answered = ""
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
        if self._state != "open":
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
        """Be on the roll, and return when the store is open, rebuilt where it was lost. Raises `StoreUnavailable` and
        `DatabaseUnavailable`."""
        if self._roll is not None:
            await self._roll.sign()
        while not await self._is_open():  # noqa: ASYNC110  a store tells nobody when it opens
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
        if not await self._is_open():
            return
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + self._pace.quick
            await self._look_for_changes()
        if self._doubt:
            await self._draw_the_line(self.limits)
            self._doubt = False
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

    async def _draw_the_line(self, limits: Sequence[Limit], *, raising: bool = True) -> None:
        """What stood before the line stands in for the ledger's part, unless the ledger knows of more: a counter that
        nobody kept, or a store that forgot, says too little."""
        await self._cut(limits)
        await self._flush_soon()
        await self._base(limits, every=True, raising=raising)

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

    async def _is_open(self) -> bool:
        """Whether the store counts. One that does not is rebuilt, here or by another gateway, which is told what this
        one knows."""
        self._state = await self._store.pulse()
        if self._state != "open" and not await self._rebuild():
            self._state = await self._store.pulse()  # which tells what another has begun
            await self._answer()
        return self._state == "open"

    async def _rebuild(self) -> bool:
        """Set a store that has forgotten something by the ledger, unless another gateway does."""
        suspect = self._state == "suspect"
        if not await self._store.begin_rebuild():
            return False
        logger.warning(
            "The counter store may have forgotten something; it is rebuilt from the ledger."
            if suspect
            else "The counter store is empty or another installation's; it is rebuilt from the ledger."
        )
        if not await self._all_have_answered():
            return False
        await self._draw_the_line(self.limits, raising=suspect)
        if not await self._store.end_rebuild():
            return False
        self._state = "open"
        self._doubt = False
        logger.warning("The counters are rebuilt.", extra={"limits": len(self.limits)})
        return True

    async def _all_have_answered(self) -> bool:
        """Wait until all gateways have told what they know, this one too. False where another has taken over."""
        if self._roll is None:
            return True
        began = time.monotonic()
        await self._answer()
        while silent := await self._roll.silent(self._store.rebuild):
            waited = time.monotonic() - began
            if waited > self._pace.patience:
                logger.warning("Gateways do not tell what they know; it is counted later.", extra={"journals": silent})
                break
            await asyncio.sleep(self._pace.ask)
            if self._adopt is not None and waited > self._pace.pulse:  # whoever lives has noticed by now
                await self._adopt()
            if not await self._store.begin_rebuild():  # for more time
                return False
            await self._answer()
        return True

    async def _answer(self) -> None:
        """Tell whoever rebuilds the store what is known here: a call that runs is held again, one that had ended has
        its row, and one that ends from now on is kept by its name. So none is missing, in whatever order they come."""
        rebuild = self._store.rebuild
        if not rebuild or rebuild == self._answered or self._roll is None:
            return
        await self._hold_all_again()
        if await self._flush_soon():
            await self._roll.tell(rebuild)
            self._answered = rebuild

    async def _hold_all_again(self) -> None:
        if self._remind is not None:
            await self._remind()
        calls = [call for call in self._running() if call.claims]
        for start in range(0, len(calls), _CHUNK):
            await asyncio.gather(*map(self._hold_again, calls[start : start + _CHUNK]))

    async def _hold_again(self, call: Call) -> None:
        """Safe at any moment: an id that has settled holds nothing."""
        await self._store.hold(call.request_id, call.claims, LEASE_S, call.created_at)

    async def _flush_soon(self) -> bool:
        """Let rows land that are on their way. False where they did not make it: a later round counts them."""
        try:
            await asyncio.wait_for(self._flush(), self._pace.flush)
        except TimeoutError:
            logger.info("Ledger rows are still on their way; a later round counts them.")
            return False
        return True


async def _used(session: AsyncSession, counts: Sequence[Count], zone: tzinfo) -> list[int]:
    """What the ledger says that each counter's subject used before its line."""
    spans = [ledger.Span(each.limit, each.starts_at, None if each.since == math.inf else each.since) for each in counts]
    return [max(-_MOST, min(_MOST, amount)) for amount in await ledger.used(session, spans, zone)]


def _name(limit: Limit) -> _Name:
    return limit.scope, limit.subject, limit.metric, limit.window

"""A gateway's life: what starts before the first call, runs beside the calls, and ends after the last."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial

from gateway.checks import Checks
from gateway.core.limits import NOTHING
from gateway.core.ports import StoreUnavailable
from gateway.ledger.delivery import SinkUnavailable
from gateway.local import LocalServer
from gateway.quotas.memory import MemoryStore
from gateway.recount import REVISION, Recount
from gateway.reserve import LEASE_S
from gateway.roll import BEAT_S, Roll
from gateway.services import Services
from gateway.settings.compile import Snapshot
from gateway.settings.watch import Watcher
from gateway.storage import daily, revisions
from gateway.storage import ledger as ledger_table
from gateway.storage.errors import DatabaseUnavailable
from gateway.storage.settings import installation

logger = logging.getLogger("aidock.background")

_TICK_S = 1.0
_RENEW_S = LEASE_S / 4
_FLUSH_S = 10.0
_GC_THRESHOLDS = (10_000, 20, 50)


class Background:
    """Starts, keeps and ends what serves the calls without being part of one."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tasks: list[asyncio.Task[None]] = []
        snapshot = services.reloader.current
        self._watcher = Watcher(services.reloader) if snapshot.origin else None
        alone = isinstance(services.counters, MemoryStore)
        self._roll = None if alone else Roll(services.database, services.journal.path.name)
        self._recount = services.recount = Recount(
            services.counters,
            services.database,
            snapshot.zone,
            running=lambda: services.relay.running,
            flush=services.writer.flush,
            alone=alone,
            roll=self._roll,
            adopt=self._adopt,
            remind=services.answers.remind,
        )
        self._waiting: Snapshot | None = None
        self._changed = asyncio.Event()
        self._door: LocalServer | None = None
        if isinstance(services.counters, MemoryStore):
            self._door = LocalServer(
                services.data,
                services.counters,
                running=lambda: [call.request_id for call in services.relay.running],
                recount=self._recount.recount,
                health=lambda: [services.health.facts(target) for target in services.targets()],
            )

    async def start(self) -> None:
        """Everything up, in the order of need; the gateway is ready when this returns."""
        services = self._services
        await services.writer.start()
        await services.counters.start(await self._look_at_the_database())
        services.adopter.on_ended = self._let_go
        if self._roll is not None:
            services.adopter.on_gone = self._roll.strike
        await services.adopter.adopt()
        await services.answers.start()
        services.directory.before_limits = partial(self._recount.prepare, "console")
        await services.directory.refresh()
        await self._enforce(services.reloader.current)
        await self._recount.begin()
        await self._open_door()
        services.adopter.on_adopted = services.writer.on_lost = self._recount.doubt
        await services.adopter.start()
        await services.shadow.start()
        services.reloader.on_change(self._reloaded)
        self._keep("directory", services.directory.run())
        self._keep("counters", self._recount.run())
        self._keep("limits", self._enforce_the_newest())
        self._keep("leases", self._every(_RENEW_S, self._renew))
        checks = Checks(services.health, services.targets, lambda: services.world.carriers)
        self._keep("checks", checks.run())
        if self._roll is not None:
            self._keep("roll", self._every(BEAT_S, self._beat))
        self._keep("gauges", self._every(_TICK_S, self._publish))
        if self._watcher is not None:
            self._keep("config", self._watcher.run())
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not in the main thread: no signals
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, services.reloader.reload)
        _settle_memory()
        services.started = True

    async def stop(self) -> None:
        """Settle what is left and let go of everything, whatever state it is in."""
        services = self._services
        services.relay.close_books()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in (
            services.answers.close,
            services.conversations.close,
            services.kept.close,
            self._close_counters,
            services.adopter.close,
            services.shadow.close,
            self._flush,
            services.writer.close,
            services.journal.close,
            services.directory.close,
            self._close_door,
            services.database.close,
        ):
            try:
                await end()
            except Exception:
                # What ends badly must not keep the rest from being written down.
                logger.exception("a part of the gateway did not end well")
        services.close_transports()
        services.log.close()

    async def _close_counters(self) -> None:
        if not await self._services.counters.close():
            await self._ask_for_a_recount()

    async def _flush(self) -> None:
        try:
            await asyncio.wait_for(self._services.writer.flush(), _FLUSH_S)
        except TimeoutError:
            logger.warning("the ledger database is away; the journal keeps its rows for the next start")
        else:
            if self._roll is not None:
                await self._roll.leave()

    async def _close_door(self) -> None:
        if self._door is not None:
            await self._door.close()

    def _keep(self, name: str, work: Awaitable[None]) -> None:
        self._tasks.append(asyncio.create_task(_logged(name, work), name=name))

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except Exception:
                # One bad turn must not end a job that the next turn can do.
                logger.exception("a background job failed and goes on")

    async def _renew(self) -> None:
        with contextlib.suppress(StoreUnavailable):  # told and logged by whoever needs an answer; leases last longer
            await self._recount.keep()

    async def _beat(self) -> None:
        if self._roll is not None:
            with contextlib.suppress(DatabaseUnavailable):  # nobody is struck off while nobody can beat
                await self._roll.beat()

    async def _adopt(self) -> None:
        """While somebody waits for what gateways knew, look at once whether one of them is dead. Where that cannot be
        done now it is tried again by whoever waits, and in the background."""
        with contextlib.suppress(SinkUnavailable):
            await self._services.adopter.adopt()

    def _let_go(self, request_id: str) -> None:
        """A dead gateway's call holds nothing any more; what it used is counted from the ledger."""
        counters = self._services.counters
        counters.settle(request_id, (), counters.now(), NOTHING)

    async def _open_door(self) -> None:
        """Let commands on this machine ask about counters that only this process has. Raises `LocalInUse` where
        another gateway counts by itself in this data directory: each would grant the whole limit."""
        if self._door is not None:
            try:
                await self._door.start()
            except OSError as error:
                logger.warning("commands cannot ask about the counters", extra={"reason": str(error)})

    async def _ask_for_a_recount(self) -> None:
        """Tell the gateways that go on with these counters that some of our settlements are missing from them."""
        try:
            async with self._services.database.write() as session:
                await revisions.bump(session, REVISION)
        except DatabaseUnavailable:
            logger.warning("the counters lack settlements; the next start counts them from the ledger")

    async def _publish(self) -> None:
        self._services.publish()

    async def _look_at_the_database(self) -> str:
        """See that days are those of the time zone; the name by which a counter store knows whose counters it has."""
        snapshot = self._services.reloader.current
        async with self._services.database.write() as session:
            if await daily.follow_zone(session, snapshot.zone):
                logger.warning(
                    "the daily sums were made anew for another time zone", extra={"zone": str(snapshot.zone)}
                )
            return await installation(session)

    def _reloaded(self, snapshot: Snapshot) -> None:
        """Serve by a new snapshot at once; enforce its limits when they are counted up."""
        self._services.apply(snapshot)
        self._waiting = snapshot
        self._services.limits_in_force = False
        self._changed.set()

    async def _enforce_the_newest(self) -> None:
        """Bring limits and prices of the newest snapshot into the books, however long the database is away."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while (snapshot := self._waiting) is not None:
                try:
                    await self._enforce(snapshot)
                except (DatabaseUnavailable, StoreUnavailable) as error:
                    logger.warning("new limits wait to be counted up", extra={"reason": str(error)})
                    await asyncio.sleep(_TICK_S)
                    continue
                if self._waiting is snapshot:
                    self._waiting = None
                    self._services.limits_in_force = True

    async def _enforce(self, snapshot: Snapshot) -> None:
        await self._recount.prepare("file", snapshot.limits)
        self._services.file_limits = snapshot.limits
        await self._remember_prices()

    async def _remember_prices(self) -> None:
        """Keep every price version that rows may name, so that a row's cost can be checked later."""
        models = self._services.world.snapshot.models.values()
        prices = [price for model in models for _, price in model.prices.entries]
        async with self._services.database.write() as session:
            await ledger_table.remember_prices(session, prices, time.time())


def _settle_memory() -> None:
    """Take what start-up built out of the garbage collector's rounds: it stays, and walking it again and again costs
    a few per cent of every call."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


async def _logged(name: str, work: Awaitable[None]) -> None:
    try:
        await work
    except asyncio.CancelledError:
        raise
    except Exception:
        # Nobody awaits a task before the end; told only then, a defect in it would be told too late.
        logger.exception("a background task ended", extra={"task": name})

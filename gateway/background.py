"""A gateway's life: what starts before the first call, runs beside the calls, and ends after the last."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Iterable

from gateway.core.limits import Limit
from gateway.pipeline import LEASE_S
from gateway.quotas.memory import MemoryStore
from gateway.quotas.windows import Calendar
from gateway.seeding import Seeder
from gateway.services import Services
from gateway.settings.compile import Snapshot
from gateway.settings.watch import Watcher
from gateway.storage import ledger as ledger_table

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
        self._seeder: Seeder | None = None
        if isinstance(services.counters, MemoryStore):
            calendar = Calendar(snapshot.zone)
            self._seeder = Seeder(services.database, services.counters, calendar, services.writer.flush)

    async def start(self) -> None:
        """Everything up, in the order of need; the gateway is ready when this returns."""
        services = self._services
        await services.writer.start()
        await services.adopter.adopt()
        await services.counters.start()
        services.directory.before_limits = self._prepare
        await services.directory.refresh()
        await self._enforce(services.reloader.current)
        await services.adopter.start()
        services.reloader.on_change(self._reloaded)
        self._keep("directory", services.directory.run())
        self._keep("leases", self._every(_RENEW_S, self._renew))
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
        await services.counters.close()
        await services.adopter.close()
        try:
            await asyncio.wait_for(services.writer.flush(), _FLUSH_S)
        except TimeoutError:
            logger.warning("the ledger database is away; the journal keeps its rows for the next start")
        await services.writer.close()
        await services.journal.close()
        await services.directory.close()
        await services.database.close()
        services.close_transports()
        services.log.close()

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
        running = self._services.relay.running
        if running:
            await self._services.counters.renew(running, LEASE_S)

    async def _publish(self) -> None:
        self._services.publish()

    async def _prepare(self, limits: Iterable[Limit], origin: str = "console") -> None:
        if self._seeder is not None:
            await self._seeder.prepare(origin, limits)

    def _reloaded(self, snapshot: Snapshot) -> None:
        """Serve by a new snapshot at once; enforce its limits when they are counted up."""
        self._services.apply(snapshot)
        task = asyncio.create_task(_logged("limits", self._enforce(snapshot)), name="limits")
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)

    async def _enforce(self, snapshot: Snapshot) -> None:
        await self._prepare(snapshot.limits, "file")
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
        logger.exception("a background task ended", extra={"task": name})

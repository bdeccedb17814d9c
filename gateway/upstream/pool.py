"""Keep-alive connections to one origin."""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from dataclasses import dataclass

from gateway.core.upstream import Origin, UpstreamFailure
from gateway.upstream.connection import Connection
from gateway.upstream.dial import dial
from gateway.upstream.origin import describe
from gateway.upstream.proxies import Proxy
from gateway.upstream.request import addressing


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Connections per origin, and seconds an unused one is kept."""

    connections: int = 1000
    idle: int = 256
    keep_alive: float = 60.0


class Pool:
    """Hands out the connection used last, so that those not needed grow old and go.

    A slot is the right to have a connection, open or opening. Whoever waits for one is served in order, with a
    connection that came free or with a slot to open one.
    """

    __slots__ = (
        "_idle",
        "_limits",
        "_open",
        "_slots",
        "_waiters",
        "addressing",
        "keep_alive",
        "name",
        "origin",
        "proxy",
        "tls",
    )

    def __init__(self, origin: Origin, proxy: Proxy | None, tls: ssl.SSLContext | None, limits: PoolLimits) -> None:
        self.origin = origin
        self.proxy = proxy
        self.tls = tls
        self.addressing = addressing(origin, proxy)
        self.name = describe(origin)
        self.keep_alive = limits.keep_alive
        self._limits = limits
        self._idle: dict[Connection, None] = {}
        self._open: set[Connection] = set()
        self._slots = 0
        self._waiters: OrderedDict[asyncio.Future[Connection | None], None] = OrderedDict()

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def active(self) -> int:
        return len(self._open) - len(self._idle)

    @property
    def unused(self) -> bool:
        return not self._slots and not self._waiters

    def take(self) -> Connection | None:
        """The idle connection used last that is still good, without waiting."""
        idle = self._idle
        while idle:
            connection, _ = idle.popitem()
            if connection.alive():
                return connection
            connection.drop()
        return None

    async def open(self, patience: float) -> Connection:
        """A new connection, or one that comes free while there is no room for a new one.

        Raises `UpstreamFailure`, always unsent. `patience`, in seconds, covers the wait for room, the name, the
        proxy and TLS.
        """
        try:
            async with asyncio.timeout(patience):
                return await self._slot() or await self._dial()
        except TimeoutError:
            raise UpstreamFailure("connect_timeout", f"{self.name}: no connection in time", unsent=True) from None

    def release(self, connection: Connection) -> None:
        """Take a connection back that is clean."""
        if connection.closed:
            return
        if len(self._idle) >= self._limits.idle and not self._waiters:
            connection.drop()
            return
        connection.park()
        if not self._hand_over(connection):
            self._idle[connection] = None

    def take_late(self, opening: asyncio.Task[Connection]) -> None:
        """Keep what an `open` brought that nobody waits for any more."""
        if not opening.cancelled() and opening.exception() is None:
            self.release(opening.result())

    def forget(self, connection: Connection) -> None:
        """A connection is gone: its slot is free. One that never opened still has its dialler to free the slot."""
        self._idle.pop(connection, None)
        if connection in self._open:
            self._open.discard(connection)
            self._free_slot()

    def close(self) -> None:
        """Drop every connection, those in use too: their exchanges fail."""
        for connection in tuple(self._open):
            connection.cut("the gateway is closing its connections")

    async def _slot(self) -> Connection | None:
        while self._slots >= self._limits.connections:
            connection = await self._turn()
            if connection is None or connection.alive():
                return connection
            connection.drop()
        self._slots += 1
        return None

    async def _turn(self) -> Connection | None:
        turn: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiters[turn] = None
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiters.pop(turn, None)
            else:  # served and cancelled at the same time
                self._give_back(turn.result())
            raise

    def _give_back(self, handed: Connection | None) -> None:
        if handed is None:
            self._free_slot()
        else:
            self.release(handed)

    def _hand_over(self, connection: Connection | None) -> bool:
        while self._waiters:
            turn, _ = self._waiters.popitem(last=False)
            if not turn.done():
                turn.set_result(connection)
                return True
        return False

    def _free_slot(self) -> None:
        if not self._hand_over(None):
            self._slots -= 1

    async def _dial(self) -> Connection:
        connection = Connection(self, asyncio.get_running_loop(), self.name)
        try:
            await dial(self.origin, self.proxy, self.tls, connection)
        except BaseException:
            self._free_slot()
            raise
        self._open.add(connection)
        if connection.closed:
            self.forget(connection)
            raise UpstreamFailure("connect", f"{self.name}: closed as soon as it was open", unsent=True)
        return connection

"""Commands to a counter store over one connection: in order, in batches, delivered or answered for.

Calls of one turn of the event loop share a batch, and while a batch is on its way the next one gathers, so load makes
batches bigger instead of more. One task owns the connection; a caller that is cancelled never touches it.

A command is either awaited, and then answered or failed within `decision_s`, or sooner where its caller has less time,
or posted, and then delivered however long it takes. Either may be sent more than once: commands carry a request id and
apply once.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

from gateway.core.ports import DECISION_S, StoreUnavailable
from gateway.quotas.patience import Patience

SHORTEST_TRY_S = 0.04
HARDLY_S = 0.02
"""A caller with so much less time than `decision_s` needs no timer of its own."""
TRIES = 3
BATCH = 256
BACKLOG = 50_000
REFUSALS = 120
PAUSES_S = (0.01, 0.04, 0.1, 0.2)
"""Between tries: the first two for a connection that broke, the later ones until a store that is down comes back."""
PARKED_S = 0.5

log = logging.getLogger("aidock.quotas")

Reply = list[bytes | int]


class LinkBroken(Exception):
    """The connection failed or answered what was not asked; it has been dropped. Commands may have been applied."""


class StoreChanged(LinkBroken):
    """Another server answers than before, or the same one after a restart: what waits for an answer was asked of one
    that remembered, and is not to be asked of this one."""


class Refused(Exception):
    """The store answered a command with an error, and applied nothing of it."""


class Command:
    """One script call. `tag` comes back as the first item of its reply; `packed` is what goes over the wire, made by
    the caller, so that what cannot be packed fails there. `reply` is None for a posted command."""

    __slots__ = ("arguments", "deadline", "packed", "refusals", "reply", "script", "sent", "tag")

    def __init__(self, script: str, tag: str, arguments: tuple[str | int, ...], packed: bytes) -> None:
        self.script = script
        self.tag = tag
        self.arguments = arguments
        self.packed = packed
        self.reply: asyncio.Future[Reply] | None = None
        self.deadline = 0.0
        self.sent = False
        self.refusals = 0


class Link(Protocol):
    """The connection as the batcher needs it."""

    async def exchange(self, commands: Sequence[Command], within_s: float) -> Sequence[Reply | Refused]:
        """Send all, connecting first where needed, and read a reply for each; without commands, only see that the
        store answers. Raises `TimeoutError` after `within_s` and `LinkBroken`; either way the connection is gone."""

    async def refresh(self, within_s: float) -> object:
        """Ask the store anew what it is. Raises as `exchange` does."""

    async def close(self) -> None: ...


class Batcher:
    """Owns a link. When the store is silent or stays broken it is `down`: awaited commands fail at once, without
    being sent, and one probe at a time finds out when it is back. `lossy` once a posted command had to be dropped,
    until somebody who has made up for it says otherwise."""

    def __init__(self, link: Link, decision_s: float = DECISION_S) -> None:
        self._link = link
        self._decision_s = decision_s
        self._queue: deque[Command] = deque()
        self._parked: list[Command] = []
        self._bell = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._overflowed = 0
        self._closing = False
        self._looking = False
        self.down = False
        self.lossy = False

    def start(self) -> None:
        self._closing = False
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self, within_s: float) -> bool:
        """Deliver what was posted, then let the connection go. Commands that wait for an answer still get it. False
        where something posted was lost and nobody has made up for it."""
        self._closing = True
        self._bell.set()
        if self._task is not None:
            _, late = await asyncio.wait((self._task,), timeout=within_s)
            for task in late:
                task.cancel()
                await asyncio.wait((task,))
            if not self._task.cancelled() and (defect := self._task.exception()) is not None:
                log.error("The counter store's deliveries had stopped.", exc_info=defect)
            self._task = None
        undelivered = self._posted()
        if undelivered:
            self.lossy = True
            log.error(
                "Settlements could not be delivered before the end; they are counted from the ledger.",
                extra={"count": len(undelivered)},
            )
        self._queue.clear()
        self._parked.clear()
        await self._link.close()
        return not self.lossy

    async def call(self, command: Command, by: float | None = None) -> Reply:
        """Send and wait, until the monotonic moment `by` at the latest. Raises `StoreUnavailable`; `command.sent` then
        tells whether it may have been applied."""
        if self.down or self._closing or self._task is None or self._task.done():
            raise StoreUnavailable("the counter store is down")
        if len(self._queue) >= BACKLOG:
            raise StoreUnavailable("too many calls wait for the counter store")
        left = self._decision_s if by is None else by - time.monotonic()
        if left <= 0:
            raise StoreUnavailable("no time is left to ask the counter store")
        loop = self._task.get_loop()
        command.reply = loop.create_future()
        command.deadline = loop.time() + self._decision_s
        self._enqueue(command)
        if left > self._decision_s - HARDLY_S:
            return await command.reply
        # Only its caller gives up: the store has until the command's deadline before it counts as silent.
        with Patience(left, partial(self._fail_waiting, (command,), "the counter store did not answer in time")):
            return await command.reply

    def post(self, command: Command) -> None:
        """Send until it is taken."""
        if len(self._queue) + len(self._parked) < BACKLOG:
            self._enqueue(command)
            return
        self.lossy = True
        self._overflowed += 1
        if self._overflowed == 1:
            log.error("The counter store has been away too long; the ledger must make up for it.")

    def look(self) -> None:
        """Have the link ask the store what it is, before what is called from now on."""
        self._looking = True

    def _enqueue(self, command: Command) -> None:
        self._queue.append(command)
        if not self._bell.is_set():
            self._bell.set()

    async def _run(self) -> None:
        try:
            while not self._is_finished():
                if self._looking and not self.down:
                    await self._look()
                batch = self._take()
                if batch or self.down:
                    await self._deliver(batch)
                else:
                    self._bell.clear()
                    await self._bell.wait()
        finally:
            self._fail_waiting(self._queue, "nothing is delivered to the counter store any more")

    async def _look(self) -> None:
        self._looking = False
        try:
            await self._link.refresh(self._decision_s)
        except (TimeoutError, LinkBroken) as error:
            await self._fall_back([], error)

    def _is_finished(self) -> bool:
        return self._closing and not self._queue and not self._parked

    def _take(self) -> list[Command]:
        """The next batch, in order, without those whose caller has gone."""
        batch: list[Command] = []
        queue = self._queue
        while queue and len(batch) < BATCH:
            command = queue.popleft()
            if command.reply is None or not command.reply.done():
                batch.append(command)
        return batch

    async def _deliver(self, batch: list[Command]) -> None:
        try:
            replies = await self._link.exchange(batch, self._patience(batch))
        except (TimeoutError, LinkBroken) as error:
            await self._fall_back(batch, error)
            return
        except Exception as error:
            # A defect in the library must cost a try, not every settlement to come.
            log.exception("The connection to the counter store failed in an unknown way.")
            await self._fall_back(batch, error)
            return
        except BaseException:
            self._queue.extendleft(reversed(batch))
            raise
        if self.down:
            log.warning("The counter store answers again.")
            self.down = False
        self._failures = self._overflowed = 0
        for command, reply in zip(batch, replies, strict=True):
            if isinstance(reply, Refused):
                self._refused(command, reply)
            elif command.reply is not None and not command.reply.done():
                command.reply.set_result(reply)

    def _patience(self, batch: list[Command]) -> float:
        """Until the first caller in the batch must know. Later ones have at least that much time left."""
        for command in batch:
            if command.reply is not None and self._task is not None:
                return max(SHORTEST_TRY_S, command.deadline - self._task.get_loop().time())
        return self._decision_s

    async def _fall_back(self, batch: list[Command], error: Exception) -> None:
        """Keep the batch for the next try, unless the store is silent or has failed too often: then tell everybody
        who waits, also those behind, who would only wait longer, and keep what was posted."""
        self._queue.extendleft(reversed(batch))
        self._failures += 1
        if isinstance(error, (TimeoutError, StoreChanged)) or self._failures >= TRIES:
            if not self.down:
                log.warning("The counter store does not answer.", extra={"reason": str(error) or "timeout"})
            self.down = True
            waiting = [command for command in self._queue if command.reply is not None]
            self._queue = deque(command for command in self._queue if command.reply is None)
            self._fail_waiting(waiting, "the counter store did not answer")
        await asyncio.sleep(PAUSES_S[min(self._failures, len(PAUSES_S)) - 1])

    def _refused(self, command: Command, error: Refused) -> None:
        """A posted command is tried again later, aside, so that it cannot hold up the others."""
        if command.reply is not None:
            self._fail_waiting((command,), f"the counter store refused: {error}")
            return
        command.refusals += 1
        if command.refusals >= REFUSALS:
            self.lossy = True
            log.error("A settlement was refused too often and is dropped.", extra={"request_id": command.tag})
            return
        if not self._parked and self._task is not None:
            self._task.get_loop().call_later(PARKED_S, self._unpark)
        self._parked.append(command)

    def _unpark(self) -> None:
        self._queue.extend(self._parked)
        self._parked.clear()
        self._bell.set()

    def _posted(self) -> list[Command]:
        return [command for command in itertools.chain(self._queue, self._parked) if command.reply is None]

    @staticmethod
    def _fail_waiting(commands: Iterable[Command], reason: str) -> None:
        for command in commands:
            if command.reply is not None and not command.reply.done():
                command.reply.set_exception(StoreUnavailable(reason))

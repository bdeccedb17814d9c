"""Counters for commands: those of Redis, or those inside a gateway on this machine, asked over a socket.

A gateway that counts in its own memory listens at `control.sock` in its data directory, for its own user only: one
line of JSON in, one line out. Where no gateway runs there are no counters in memory, and the ledger answers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import tzinfo
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from gateway.core.limits import Count, Level, Limit
from gateway.core.ports import RecountableStore, StoreUnavailable
from gateway.local_socket import LOCK_NAME, SOCKET_NAME, connect, listener, take_lock
from gateway.quotas.connect import counter_store
from gateway.quotas.windows import bucket_at
from gateway.recount import Recount
from gateway.settings.compile import Snapshot
from gateway.settings.load import Document
from gateway.settings.schema import MEMORY
from gateway.storage import ledger, settings
from gateway.storage.engine import Database

logger = logging.getLogger("aidock.local")

MAX_LINE = 1024 * 1024
"""Bytes of a question; an answer may be a few times that."""

DEADLINE_S = 30.0
"""From the connection to the answer."""

_MAX_ANSWER = 16 * MAX_LINE
_MAX_CLIENTS = 16
_FILLED_S = 3.0
_PULSE_S = 0.25
_CHUNK = 1000
"""Limits asked about at once, which keeps a question within its bound."""

T = TypeVar("T")


class Counters(Protocol):
    """Counters as commands see them. Every verb raises `StoreUnavailable`."""

    async def peek(self, limits: Sequence[Limit]) -> Sequence[Level]:
        """Where limits stand."""

    async def audit(self, limits: Sequence[Limit]) -> Sequence[Count]:
        """The counters themselves; none where no process has counters."""

    async def recount(self, limits: Sequence[Limit]) -> None:
        """Count these, and whatever else is counted, anew from the ledger."""

    async def running(self) -> Sequence[str] | None:
        """The calls under way that these counters know of; None where that is not known."""


class Counting(Protocol):
    """The part of a counter store that the socket serves."""

    async def peek(self, limits: Sequence[Limit]) -> Sequence[Level]: ...

    async def audit(self, limits: Sequence[Limit]) -> Sequence[Count]: ...


class _Question(msgspec.Struct):
    verb: str
    limits: tuple[Limit, ...] = ()


_QUESTION = msgspec.json.Decoder(_Question)
_encode = msgspec.json.Encoder().encode


class LocalServer:
    """Serves the counters of this process. `running` tells the ids of calls under way; `recount` counts every limit
    anew and returns when that is done; `health` tells how deployments fare."""

    def __init__(
        self,
        directory: Path,
        counters: Counting,
        *,
        running: Callable[[], Sequence[str]],
        recount: Callable[[], Awaitable[None]],
        health: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    ) -> None:
        self._directory = directory
        self._counters = counters
        self._running = running
        self._recount = recount
        self._health = health
        self._server: asyncio.Server | None = None
        self._lock = -1
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. A socket that a dead process left is replaced. Raises `LocalInUse` and `OSError`."""
        self._lock = take_lock(self._directory / LOCK_NAME)
        try:
            self._server = await asyncio.start_unix_server(self._accept, sock=listener(self._directory), limit=MAX_LINE)
        except BaseException:
            self._release()
            raise

    async def close(self) -> None:
        """Stop listening; whoever is being answered is cut off."""
        if self._server is None:
            return
        self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        (self._directory / SOCKET_NAME).unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        os.close(self._lock)
        self._lock = -1

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= _MAX_CLIENTS:
            writer.close()
            return
        task = asyncio.create_task(self._serve(reader, writer), name="local-client")
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                writer.write(await self._answer(reader) + b"\n")
                await writer.drain()
        except (TimeoutError, ConnectionError):
            pass  # the client is gone or too slow, and knows
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            question = _QUESTION.decode(await reader.readuntil(b"\n"))
            return _encode({"answer": await self._ask(question)})
        except asyncio.LimitOverrunError:
            while not (await reader.read(MAX_LINE) or b"\n").endswith(b"\n"):
                pass  # one that still sends would not hear the answer
            return _encode({"error": f"a question has at most {MAX_LINE} bytes"})
        except (msgspec.DecodeError, asyncio.IncompleteReadError, UnicodeDecodeError) as error:
            return _encode({"error": f"the question cannot be understood: {error}"})
        except ConnectionError:
            raise
        except Exception as error:
            # Whatever fails in there, the command that asked must hear of it.
            logger.exception("A question on the local socket failed.")
            return _encode({"error": str(error) or type(error).__name__})

    async def _ask(self, question: _Question) -> Any:
        match question.verb:
            case "peek":
                return await self._counters.peek(question.limits)
            case "audit":
                return await self._counters.audit(question.limits)
            case "recount":
                return await self._recount()
            case "running":
                return list(self._running())
            case "health":
                return list(self._health())
        raise ValueError(f"there is no verb {question.verb[:40]!r}")


class LocalCounters:
    """`Counters` of the gateway that listens in a data directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def peek(self, limits: Sequence[Limit]) -> Sequence[Level]:
        return await self._about("peek", limits, list[Level])

    async def audit(self, limits: Sequence[Limit]) -> Sequence[Count]:
        return await self._about("audit", limits, list[Count])

    async def recount(self, limits: Sequence[Limit]) -> None:
        await self._ask(_Question("recount"), type(None))

    async def running(self) -> Sequence[str] | None:
        return await self._ask(_Question("running"), list[str])

    async def health(self) -> list[dict[str, Any]]:
        """How the gateway's deployments fare."""
        return await self._ask(_Question("health"), list[dict[str, Any]])

    async def _about(self, verb: str, limits: Sequence[Limit], shape: type[list[T]]) -> list[T]:
        found: list[T] = []
        for start in range(0, len(limits), _CHUNK):
            found += await self._ask(_Question(verb, tuple(limits[start : start + _CHUNK])), shape)
        return found

    async def _ask(self, question: _Question, shape: type[T]) -> T:
        try:
            async with asyncio.timeout(DEADLINE_S):
                line = await self._exchange(_encode(question))
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            raise StoreUnavailable("The gateway that has the counters does not answer on its socket.") from error
        answer = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
        if "error" in answer:
            raise StoreUnavailable(f"The gateway that has the counters says: {msgspec.json.decode(answer['error'])}.")
        return msgspec.json.decode(answer["answer"], type=shape)

    async def _exchange(self, line: bytes) -> bytes:
        reader, writer = await connect(self._directory, _MAX_ANSWER)
        try:
            writer.write(line + b"\n")
            await writer.drain()
            return await reader.readuntil(b"\n")
        finally:
            writer.close()


class SharedCounters:
    """`Counters` in Redis."""

    def __init__(self, store: RecountableStore, database: Database, zone: tzinfo) -> None:
        self._store = store
        self._database = database
        self._zone = zone

    async def peek(self, limits: Sequence[Limit]) -> Sequence[Level]:
        return await self._store.peek(limits)

    async def audit(self, limits: Sequence[Limit]) -> Sequence[Count]:
        return await self._store.audit(limits) if await self._is_open() else []

    async def recount(self, limits: Sequence[Limit]) -> None:
        if not await self._is_open():
            return  # whoever opens it counts up from the ledger
        recount = Recount(self._store, self._database, self._zone, running=list, flush=_nothing, alone=False)
        await recount.prepare("command", limits)
        await recount.recount()

    async def running(self) -> Sequence[str] | None:
        return await self._store.held()

    async def _is_open(self) -> bool:
        """An empty store has no counters. Where gateways run, one of them is about to fill it."""
        try:
            async with asyncio.timeout(_FILLED_S):
                while await self._store.pulse() in ("lost", "rebuilding"):  # noqa: ASYNC110  Redis tells nobody
                    await asyncio.sleep(_PULSE_S)
        except TimeoutError:
            return False
        return True


class LedgerCounters:
    """`Counters` where there are none: limits stand where the ledger says."""

    def __init__(self, database: Database, zone: tzinfo) -> None:
        self._database = database
        self._zone = zone

    async def peek(self, limits: Sequence[Limit]) -> Sequence[Level]:
        now = time.time()
        buckets = [bucket_at(limit.window, now, self._zone) for limit in limits]
        spans = [
            ledger.Span(limit, bucket.starts_at, bucket.ends_at) for limit, bucket in zip(limits, buckets, strict=True)
        ]
        async with self._database.read() as session:
            used = await ledger.used(session, spans, self._zone)
        return [
            Level(limit, amount, None if bucket.ends_at is None else bucket.ends_at - int(now))
            for limit, amount, bucket in zip(limits, used, buckets, strict=True)
        ]

    async def audit(self, limits: Sequence[Limit]) -> Sequence[Count]:
        return []

    async def recount(self, limits: Sequence[Limit]) -> None:
        """Nothing to do: whoever starts counts up from the ledger."""

    async def running(self) -> Sequence[str] | None:
        return []


class AwayCounters:
    """`Counters` that cannot be reached: whoever asks is told why."""

    def __init__(self, reason: StoreUnavailable) -> None:
        self._reason = reason

    async def peek(self, limits: Sequence[Limit]) -> Sequence[Level]:
        raise self._reason

    async def audit(self, limits: Sequence[Limit]) -> Sequence[Count]:
        raise self._reason

    async def recount(self, limits: Sequence[Limit]) -> None:
        raise self._reason

    async def running(self) -> Sequence[str] | None:
        raise self._reason


@asynccontextmanager
async def counters_or_why_not(document: Document, snapshot: Snapshot, database: Database) -> AsyncIterator[Counters]:
    """The same as `counters_of` for a command that has more to do than to look at counters."""
    async with AsyncExitStack() as stack:
        try:
            counters = await stack.enter_async_context(counters_of(document, snapshot, database))
        except StoreUnavailable as error:
            counters = AwayCounters(error)
        yield counters


@asynccontextmanager
async def counters_of(document: Document, snapshot: Snapshot, database: Database) -> AsyncIterator[Counters]:
    """The counters that gateways with this configuration count on, for a command to look at. Raises
    `StoreUnavailable`."""
    storage = document.settings.storage
    if not storage.counters.startswith(MEMORY):
        store = counter_store(storage.counters, snapshot.zone)
        try:
            async with database.write() as session:
                installation = await settings.installation(session)
            await store.start(installation)
            yield SharedCounters(store, database, snapshot.zone)
        finally:
            await store.close()
    elif await _is_served(Path(storage.data)):
        yield LocalCounters(Path(storage.data))
    else:
        yield LedgerCounters(database, snapshot.zone)


async def health_in(directory: Path) -> list[dict[str, Any]] | None:
    """How the deployments fare of the gateway that listens in a data directory; None where none does. Raises
    `StoreUnavailable`."""
    return await LocalCounters(directory).health() if await _is_served(directory) else None


async def _is_served(directory: Path) -> bool:
    try:
        _, writer = await connect(directory, _MAX_ANSWER)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except OSError as error:
        raise StoreUnavailable(f"The socket of the gateway in {directory} cannot be used: {error.strerror}.") from error
    writer.close()
    return True


async def _nothing() -> None:
    return

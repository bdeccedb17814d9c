"""A TCP proxy in this process that does to connections what a bad network does. Its faults are set while it runs.

async with fault_proxy(server.port) as proxy:
    proxy.latency_s = 0.05
    proxy.cut = 1              # lose the next answer, and its connection
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

CHUNK = 65_536
TICK_S = 0.02

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class FaultProxy:
    """Without a fault it forwards. Faults hold for connections that stand and for those that come; a request is what
    goes to the server, an answer what comes from it, each as it was read from the socket.

    `latency_s`          what passes arrives that much later, each way
    `bytes_per_s`        no more passes, each way and connection; 0 is no bound
    `blackhole`          nothing passes; who connects is accepted and hears nothing. What waits passes when it ends
    `refusing`           who connects is hung up on
    `cut`                so many next answers are lost, each with its connection
    `swallow`            so many next answers are lost in silence
    `drop_reply`         the chance of every answer to be lost with its connection, from a seeded sequence
    `cut_request_after`  after so many bytes of requests the connection is cut, once; None is never
    `cut_answer_after`   the same for bytes of answers
    `cut_after_marker`   after these bytes of requests the connection is cut, once; nothing that follows them passes

    `upstream_port` is where new connections go. `accepted` counts connections, `lost` answers that the server gave and
    the client did not get.
    """

    def __init__(self, port: int, *, seed: int = 0) -> None:
        self.upstream_port = port
        self._chance = random.Random(seed)
        self._passable = asyncio.Event()
        self._passable.set()
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.latency_s = 0.0
        self.bytes_per_s = 0
        self.refusing = False
        self.cut = 0
        self.swallow = 0
        self.drop_reply = 0.0
        self.cut_request_after: int | None = None
        self.cut_answer_after: int | None = None
        self.cut_after_marker = b""
        self.accepted = 0
        self.lost = 0

    @property
    def blackhole(self) -> bool:
        return not self._passable.is_set()

    @blackhole.setter
    def blackhole(self, on: bool) -> None:
        if on:
            self._passable.clear()
        else:
            self._passable.set()

    @property
    def connections(self) -> int:
        """How many stand."""
        return len(self._pairs)

    def reset_all(self) -> None:
        """Reset both ends of every connection."""
        for pair in tuple(self._pairs):
            pair.reset()

    def half_open(self) -> None:
        """Let the server's end of every connection go, and leave the client's as it is: it hears nothing any more."""
        for pair in tuple(self._pairs):
            pair.forsake()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve((reader, writer))
        except asyncio.CancelledError:
            pass  # the proxy closes; 3.11 would log it as an error of the callback that began this task
        finally:
            self._tasks.discard(task)
            await _close(writer)

    async def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, client: Stream) -> None:
        self.accepted += 1
        if self.refusing:
            return
        await self._passable.wait()
        try:
            server = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        except OSError:
            _reset(client[1])
            return
        pair = _Pair(self, client, server)
        self._pairs.add(pair)
        try:
            await pair.run()
        finally:
            self._pairs.discard(pair)
            await _close(server[1])

    # What a pair asks

    async def passing(self, writer: asyncio.StreamWriter, chunk: bytes) -> None:
        """Write it as slowly as things are."""
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        while chunk:
            await self._passable.wait()
            size = len(chunk)
            if self.bytes_per_s:
                size = max(1, int(self.bytes_per_s * TICK_S))
                await asyncio.sleep(min(size, len(chunk)) / self.bytes_per_s)
            writer.write(chunk[:size])
            await writer.drain()
            chunk = chunk[size:]

    def request_end(self, chunk: bytes, before: bytes) -> int | None:
        """Where in the chunk the connection is cut. `before` are the bytes that a marker may have begun in."""
        marker = self.cut_after_marker
        if marker and (found := (before + chunk).find(marker)) >= 0:
            self.cut_after_marker = b""
            return found + len(marker) - len(before)
        end, self.cut_request_after = _counted(self.cut_request_after, chunk)
        return end

    def answer_end(self, chunk: bytes) -> int | None:
        """Where in the chunk the connection is cut."""
        if self.cut or (self.drop_reply and self._chance.random() < self.drop_reply):
            self.cut = max(0, self.cut - 1)
            self.lost += 1
            return 0
        end, self.cut_answer_after = _counted(self.cut_answer_after, chunk)
        return end

    def swallows(self) -> bool:
        """Whether this answer is lost in silence."""
        if not self.swallow:
            return False
        self.swallow -= 1
        self.lost += 1
        return True


class _Pair:
    """A client's connection and its twin to the server."""

    def __init__(self, proxy: FaultProxy, client: Stream, server: Stream) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._forsaken = False

    async def run(self) -> None:
        """Until one of the two ends."""
        ways = [asyncio.create_task(self._requests()), asyncio.create_task(self._answers())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        with contextlib.suppress(OSError):
            while self._forsaken and await self._client[0].read(CHUNK):
                pass  # the client speaks to nobody until it gives up

    def reset(self) -> None:
        _reset(self._client[1])
        _reset(self._server[1])

    def forsake(self) -> None:
        self._forsaken = True
        _reset(self._server[1])

    async def _requests(self) -> None:
        proxy, reader, writer = self._proxy, self._client[0], self._server[1]
        before = b""
        while chunk := await reader.read(CHUNK):
            end = proxy.request_end(chunk, before)
            await proxy.passing(writer, chunk[:end])
            if end is not None:
                return
            keep = max(0, len(proxy.cut_after_marker) - 1)
            before = (before + chunk)[-keep:] if keep else b""

    async def _answers(self) -> None:
        proxy, reader, writer = self._proxy, self._server[0], self._client[1]
        while chunk := await reader.read(CHUNK):
            if proxy.swallows():
                continue
            end = proxy.answer_end(chunk)
            await proxy.passing(writer, chunk[:end])
            if end is not None:
                return


def _counted(left: int | None, chunk: bytes) -> tuple[int | None, int | None]:
    """Where the chunk ends if the count does within it, and what is left of the count."""
    if left is None:
        return None, None
    return (left, None) if left <= len(chunk) else (None, left - len(chunk))


def _reset(writer: asyncio.StreamWriter) -> None:
    end: socket.socket | None = writer.get_extra_info("socket")
    if end is not None and not writer.is_closing():
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def fault_proxy(port: int, *, seed: int = 0) -> AsyncIterator[FaultProxy]:
    """A proxy before what listens on a port of 127.0.0.1, on a port of its own."""
    proxy = FaultProxy(port, seed=seed)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()


lossy_proxy = fault_proxy

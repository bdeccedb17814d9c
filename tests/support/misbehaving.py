"""An upstream that does exactly what a test tells it to, on a real socket.

Each connection plays a script, a list of steps; the last script serves every further connection. When its script is
over a connection is closed with a FIN.

    async with Misbehaving([Expect(), Send(head(length=10) + b"abc"), Reset()]) as upstream:
        ...  # connect to upstream.origin or upstream.url
        assert len(upstream.requests) == 1

Steps: `Expect` a request, `Send` bytes, `Wait`, `Stall` until the peer or the test goes, `Reset`, and `Serve`, which
answers every request alike. A step of a test's own is any object with `async def play(self, peer: Peer) -> None`.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from gateway.core.upstream import Origin


class Step(Protocol):
    async def play(self, peer: Peer) -> None: ...


@dataclass(slots=True)
class Peer:
    """One accepted connection. `requests` are those of the whole upstream, head and body."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    requests: list[bytes]

    async def receive(self, *, with_body: bool = True) -> bytes:
        """The next request, also noted in `requests`. Raises `IncompleteReadError` when the peer leaves."""
        request = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", request, re.IGNORECASE)
        if with_body and length:
            request += await self.reader.readexactly(int(length[1]))
        self.requests.append(request)
        return request

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Close with a RST."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


@dataclass(frozen=True, slots=True)
class Expect:
    """Read one request; only its head when `body` is false."""

    body: bool = True

    async def play(self, peer: Peer) -> None:
        await peer.receive(with_body=self.body)


@dataclass(frozen=True, slots=True)
class Send:
    """Write bytes, at once or in writes of `piece` bytes each."""

    data: bytes
    piece: int | None = None

    async def play(self, peer: Peer) -> None:
        step = self.piece or len(self.data) or 1
        for start in range(0, len(self.data), step):
            await peer.send(self.data[start : start + step])
            await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float

    async def play(self, peer: Peer) -> None:
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True, slots=True)
class Stall:
    """Do nothing, until the peer leaves if it ever does."""

    async def play(self, peer: Peer) -> None:
        while await peer.reader.read(65_536):
            pass


@dataclass(frozen=True, slots=True)
class Reset:
    async def play(self, peer: Peer) -> None:
        peer.reset()


@dataclass(frozen=True, slots=True)
class Serve:
    """Answer every request with the same bytes, on a connection that stays open. `delay` in seconds."""

    response: bytes
    delay: float = 0.0

    async def play(self, peer: Peer) -> None:
        while True:
            await peer.receive()
            await asyncio.sleep(self.delay)
            await peer.send(self.response)


def head(status: int = 200, *, length: int | None = None, chunked: bool = False, extra: bytes = b"") -> bytes:
    """A response head; with neither a length nor chunks the body ends with the connection."""
    framing = b"content-length: %d\r\n" % length if length is not None else b""
    framing += b"transfer-encoding: chunked\r\n" if chunked else b""
    return b"HTTP/1.1 %d Whatever\r\ncontent-type: application/json\r\n%b%b\r\n" % (status, framing, extra)


def ok(body: bytes = b"{}", status: int = 200) -> bytes:
    """A whole response."""
    return head(status, length=len(body)) + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; `chunk(b"")` is the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Misbehaving:
    """A server on 127.0.0.1, on a free port unless it is told one, alive inside `async with`. `requests` holds every
    request that was read whole, in order; `connections` counts those accepted."""

    _server: asyncio.Server

    def __init__(self, *scripts: Sequence[Step], tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.scripts = scripts
        self.tls = tls
        self._port = port
        self.requests: list[bytes] = []
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, ssl=self.tls, limit=2**20)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def origin(self) -> Origin:
        return Origin("https" if self.tls else "http", "127.0.0.1", self.port)

    @property
    def url(self) -> str:
        return f"{self.origin.scheme}://127.0.0.1:{self.port}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self.scripts[min(self.connections, len(self.scripts) - 1)]
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._play(script, Peer(reader, writer, self.requests)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _play(self, script: Sequence[Step], peer: Peer) -> None:
        try:
            for step in script:
                await step.play(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the peer left, which tests provoke on purpose
        finally:
            peer.writer.close()

"""Servers and clients at the level of bytes, for tests of the guard."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from gateway.guard import GuardLimits, guard_protocol

App = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass
class Reply:
    """A response as it was on the wire. `body` has any chunk framing taken off."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        return dict(json.loads(self.body)["error"])


@dataclass
class Guarded:
    """A listening guard with an application behind it."""

    port: int
    state: ServerState = field(repr=False)

    async def connect(self, receive_buffer: int | None = None) -> Peer:
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        except OSError:
            sock.close()
            raise
        return Peer(sock)

    async def ask(self, request: bytes) -> Reply:
        """One request on a connection of its own."""
        peer = await self.connect()
        try:
            await peer.send(request)
            return await peer.reply()
        finally:
            peer.close()


class Peer:
    """The other end: a socket and what it has received but not yet looked at."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = b""

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def more(self) -> bool:
        """Receive something. False at the end of the stream, resets included."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
        except ConnectionError:
            return False
        self.received += data
        return bool(data)

    async def until(self, mark: bytes) -> bytes:
        """Everything up to and including a mark. Raises EOFError when the stream ends before it."""
        while mark not in self.received:
            if not await self.more():
                raise EOFError(self.received)
        end = self.received.index(mark) + len(mark)
        data, self.received = self.received[:end], self.received[end:]
        return data

    async def exactly(self, count: int) -> bytes:
        while len(self.received) < count:
            if not await self.more():
                raise EOFError(self.received)
        data, self.received = self.received[:count], self.received[count:]
        return data

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        while await self.more():
            pass
        data, self.received = self.received, b""
        return data

    async def reply(self, *, bodiless: bool = False) -> Reply:
        head = (await self.until(b"\r\n\r\n")).decode()
        line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        headers = dict(each.split(": ", 1) for each in lines)
        status = int(line.split(" ")[1])
        if bodiless:
            body = b""
        elif "content-length" in headers:
            body = await self.exactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            body = await self._chunks()
        else:
            body = await self.rest()
        return Reply(status, headers, body)

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.until(b"\r\n"), 16):
            body += await self.exactly(size)
            assert await self.exactly(2) == b"\r\n"
        assert await self.exactly(2) == b"\r\n"
        return body

    def close(self) -> None:
        self.sock.close()


@asynccontextmanager
async def guarded(app: App, *, keep_alive: float = 5, **limits: float) -> AsyncIterator[Guarded]:
    """An application behind the guard, on a port of its own."""
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=guard_protocol(GuardLimits(**limits)),  # type: ignore[arg-type]
        log_config=None,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=keep_alive,  # type: ignore[arg-type]
    )
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: config.http_protocol_class(config=config, server_state=state, app_state={}),  # type: ignore[call-arg]
        "127.0.0.1",
        0,
    )
    try:
        yield Guarded(server.sockets[0].getsockname()[1], state)
    finally:
        server.close()
        for connection in list(state.connections):
            connection.abort()  # type: ignore[union-attr]
        await eventually(lambda: not state.connections)


async def eventually(condition: Callable[[], bool], within: float = 20.0) -> float:
    """Wait for a condition; gives the seconds it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < within, "it never came true"
        await asyncio.sleep(0.005)
    return time.monotonic() - started


async def read_body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request", "the client left"
        body += message["body"]
        if not message["more_body"]:
            return body


async def answer(send: Any, body: bytes, status: int = 200, headers: Any = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it was asked."""
    body = await read_body(receive)
    said = {
        "method": scope["method"],
        "path": scope["path"],
        "raw_path": scope["raw_path"].decode(),
        "query": scope["query_string"].decode(),
        "version": scope["http_version"],
        "headers": [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]],
        "body": body.decode("latin-1"),
    }
    await answer(send, json.dumps(said).encode(), headers=[(b"content-type", b"application/json")])

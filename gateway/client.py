"""The caller's side of a call: its body, its answer, and whether it is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from gateway.core.errors import request_too_large
from gateway.core.headers import Headers

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientGone(Exception):
    """The client left before its request was read."""


class Client:
    """One request's ASGI channel.

    A server that offers the extension `aidock.client` calls back when the client leaves, and cuts it off when told to;
    for any other a task waits for the disconnect, and an answer that is not ended is for it to cut. Writing to a client
    that left does nothing.
    """

    __slots__ = ("_on_gone", "_receive", "_send", "_watch", "began", "failed", "gone", "scope")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.gone = False
        self.began = False
        self.failed = False
        self._receive = receive
        self._send = send
        self._on_gone: Callable[[], None] | None = None
        self._watch: asyncio.Task[None] | None = None

    async def body(self, most: int) -> bytes:
        """The request's body. Raises 413 past `most` bytes, `ClientGone` when the client leaves meanwhile."""
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):  # as nearly all of them come
            whole: bytes = message.get("body", b"")
            if len(whole) > most:
                raise request_too_large(_TOO_LARGE.format(most))
            return whole
        return b"".join([piece async for piece in self._pieces(message, most)])

    async def pieces(self, most: int) -> AsyncIterator[bytes]:
        """The request's body as it arrives; the client is not read faster than it is taken. Raises as `body` does."""
        async for piece in self._pieces(await self._receive(), most):
            yield piece

    async def _pieces(self, message: Message, most: int) -> AsyncIterator[bytes]:
        size = 0
        while message["type"] == "http.request":
            piece: bytes = message.get("body", b"")
            size += len(piece)
            if size > most:
                raise request_too_large(_TOO_LARGE.format(most))
            yield piece
            if not message.get("more_body"):
                return
            message = await self._receive()
        raise ClientGone

    def on_gone(self, callback: Callable[[], None], *, before_body: bool = False) -> None:
        """Call back once when the client leaves before its answer is complete; at once if it has left already.

        Over a server without the extension this reads what the client sends, so nobody is called back who asks before
        the body was read."""
        self._on_gone = callback
        peer = self.scope.get("extensions", {}).get("aidock.client")
        if peer is not None:
            peer.on_gone(self._left)
        elif not before_body:
            self._watch = asyncio.create_task(self._wait_for_disconnect())

    async def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer."""
        await self.begin(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.end(body)

    async def begin(self, status: int, headers: Headers) -> None:
        """Status and headers; the body follows by `write` and `end`."""
        self.began = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        """A piece of the body; waits while the client is slow to take it."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """The last piece."""
        self.stop_watching()
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def fail(self, data: bytes) -> None:
        """The last piece of an answer that broke off: it tells so."""
        self.failed = True
        await self.end(data)

    def cut(self) -> None:
        """Break off an answer that has no words for a failure, so that the client cannot take it for whole."""
        self.failed = True
        self.stop_watching()
        peer = self.scope.get("extensions", {}).get("aidock.client")
        if peer is not None:
            peer.cut()

    def tee(self, tap: Callable[[Message], Awaitable[None]]) -> None:
        """Show every message of the answer to `tap` first, and wait for it."""
        send = self._send

        async def shown(message: Message) -> None:
            await tap(message)
            await send(message)

        self._send = shown

    def stop_watching(self) -> None:
        """No longer call back."""
        self._on_gone = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left()

    def _left(self) -> None:
        self.gone = True
        callback, self._on_gone = self._on_gone, None
        if callback is not None:
            callback()


_TOO_LARGE = "The request body is larger than the {} bytes this gateway takes. Send less, or ask its administrator."

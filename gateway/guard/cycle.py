"""One request and its response: the ASGI side of a connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol

from gateway.core.headers import Headers
from gateway.core.ids import new_request_id
from gateway.guard.head import Head
from gateway.guard.response import CHUNKED, CLOSE, KEEP_ALIVE, LAST_CHUNK, frame, render_head
from gateway.guard.scope import Scope

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HIGH_WATER: Final = 64 * 2**10
"""Unread request bytes above which the connection stops reading."""

_BODILESS: Final = frozenset({204, 304})

_log = logging.getLogger("aidock.guard")


class Connection(Protocol):
    """What a cycle asks of the connection it runs on."""

    transport: asyncio.Transport
    write_paused: bool

    async def drained(self) -> None:
        """Wait until the client has taken what was written, or is gone."""

    def body_wanted(self) -> None:
        """The application waits for more of the request's body."""

    def answered(self, cycle: Cycle) -> None:
        """The response is complete."""

    def failed(self, request_id: str) -> None:
        """The application ended without completing its response. The id is the one its log line has."""


class Cycle:
    """Carries a request to the application and its response back.

    It is also the `aidock.client` extension: `gone`, `on_gone` and `cut`.
    """

    __slots__ = (
        "_bodiless",
        "_chunked",
        "_connection",
        "_http11",
        "_left",
        "_on_gone",
        "_pieces",
        "_start",
        "_transport",
        "_waiter",
        "body_complete",
        "complete",
        "expects_continue",
        "gone",
        "keep_alive",
        "started",
        "task",
        "unread",
    )

    def __init__(self, connection: Connection, head: Head) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._http11 = head.version == "1.1"
        self.keep_alive = head.keep_alive
        self.expects_continue = head.expects_continue
        self._pieces: list[bytes] | None = []  # None once the application has had the body's last event
        self.unread = 0
        self.body_complete = False
        self.task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.gone = False
        self._on_gone: Callable[[], None] | None = None
        self._start: Message | None = None
        self.started = False
        self.complete = False
        self._bodiless = head.method == "HEAD"
        self._chunked = False
        self._left: int | None = None  # bytes of the declared content-length still to be sent

    def start(self, app: App, scope: Scope, loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[None]]) -> None:
        """Run the application in a task that is in `tasks` while it lasts."""
        self.task = task = loop.create_task(self._run(app, scope, tasks))
        tasks.add(task)

    async def _run(self, app: App, scope: Scope, tasks: set[asyncio.Task[None]]) -> None:
        """Run the application for this request. Whatever it does, the client gets an answer or a closed connection."""
        try:
            await app(scope, self.receive, self.send)
        except Exception:  # noqa: BLE001  whatever an application raises is answered, and logged with its trace
            _log.exception("The application failed to handle a request.", extra=self._fail(scope))
        except BaseException:
            if not self.complete:
                self._transport.abort()
            raise
        else:
            if not self.complete and not self.gone:
                _log.error("The application ended without completing a response.", extra=self._fail(scope))
        finally:
            tasks.discard(self.task)
            self.task = None

    def _fail(self, scope: Scope) -> dict[str, str]:
        """End the response badly. Gives what the log should say of the request."""
        request_id = new_request_id()
        if not self.complete and not self.gone:
            self._connection.failed(request_id)
        return {"request_id": request_id, "path": scope["path"]}

    # The client

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Call back once if the client leaves before the response is complete; at once if it has left already."""
        if self.gone:
            callback()
        else:
            self._on_gone = callback

    def leave(self) -> None:
        """The client is gone, or is answered without the application."""
        if self.gone or self.complete:
            return
        self.gone = True
        self._wake()
        callback, self._on_gone = self._on_gone, None
        if callback is not None:
            callback()

    def cut(self) -> None:
        """Drop the connection in the middle of the response."""
        self._on_gone = None
        self._transport.abort()
        self.leave()

    # The request

    def add(self, body: bytes, *, last: bool) -> None:
        """A piece of the request's body has arrived."""
        if body and self._pieces is not None:
            self._pieces.append(body)
            self.unread += len(body)
        self.body_complete = last
        if self._waiter is not None:
            self._wake()

    def _wake(self) -> None:
        """Let a waiting `receive` look again."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def receive(self) -> Message:
        """ASGI's receive. A body that has wholly arrived is one event."""
        while True:
            if self.gone or self.complete:
                return {"type": "http.disconnect"}
            pieces = self._pieces
            if pieces is not None:
                if self.body_complete:
                    self._pieces = None
                    return {"type": "http.request", "body": b"".join(pieces), "more_body": False}
                self._connection.body_wanted()
                if pieces:
                    self._pieces = []
                    self.unread = 0
                    return {"type": "http.request", "body": b"".join(pieces), "more_body": True}
            self._waiter = waiter = asyncio.get_running_loop().create_future()
            await waiter

    # The response

    async def send(self, message: Message) -> None:
        """ASGI's send. Does nothing once the client is gone; waits while it is slow to take what was sent."""
        if self._connection.write_paused:
            await self._connection.drained()
        if self.gone:
            return
        kind = message["type"]
        if kind == "http.response.body" and not self.complete:
            body = message.get("body", b"")
            more = message.get("more_body", False)
            if self.started:
                data = self._continuation(body, more)
            else:
                data = self._opening(body, more)
                self.started = True
            if data:
                self._transport.write(data)
            if not more:
                self._finish()
        elif kind == "http.response.start" and not self.started:
            self._start = message
        else:
            raise RuntimeError(f"Unexpected ASGI message {kind!r}")

    def _opening(self, body: bytes, more: bool) -> bytes:
        """The head and the first of the body, which leave in one write."""
        start = self._start
        if start is None:
            raise RuntimeError("A response's body was sent before its start")
        status: int = start["status"]
        headers = start.get("headers", ())
        fields = dict(headers)
        if b"transfer-encoding" in fields:
            raise RuntimeError("Transfer-Encoding is the server's to set")
        if not more and not self.body_complete:
            self.keep_alive = False  # the rest of the request would have to be read first
        if b"connection" in fields:
            if b"close" in fields[b"connection"].lower():
                self.keep_alive = False
            headers = [header for header in headers if header[0] != b"connection"]
        added: Headers = []
        self._frame_response(status, fields.get(b"content-length"), None if more else len(body), added)
        if not self.keep_alive:
            added.append(CLOSE)
        elif not self._http11:
            added.append(KEEP_ALIVE)
        return render_head(status, headers, added) + self._continuation(body, more)

    def _frame_response(self, status: int, length: bytes | None, size: int | None, added: Headers) -> None:
        """Settle where the body ends: at its declared `length`, else at `size` where that is known already."""
        if length is not None:
            self._left = int(length)
        if status in _BODILESS:
            self._bodiless = True
        elif length is not None or self._bodiless:
            return
        elif size is not None:
            added.append((b"content-length", b"%d" % size))
            self._left = size
        elif self._http11:
            added.append(CHUNKED)
            self._chunked = True
        else:
            self.keep_alive = False

    def _continuation(self, body: bytes, more: bool) -> bytes:
        if self._bodiless:
            return b""
        if self._chunked:
            data = frame(body) if body else b""
            return data if more else data + LAST_CHUNK
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("The response's body does not have the length that its head declares")
        return body

    def _finish(self) -> None:
        self.complete = True
        self._on_gone = None
        self._wake()
        self._connection.answered(self)

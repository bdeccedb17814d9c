"""One request and its response, over a connection from the pool."""

from __future__ import annotations

import asyncio

from gateway.core.headers import Headers
from gateway.core.upstream import BodySource, UpstreamFailure, UpstreamRequest
from gateway.upstream.connection import Connection
from gateway.upstream.pool import Pool
from gateway.upstream.request import encode_head
from gateway.upstream.response import ResponseReader

SMALL_BODY = 65_536
"""A body up to this size is copied behind its head and written with it."""

PIECE = 262_144
"""Bytes of a larger body handed to the socket at a time."""


class HttpExchange:
    """`gateway.core.upstream.Exchange` over HTTP/1.1. One task at a time may await it; cancelling it closes it."""

    __slots__ = (
        "_closed",
        "_connection",
        "_failure",
        "_opening",
        "_pool",
        "_request",
        "_waiter",
        "headers",
        "reader",
        "status",
    )

    def __init__(self, request: UpstreamRequest, pool: Pool) -> None:
        self._request = request
        self._pool = pool
        self._connection: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure: UpstreamFailure | None = None
        self._closed = False
        self.reader = ResponseReader()
        self.status = 0
        self.headers: Headers = []

    async def start(self) -> None:
        if self._failure is not None:
            raise self._failure
        head = encode_head(self._request, self._pool.addressing)
        connection = self._pool.take() or await self._open()
        try:
            await self._converse(connection, head)
        except UpstreamFailure as failure:
            if not (failure.unsent and connection.reused):
                raise
            self._failure = None
            self.reader = ResponseReader()
            await self._converse(await self._open(), head)
        self.status = self.reader.status
        self.headers = self.reader.headers

    async def read(self) -> bytes:
        reader = self.reader
        while not reader.buffered:
            if reader.complete:
                return b""
            await self._wait()
        connection = self._connection
        data = reader.take()
        if connection is not None and connection.reading_paused and connection.consumer is self:
            connection.resume()
        return data

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        if self.reader.complete:
            return
        self.reader.discard()
        connection = self._connection
        if connection is not None and connection.consumer is self:
            connection.drop()
        self._failure = UpstreamFailure("aborted", f"{self._pool.name}: the exchange was closed")
        self.wake()

    # What the connection tells

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, failure: UpstreamFailure) -> None:
        if self._failure is None:
            self._failure = failure
        self.wake()

    # Inside

    async def _converse(self, connection: Connection, head: bytes) -> None:
        """Send the request and wait for the response head."""
        self._connection = connection
        request = self._request
        upload = request.upload
        if request.size <= SMALL_BODY:
            body = request.body if upload is None else upload.read(0, SMALL_BODY)
            connection.begin(self, head + body, request.deadlines)
        else:
            await self._upload(connection, head, _Held(request.body) if upload is None else upload)
        reader = self.reader
        while not reader.head_complete:
            await self._wait()

    async def _upload(self, connection: Connection, head: bytes, body: BodySource | _Held) -> None:
        """Write a large body as the upstream takes it, until it answers.

        An answer that is an error ends the upload: the upstream has said that it does not want the rest. One that is
        none, which hardly any upstream begins before it has read everything, gets the rest at once.
        """
        connection.begin(self, head, self._request.deadlines, uploading=True)
        reader = self.reader
        size = len(body)
        for start in range(0, size, PIECE):
            if reader.head_complete:
                if reader.status < 300 and not reader.complete:
                    connection.upload(body.read(start, size - start))
                return
            connection.upload(body.read(start, PIECE))
            while connection.writing_paused and not reader.head_complete:
                await self._wait()
        if not reader.head_complete:
            connection.uploaded(self._request.deadlines)

    async def _wait(self) -> None:
        """Until something changes. Raises the failure if there is one."""
        if self._failure is not None:
            raise self._failure
        if self._waiter is not None or self._connection is None:
            raise RuntimeError("an exchange is started first, and awaited by one task at a time")
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiter = None

    async def _open(self) -> Connection:
        """A connection that had to be waited for. In a task of its own, so that `close` can stop it."""
        pool = self._pool
        opening = asyncio.create_task(pool.open(self._request.deadlines.connect))
        self._opening = opening
        try:
            connection = await opening
        except asyncio.CancelledError:
            opening.add_done_callback(pool.take_late)
            task = asyncio.current_task()
            if self._failure is not None and task is not None and not task.cancelling():
                raise self._failure from None
            self.close()
            raise
        finally:
            self._opening = None
        if self._failure is not None:
            pool.release(connection)
            raise self._failure
        if connection.closed:  # in the one turn of the loop since it was ours
            raise UpstreamFailure("connect", f"{pool.name}: closed as soon as it was open", unsent=True)
        return connection


class _Held:
    """Bytes as a source of pieces, without copying them."""

    def __init__(self, body: bytes) -> None:
        self._body = memoryview(body)

    def __len__(self) -> int:
        return len(self._body)

    def read(self, start: int, size: int) -> memoryview:
        return self._body[start : start + size]

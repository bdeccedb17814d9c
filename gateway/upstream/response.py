"""One HTTP/1.1 response taken apart. No I/O and no clock."""

from __future__ import annotations

from typing import Any

import httptools

from gateway.core.headers import Headers

MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 256
MAX_INFORMATIONAL = 100


class ProtocolViolation(Exception):
    """What arrived is not a response we take."""


class ResponseReader:
    """Takes bytes as they arrive and holds the body until it is taken. Each serves one response.

    `status` and `headers` stand once `head_complete`. `begun` tells whether a byte of the final response has come,
    `untouched` whether no byte has come at all. `keep_alive` says, after `complete`, whether the connection is clean.
    """

    __slots__ = (
        "_head_bytes",
        "_informational",
        "_parser",
        "_pieces",
        "begun",
        "buffered",
        "complete",
        "head_complete",
        "headers",
        "keep_alive",
        "status",
    )

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.begun = False
        self.head_complete = False
        self.complete = False
        self.keep_alive = False
        self.buffered = 0
        self._pieces: list[bytes] = []
        self._head_bytes = 0
        self._informational = 0
        self._parser: Any = httptools.HttpResponseParser(self)  # None once the response is over

    @property
    def untouched(self) -> bool:
        return self._head_bytes == 0

    def feed(self, data: bytes) -> None:
        """Take what arrived. Raises `ProtocolViolation`. Bytes after the response only spoil `keep_alive`."""
        if not self.head_complete:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.complete:
                raise ProtocolViolation(str(error.__context__ or error)) from None
            self.keep_alive = False
        if self.complete:
            self._parser = None  # it holds our callbacks, which is a cycle
        elif not self.head_complete and self._head_bytes > MAX_HEAD_BYTES:
            raise ProtocolViolation("the response head is too long")

    def end(self) -> bool:
        """The peer has stopped sending. Whether that is a clean end, which it is only for a body without a length."""
        if self.head_complete and not self.complete:
            self.complete = not any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)
        self._parser = None
        return self.complete

    def take(self) -> bytes:
        """The body bytes held, as one piece."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.buffered = 0
        return data

    def discard(self) -> None:
        """Drop what is held; nothing more will be fed."""
        self._pieces.clear()
        self.buffered = 0
        self._parser = None

    # httptools' callbacks

    def on_message_begin(self) -> None:
        if self.complete:
            raise ProtocolViolation("a second response came unasked")
        self.begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_complete:
            return  # a trailer
        name = name.lower()
        if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            raise ProtocolViolation("the response has a transfer coding that was not asked for")
        headers = self.headers
        headers.append((name, value.rstrip()))
        if len(headers) > MAX_HEADERS:
            raise ProtocolViolation("the response has too many headers")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            if status == 101:
                raise ProtocolViolation("the upstream switched protocols unasked")
            return
        # One read can bring a long head whole, or a short head and much body: only then is counting worth it.
        if self._head_bytes > MAX_HEAD_BYTES and sum(len(n) + len(v) + 4 for n, v in self.headers) > MAX_HEAD_BYTES:
            raise ProtocolViolation("the response head is too long")
        self.status = status
        self.head_complete = True

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)
        self.buffered += len(data)

    def on_message_complete(self) -> None:
        if self.head_complete:
            self.complete = True
            self.keep_alive = self._parser.should_keep_alive()
            return
        self.begun = False
        self.headers.clear()
        self._informational += 1
        if self._informational > MAX_INFORMATIONAL:
            raise ProtocolViolation("too many informational responses")

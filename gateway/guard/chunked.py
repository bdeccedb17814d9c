"""A chunked request body, decoded by a parser of its own."""

from __future__ import annotations

from typing import Final

import httptools

from gateway.core.errors import invalid_request
from gateway.guard.head import body_too_large
from gateway.guard.limits import GuardLimits

# The parser starts behind a head that says what the real one said: a chunked body follows, and nothing after it.
_PRIMER: Final = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
_FREE_FRAMING: Final = 64 * 2**10
_FRAMING_PER_BYTE: Final = 16


class ChunkedBody:
    """`feed` takes bytes off the wire and gives the body's.

    `complete` says that its end has been seen, `excess` that more came behind it: where exactly it began is not known,
    so the connection cannot be used again.
    """

    on_message_begin = on_url = on_header = on_headers_complete = on_chunk_header = on_chunk_complete = None

    __slots__ = ("_limits", "_parser", "_pieces", "_read", "complete", "excess", "size")

    def __init__(self, limits: GuardLimits) -> None:
        self.complete = False
        self.excess = False
        self.size = 0
        self._read = 0
        self._limits = limits
        self._pieces: list[bytes] = []
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_PRIMER)

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self.size += len(body)

    def on_message_complete(self) -> None:
        self.complete = True

    def feed(self, data: bytes) -> bytes:
        """Raises `GatewayError` for a body that is malformed, too large, or made of little but framing."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.complete:
                raise invalid_request("The request body is not valid chunked encoding.") from error
            self.excess = True
        self._read += len(data)
        if self.size > self._limits.max_body_bytes:
            raise body_too_large(self._limits)
        if self._read > _FREE_FRAMING + _FRAMING_PER_BYTE * self.size:
            raise invalid_request("The request body is chunk framing with next to no content.")
        body = b"".join(self._pieces)
        self._pieces.clear()
        return body

    def close(self) -> None:
        """Let the parser go; it and this object refer to each other."""
        del self._parser

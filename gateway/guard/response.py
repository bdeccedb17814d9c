"""A response's head and frames, as bytes."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from gateway.core.dialect import OPENAI
from gateway.core.errors import GatewayError
from gateway.core.headers import Headers

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
CLOSE = (b"connection", b"close")
KEEP_ALIVE = (b"connection", b"keep-alive")
CHUNKED = (b"transfer-encoding", b"chunked")

_STATUS_LINES = {status.value: b"HTTP/1.1 %d %s" % (status, status.phrase.encode()) for status in HTTPStatus}


def render_head(status: int, headers: Iterable[tuple[bytes, bytes]], added: Headers) -> bytes:
    """The status line and both lots of headers. Raises `ValueError` where a header would end its line early."""
    lines = [b": ".join(header) for header in headers]
    if added:
        lines += [b": ".join(header) for header in added]
    head = b"\r\n".join((_STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status, *lines, b"", b""))
    ends = len(lines) + 2
    if head.count(b"\n") != ends or head.count(b"\r") != ends or b"\0" in head:
        raise ValueError("a response header holds CR, LF or NUL")
    return head


def frame(body: bytes) -> bytes:
    """A chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def error_reply(error: GatewayError, request_id: str) -> bytes:
    """A whole response, in OpenAI's dialect, after which the connection closes."""
    body = OPENAI.error_body(error, request_id)
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode("ascii")),
        *((name.encode("ascii"), value.encode("ascii")) for name, value in error.headers.items()),
    ]
    return render_head(error.status, headers, [CLOSE]) + body

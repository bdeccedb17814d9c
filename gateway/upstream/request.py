"""A request head as bytes."""

from __future__ import annotations

from typing import NamedTuple

from gateway.core.upstream import Origin, UpstreamFailure, UpstreamRequest
from gateway.upstream.origin import authority
from gateway.upstream.proxies import Proxy

FRAMING = frozenset(
    {
        b"host",
        b"accept-encoding",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"upgrade",
        b"expect",
    }
)
"""Headers that belong to the connection. The transport says them itself; a request's own are left out."""

_METHODS_WITH_A_BODY = frozenset({b"POST", b"PUT", b"PATCH"})


class Addressing(NamedTuple):
    """How requests on an origin's connections are addressed: what precedes the path, and the lines always sent."""

    target_prefix: bytes
    lines: tuple[bytes, ...]


def addressing(origin: Origin, proxy: Proxy | None) -> Addressing:
    """Absolute form where a proxy reads the request itself, origin form elsewhere."""
    lines: tuple[bytes, ...] = (b"host: " + authority(origin), b"accept-encoding: identity")
    if proxy is None or origin.scheme == "https":
        return Addressing(b"", lines)
    if proxy.authorization is not None:
        lines += (b"proxy-authorization: " + proxy.authorization,)
    return Addressing(b"http://" + authority(origin), lines)


def encode_head(request: UpstreamRequest, addressing: Addressing) -> bytes:
    """The request line and the headers, ready to be followed by the body.

    Raises `UpstreamFailure("protocol", unsent=True)` when a part of it could be read as another line.
    """
    target, size = request.target, request.size
    lines = [b"%b %b%b HTTP/1.1" % (request.method, addressing.target_prefix, target), *addressing.lines]
    lines += [b"%b: %b" % header for header in request.headers if header[0] not in FRAMING]
    if size or request.method in _METHODS_WITH_A_BODY:
        lines.append(b"content-length: %d" % size)
    lines.append(b"\r\n")
    head = b"\r\n".join(lines)
    # Joining made one CR and one LF per line: any more came from inside a value.
    if not head.count(b"\r") == head.count(b"\n") == len(lines) or b"\0" in head:
        raise _refused("a header or the target holds CR, LF or NUL")
    if b" " in target or not target.startswith(b"/"):
        raise _refused("the target is not a path")
    if request.method == b"HEAD":
        raise _refused("HEAD is not supported")
    return head


def _refused(reason: str) -> UpstreamFailure:
    return UpstreamFailure("protocol", f"The request was not sent: {reason}.", unsent=True)

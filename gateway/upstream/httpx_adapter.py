"""httpx over the same pool, for the control plane's calls and for libraries that want an httpx client.

What httpx keeps to itself stays httpx's: build the client with `trust_env=False`, and mind that it has a cookie jar.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx

from gateway.core.deployment import Deadlines
from gateway.core.upstream import FailureKind, Origin, UpstreamFailure, UpstreamRequest
from gateway.upstream.origin import DEFAULT_PORTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.upstream.exchange import HttpExchange
    from gateway.upstream.transport import HttpTransport

_UNLIMITED = 86_400.0
"""Seconds that stand for httpx's `timeout=None`: nothing here waits for ever."""

_ERRORS: dict[FailureKind, type[httpx.TransportError]] = {
    "connect": httpx.ConnectError,
    "connect_timeout": httpx.ConnectTimeout,
    "tls": httpx.ConnectError,
    "first_byte_timeout": httpx.ReadTimeout,
    "idle_timeout": httpx.ReadTimeout,
    "cut": httpx.RemoteProtocolError,
    "protocol": httpx.RemoteProtocolError,
    "aborted": httpx.ReadError,
}


class HttpxTransport(httpx.AsyncBaseTransport):
    """Give it to `httpx.AsyncClient(transport=...)`. Closing the client leaves the pool open: others use it too."""

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme not in DEFAULT_PORTS:
            raise httpx.UnsupportedProtocol("the URL must begin with http:// or https://", request=request)
        exchange = self._transport.exchange(await _translated(request))
        with _httpx_errors(request):
            await exchange.start()
        return httpx.Response(exchange.status, headers=exchange.headers, stream=_Body(exchange, request))


class _Body(httpx.AsyncByteStream):
    def __init__(self, exchange: HttpExchange, request: httpx.Request) -> None:
        self._exchange = exchange
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _httpx_errors(self._request):
            while data := await self._exchange.read():
                yield data

    async def aclose(self) -> None:
        self._exchange.close()


async def _translated(request: httpx.Request) -> UpstreamRequest:
    url = request.url
    timeouts = request.extensions.get("timeout", {})
    read = _seconds(timeouts.get("read"))
    return UpstreamRequest(
        method=request.method.encode("ascii"),
        origin=Origin(url.scheme, url.raw_host.decode("ascii").strip("[]"), url.port or DEFAULT_PORTS[url.scheme]),
        target=url.raw_path,
        headers=[(name.lower(), value) for name, value in request.headers.raw],
        body=await request.aread(),
        deadlines=Deadlines(connect=_seconds(timeouts.get("connect")), first_byte=read, idle=read),
    )


def _seconds(timeout: float | None) -> float:
    return _UNLIMITED if timeout is None else timeout


@contextmanager
def _httpx_errors(request: httpx.Request) -> Iterator[None]:
    try:
        yield
    except UpstreamFailure as failure:
        error = httpx.LocalProtocolError if failure.kind == "protocol" and failure.unsent else _ERRORS[failure.kind]
        raise error(str(failure), request=request) from failure

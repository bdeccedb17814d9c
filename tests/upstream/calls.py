"""Calls as these tests make them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.core.deployment import Deadlines
from gateway.core.headers import Headers
from gateway.core.upstream import Origin, UpstreamRequest
from gateway.upstream.exchange import HttpExchange
from gateway.upstream.transport import HttpTransport


def post(
    origin: Origin,
    body: bytes = b"{}",
    *,
    headers: Headers | None = None,
    target: bytes = b"/v1/chat/completions",
    connect: float = 5.0,
    first_byte: float = 20.0,
    idle: float = 20.0,
) -> UpstreamRequest:
    return UpstreamRequest(b"POST", origin, target, headers or [], body, Deadlines(connect, first_byte, idle))


async def body_of(exchange: HttpExchange) -> bytes:
    """Read to the end and close."""
    pieces = []
    try:
        while data := await exchange.read():
            pieces.append(data)
    finally:
        exchange.close()
    return b"".join(pieces)


async def fetch(transport: HttpTransport, request: UpstreamRequest) -> tuple[int, bytes]:
    """A whole call: status and body."""
    exchange = transport.exchange(request)
    await exchange.start()
    return exchange.status, await body_of(exchange)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that other tasks or the kernel bring about."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 -- what is waited for has no event to set
            await asyncio.sleep(0.005)

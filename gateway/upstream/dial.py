"""Opening a connection: name, TCP, proxy, TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from itertools import chain, zip_longest
from typing import NamedTuple, cast

from gateway.core.upstream import Origin, UpstreamFailure
from gateway.upstream.origin import authority, describe
from gateway.upstream.proxies import Proxy

STAGGER = 0.25
"""Seconds one address has before the next is tried beside it (RFC 8305)."""

MAX_PROXY_HEAD = 16_384

Sockaddr = tuple[str, int] | tuple[str, int, int, int]


class Address(NamedTuple):
    """Where a socket connects, as the resolver says it."""

    family: socket.AddressFamily
    sockaddr: Sockaddr


async def dial(origin: Origin, proxy: Proxy | None, tls: ssl.SSLContext | None, protocol: asyncio.Protocol) -> None:
    """Connect `protocol` to an origin, with TLS where there is a context for it.

    Raises `UpstreamFailure` ("connect" or "tls"), and `TimeoutError` where the kernel gave up.
    """
    name = describe(origin)
    host, port = (origin.host, origin.port) if proxy is None else (proxy.host, proxy.port)
    try:
        sock = await _connect(host, port)
    except TimeoutError:
        raise
    except (OSError, UnicodeError) as error:
        raise UpstreamFailure("connect", f"{name}: cannot connect: {error}", unsent=True) from error
    if proxy is not None and tls is not None:
        try:
            await _tunnel(sock, origin, proxy)
        except BaseException:
            sock.close()
            raise
    loop = asyncio.get_running_loop()
    try:
        server_hostname = None if tls is None else origin.host
        await loop.create_connection(lambda: protocol, sock=sock, ssl=tls, server_hostname=server_hostname)
    except OSError as error:
        raise UpstreamFailure("connect" if tls is None else "tls", f"{name}: {error}", unsent=True) from error


async def _connect(host: str, port: int) -> socket.socket:
    """A connected socket to the first address that takes it, of either family."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = _interleaved([Address(family, cast("Sockaddr", sockaddr)) for family, _, _, _, sockaddr in found])
    if len(addresses) == 1:
        return await _connect_to(addresses[0])
    return await connect_to_any(addresses)


def _interleaved(addresses: list[Address]) -> list[Address]:
    """The families in turn, beginning with the resolver's first choice."""
    first = [address for address in addresses if address.family == addresses[0].family]
    rest = [address for address in addresses if address.family != addresses[0].family]
    return [address for address in chain.from_iterable(zip_longest(first, rest)) if address is not None]


async def connect_to_any(addresses: list[Address]) -> socket.socket:
    """A connected socket to whichever address takes it first, the earlier ones with a head start.

    Raises the first attempt's `OSError` when none does.
    """
    attempts: set[asyncio.Task[socket.socket]] = set()
    errors: list[BaseException] = []
    try:
        for address in addresses:
            attempts.add(asyncio.create_task(_connect_to(address)))
            winner = await _first_connected(attempts, errors, None if address is addresses[-1] else STAGGER)
            if winner is not None:
                return winner
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_close_late_winner)
    raise errors[0]


async def _first_connected(
    attempts: set[asyncio.Task[socket.socket]], errors: list[BaseException], patience: float | None
) -> socket.socket | None:
    """The first attempt that succeeds within `patience` seconds; failed ones leave `attempts` for `errors`."""
    while attempts:
        done, _ = await asyncio.wait(attempts, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return None
        for attempt in done:
            error = attempt.exception()
            attempts.discard(attempt)
            if error is None:
                return attempt.result()
            errors.append(error)
    return None


async def _connect_to(address: Address) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await asyncio.get_running_loop().sock_connect(sock, address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def _close_late_winner(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _tunnel(sock: socket.socket, origin: Origin, proxy: Proxy) -> None:
    """Ask the proxy to pass bytes through to the origin."""
    loop = asyncio.get_running_loop()
    target = authority(origin, always_port=True)
    lines = [b"CONNECT %b HTTP/1.1" % target, b"host: %b" % target]
    if proxy.authorization is not None:
        lines.append(b"proxy-authorization: " + proxy.authorization)
    where = f"{describe(origin)} through the proxy {proxy.host}:{proxy.port}"
    try:
        await loop.sock_sendall(sock, b"\r\n".join([*lines, b"", b""]))
        head = b""
        while b"\r\n\r\n" not in head:
            data = await loop.sock_recv(sock, 4096)
            head += data
            if not data or len(head) > MAX_PROXY_HEAD:
                raise UpstreamFailure("connect", f"{where}: it did not answer sensibly", unsent=True)
    except OSError as error:
        raise UpstreamFailure("connect", f"{where}: {error}", unsent=True) from error
    version, _, rest = head.partition(b" ")
    status = rest[:3]
    if not version.startswith(b"HTTP/1.") or not status.startswith(b"2"):
        raise UpstreamFailure("connect", f"{where}: it answered {status.decode('latin-1')!r}", unsent=True)
    if not head.endswith(b"\r\n\r\n"):
        raise UpstreamFailure("connect", f"{where}: it sent bytes before the tunnel was used", unsent=True)

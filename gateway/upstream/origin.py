"""Origins as the wire and our own log say them."""

from __future__ import annotations

from gateway.core.upstream import Origin

DEFAULT_PORTS = {"http": 80, "https": 443}


def authority(origin: Origin, *, always_port: bool = False) -> bytes:
    """`host[:port]` for Host and CONNECT: addresses of version 6 in brackets, a default port left out unless asked."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    if always_port or origin.port != DEFAULT_PORTS.get(origin.scheme):
        host = f"{host}:{origin.port}"
    return host.encode("ascii")


def describe(origin: Origin) -> str:
    """For our own log; clients never see it."""
    return f"{origin.scheme}://{origin.host}:{origin.port}"

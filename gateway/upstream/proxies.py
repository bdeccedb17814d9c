"""Which proxy an origin is reached through, from the customary environment variables given as a mapping."""

from __future__ import annotations

import ipaddress
from base64 import b64encode
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from gateway.core.upstream import Origin

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Proxy(NamedTuple):
    """An HTTP proxy. `authorization` is the value of Proxy-Authorization."""

    host: str
    port: int
    authorization: bytes | None = None

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port})"


class Exemption(NamedTuple):
    """An entry of NO_PROXY: a domain (`*` for all), or a network, of one address perhaps; a port if it names one."""

    domain: str
    port: int | None
    network: Network | None

    def covers(self, origin: Origin, address: Address | None) -> bool:
        if self.port not in (None, origin.port):
            return False
        if self.network is not None:
            return address is not None and address in self.network
        return self.domain == "*" or (address is None and _is_within(origin.host.lower(), self.domain))


class Proxies:
    """Reads `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case, the lower one first.

    `NO_PROXY` is a list, by comma or space, of `*`, names (which cover their subdomains; a leading `.` or `*.`
    changes nothing), addresses, and networks such as `10.0.0.0/8`, each with an optional `:port`.
    Loopback hosts are never proxied. Raises `ValueError` for a proxy that is not `http://[user:password@]host[:port]`.
    """

    __slots__ = ("_by_scheme", "_exemptions")

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._by_scheme: dict[str, Proxy | None] = {
            scheme: _parse_proxy(_variable(environ, f"{scheme}_proxy") or _variable(environ, "all_proxy"))
            for scheme in ("http", "https")
        }
        entries = _variable(environ, "no_proxy").replace(",", " ").split()
        self._exemptions = [_parse_exemption(entry) for entry in entries]

    def proxy_for(self, origin: Origin) -> Proxy | None:
        """The proxy for an origin, None to connect directly."""
        proxy = self._by_scheme[origin.scheme]
        if proxy is None:
            return None
        address = _address(origin.host)
        if _is_loopback(origin.host, address) or any(
            exemption.covers(origin, address) for exemption in self._exemptions
        ):
            return None
        return proxy


def _variable(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name) or environ.get(name.upper()) or "").strip()


def _parse_proxy(url: str) -> Proxy | None:
    if not url:
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError("a proxy must be given as http://[user:password@]host[:port]")
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = b"Basic " + b64encode(pair.encode())
    return Proxy(parts.hostname, parts.port or 80, authorization)


def _parse_exemption(entry: str) -> Exemption:
    host, port = _split_port(entry.lower())
    try:
        return Exemption(host, port, ipaddress.ip_network(host, strict=False))
    except ValueError:
        return Exemption(host if host == "*" else host.removeprefix("*").removeprefix("."), port, None)


def _split_port(entry: str) -> tuple[str, int | None]:
    if entry.startswith("["):
        host, _, port = entry[1:].partition("]")
        port = port.removeprefix(":")
    elif entry.count(":") == 1:
        host, _, port = entry.partition(":")
    else:
        host, port = entry, ""
    return host, int(port) if port.isdecimal() else None


def _is_within(host: str, domain: str) -> bool:
    return bool(domain) and (host == domain or host.endswith("." + domain))


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(host: str, address: Address | None) -> bool:
    return address.is_loopback if address is not None else _is_within(host.lower(), "localhost")

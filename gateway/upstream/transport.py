"""The public face: `gateway.core.upstream.Transport` over HTTP."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from gateway.core.upstream import Origin, UpstreamRequest
from gateway.upstream.exchange import HttpExchange
from gateway.upstream.pool import Pool, PoolLimits
from gateway.upstream.proxies import Proxies
from gateway.upstream.tls import TlsSettings

MAX_POOLS = 256
"""Origins remembered before those without a connection are forgotten."""


class HttpTransport:
    """HTTP/1.1 to any number of origins. One per event loop.

    `environ` is where the proxy variables are looked up, the process's own only if it is passed in. Raises `OSError`
    when a TLS file cannot be used and `ValueError` when a proxy variable makes no sense.
    """

    __slots__ = ("_limits", "_pools", "_proxies", "_tls")

    def __init__(
        self,
        *,
        tls: TlsSettings | None = None,
        environ: Mapping[str, str] | None = None,
        limits: PoolLimits | None = None,
    ) -> None:
        self._tls = None if tls is None else tls.context()
        self._proxies = Proxies(environ or {})
        self._limits = limits or PoolLimits()
        self._pools: dict[Origin, Pool] = {}

    def exchange(self, request: UpstreamRequest) -> HttpExchange:
        pool = self._pools.get(request.origin)
        if pool is None:
            pool = self._add_pool(request.origin)
        return HttpExchange(request, pool)

    def connections(self) -> tuple[int, int]:
        """How many connections are in use, and how many are idle."""
        pools = self._pools.values()
        return sum(pool.active for pool in pools), sum(pool.idle for pool in pools)

    def close(self) -> None:
        """Drop every connection. Exchanges under way fail with "aborted"; the transport itself can be used again."""
        for pool in self._pools.values():
            pool.close()

    def _add_pool(self, origin: Origin) -> Pool:
        if len(self._pools) >= MAX_POOLS:
            self._pools = {key: pool for key, pool in self._pools.items() if not pool.unused}
        tls = self._trust() if origin.scheme == "https" else None
        pool = self._pools[origin] = Pool(origin, self._proxies.proxy_for(origin), tls, self._limits)
        return pool

    def _trust(self) -> ssl.SSLContext:
        """Reading the system's authorities takes 40 ms, so without settings to check it waits for the first need."""
        if self._tls is None:
            self._tls = TlsSettings().context()
        return self._tls

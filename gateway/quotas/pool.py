"""Connections for clients of the library that keep other things where the counters are."""

from __future__ import annotations

from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from gateway.settings.redis_url import parse_redis_url


class _SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Whose clients wait for a connection, and which closes those to the sentinels as well."""

    async def aclose(self) -> None:
        await super().aclose()
        await self.sentinel_manager.aclose()


def connection_pool(url: str, connections: int, within_s: float) -> ConnectionPool:
    """At most so many connections, each step of theirs taken within `within_s` and none of them twice. `url` is as for
    counters, and sentinels' word is asked for whenever a connection is made. Raises `ValueError`."""
    known = parse_redis_url(url)
    steps: dict[str, Any] = {
        "socket_timeout": within_s,
        "socket_connect_timeout": within_s,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
    }
    if not known.service:
        return BlockingConnectionPool.from_url(url, max_connections=connections, timeout=within_s, **steps)
    tls: dict[str, Any] = {} if known.tls is None else {"ssl": True, **known.tls}
    login = _login(known.username, known.password)
    share_s = within_s / (len(known.hosts) + 1)  # all sentinels but the last may be silent
    asking = {**steps, **tls, "socket_timeout": share_s, "socket_connect_timeout": share_s}
    asking |= _login(known.sentinel_username, known.sentinel_password)
    sentinels = Sentinel(known.hosts, sentinel_kwargs=asking)  # type: ignore[no-untyped-call] # the library's is bare
    pool: ConnectionPool = _SentinelPool(  # type: ignore[no-untyped-call] # the library's is bare
        known.service, sentinels, max_connections=connections, timeout=within_s, db=known.db, **login, **tls, **steps
    )
    return pool


def _login(username: str, password: str) -> dict[str, str]:
    return {name: word for name, word in (("username", username), ("password", password)) if word}

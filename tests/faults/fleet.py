"""Gateways under test: one or several of one installation, before an upstream that keeps the third book.

Models: `billed`; `impatient`, which waits half a second for its upstream; `drained`, which lets an upstream finish for
a client that has left. Everyone is in the department `research`, on which limits of every metric count; the department
`tight` has little of everything.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.identity.keys import new_key
from tests.faults.callers import Caller
from tests.support.billing_upstream import BillingUpstream
from tests.support.gateway import Gateway

QUOTAS: Sequence[Mapping[str, Any]] = (
    {"scope": "global", "metric": "tokens", "limit": 10**12, "window": "total"},
    {"scope": "department", "subject": "research", "metric": "requests", "limit": 10**9, "window": "month"},
    {"scope": "department", "subject": "research", "metric": "tokens", "limit": 10**12, "window": "day"},
    {"scope": "department", "subject": "research", "metric": "cost", "limit": 10**6, "window": "total"},
    {"scope": "model", "subject": "billed", "metric": "tokens", "limit": 10**12, "window": "total", "action": "warn"},
    {"scope": "department", "subject": "tight", "metric": "requests", "limit": 300, "window": "total"},
    {"scope": "department", "subject": "tight", "metric": "tokens", "limit": 8000, "window": "total"},
)


def configuration(
    upstream: BillingUpstream,
    *,
    redis: str | None = None,
    database: str | None = None,
    on_store_error: str | None = None,
    quotas: Sequence[Mapping[str, Any]] = QUOTAS,
    upstream_port: int | None = None,
    **server: Any,
) -> dict[str, Any]:
    """A gateway's configuration: embedded unless told of Redis and PostgreSQL."""
    storage = {name: url for name, url in (("counters", redis), ("database", database)) if url is not None}
    port = upstream_port or upstream.port
    provider = {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "sk-upstream-0123456789abcdef", "max_retries": 0}
    served = {"provider": "billed", "upstream_model": "billed", "price": {"input": 1.0, "output": 2.0}}
    document: dict[str, Any] = {
        "server": server,
        "storage": storage,
        "providers": {"billed": provider},
        "models": [
            {"model_id": "billed", **served},
            {"model_id": "impatient", **served, "first_byte_timeout": 0.5, "idle_timeout": 0.5},
            {"model_id": "drained", **served, "on_client_gone": "drain"},
        ],
        "quotas": [dict(quota) for quota in quotas],
    }
    if on_store_error is not None:
        document["policies"] = [{"quota": {"on_store_error": on_store_error}}]
    return document


def fleet(
    directory: Path,
    config: Mapping[str, Any],
    count: int = 2,
    *,
    one_host: bool = False,
    last_environ: Mapping[str, str] | None = None,
) -> list[Gateway]:
    """Gateways of one installation, not started: each on a host of its own, or all on one with one data directory.
    The last may have more in its environment than the others."""
    key, secret = new_key().text.reveal(), secrets.token_urlsafe(32)
    environs = [{"AIDOCK_SECRET": secret} for _ in range(count)]
    environs[-1] |= last_environ or {}
    data = directory / "data" if one_host else None
    return [Gateway(directory / f"host{n}", config, environ, key=key, data=data) for n, environ in enumerate(environs)]


@asynccontextmanager
async def running(*gateways: Gateway) -> AsyncIterator[None]:
    """Gateways that are started and stopped while this loop goes on, because something of it stands between them and
    what they need. They end cleanly."""
    try:
        for gateway in gateways:
            await asyncio.to_thread(gateway.start)
        yield
    finally:
        codes = [await asyncio.to_thread(gateway.stop) for gateway in gateways if gateway.running]
    assert not any(codes)


async def caller(gateway: Gateway, department: str = "research", **how: Any) -> Caller:
    """A user who has not called yet, known to every gateway of the installation."""
    return Caller(await gateway.issue(f"{secrets.token_hex(4)}@example.com", department=department), **how)

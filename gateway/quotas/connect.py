"""From a URL to the store it names."""

from __future__ import annotations

from datetime import tzinfo
from urllib.parse import urlsplit

from gateway.core.ports import CounterStore
from gateway.quotas.memory import MemoryStore
from gateway.quotas.redis import RedisStore
from gateway.quotas.windows import Calendar


def counter_store(url: str, zone: tzinfo) -> CounterStore:
    """The store for memory://, redis://, rediss:// or unix://, not started. `zone` is the organisation's.
    Raises `ValueError` for any other URL."""
    match urlsplit(url).scheme:
        case "memory":
            return MemoryStore(Calendar(zone))
        case "redis" | "rediss" | "unix":
            return RedisStore(url, Calendar(zone))
        case scheme:
            raise ValueError(f"counters must be memory://, redis://, rediss:// or unix://, not {scheme or url!r}")

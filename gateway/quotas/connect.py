"""From a URL to the store it names."""

from __future__ import annotations

from datetime import tzinfo

from gateway.core.ports import RecountableStore
from gateway.quotas.memory import MemoryStore
from gateway.quotas.redis import RedisStore
from gateway.quotas.windows import Calendar


def counter_store(url: str, zone: tzinfo) -> RecountableStore:
    """The store for memory:// or the URL of a Redis server or of its sentinels, not started. `zone` is the
    organisation's. Raises `ValueError` for any other URL, without repeating it."""
    if url.startswith("memory://"):
        return MemoryStore(Calendar(zone))
    return RedisStore(url, Calendar(zone))

"""Conversations in Redis, shared by all processes of a gateway.

What is kept has a bound of its own, because the counters need the same server's memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.conversations.seam import OVERHEAD, StoreUnavailable
from gateway.quotas.pool import connection_pool

PREFIX = "{aidock}:talk"
WITHIN_S = 1.0
MOST_BYTES = 256 * 2**20
_CONNECTIONS = 16


class RedisConversations:
    """`url` is the counters'. Every verb is decided within `within_s` and sent once."""

    def __init__(
        self, url: str, *, prefix: str = PREFIX, within_s: float = WITHIN_S, most_bytes: int = MOST_BYTES
    ) -> None:
        self._redis = Redis.from_pool(connection_pool(url, _CONNECTIONS, within_s))
        self._put = self._redis.register_script((resources.files(__package__) / "put.lua").read_bytes())
        self._prefix = prefix
        self._within_s = within_s
        self._most_bytes = most_bytes

    async def get(self, name: str) -> bytes | None:
        found: bytes | None = await self._decided(self._redis.get(self._key(name)))
        return found

    async def put(self, name: str, conversation: bytes, for_s: int) -> None:
        keys = [self._key(name), f"{self._prefix}.index", f"{self._prefix}.bytes"]
        bounds = [for_s * 1000, len(conversation) + OVERHEAD, self._most_bytes]
        await self._decided(self._put(keys=keys, args=[*bounds, conversation]))

    async def drop(self, name: str) -> bool:
        return bool(await self._decided(self._redis.delete(self._key(name))))

    async def close(self) -> None:
        await self._redis.aclose()

    async def _decided(self, asked: Awaitable[Any]) -> Any:
        """One deadline covers the wait for a connection and all that is sent and read on it."""
        try:
            async with asyncio.timeout(self._within_s):
                return await asked
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"the store of conversations: {str(error) or 'timeout'}") from error

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"

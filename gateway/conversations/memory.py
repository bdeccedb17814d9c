"""Conversations in this process. They end with it."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from gateway.conversations.seam import OVERHEAD

MOST_BYTES = 64 * 2**20


class MemoryConversations:
    """`clock` counts seconds."""

    def __init__(self, most_bytes: int = MOST_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_bytes = most_bytes
        self._clock = clock
        self._kept: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0

    async def get(self, name: str) -> bytes | None:
        conversation, until = self._kept.get(name, (b"", 0.0))
        if until > self._clock():
            return conversation
        self._drop(name)
        return None

    async def put(self, name: str, conversation: bytes, for_s: int) -> None:
        self._drop(name)
        self._kept[name] = (conversation, self._clock() + for_s)
        self._bytes += len(conversation) + OVERHEAD
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))

    async def drop(self, name: str) -> bool:
        return await self.get(name) is not None and self._drop(name)

    async def close(self) -> None:
        self._kept.clear()
        self._bytes = 0

    def _drop(self, name: str) -> bool:
        known = self._kept.pop(name, None)
        if known is None:
            return False
        self._bytes -= len(known[0]) + OVERHEAD
        return True

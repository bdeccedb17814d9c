"""What a store of conversations does, whatever it is made of."""

from __future__ import annotations

from typing import Protocol

OVERHEAD = 256
"""Bytes that a store needs for a name itself, roughly."""


class StoreUnavailable(Exception):
    """The store did not answer in time, or not sensibly."""


class ConversationStore(Protocol):
    """Opaque bytes by opaque names, for a time and as long as there is room: the oldest make it."""

    async def get(self, name: str) -> bytes | None:
        """What is kept under a name, None where nothing is, or no longer. Raises `StoreUnavailable`."""

    async def put(self, name: str, conversation: bytes, for_s: int) -> None:
        """Keep it for `for_s` seconds. Raises `StoreUnavailable`; it may be kept then."""

    async def drop(self, name: str) -> bool:
        """Forget it; whether there was anything to forget. Raises `StoreUnavailable`."""

    async def close(self) -> None:
        """Let go of everything."""

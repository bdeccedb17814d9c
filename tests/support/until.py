"""Waiting for what happens by itself, for as long as a busy machine may take."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], bool | Awaitable[bool]], within_s: float = 20.0) -> None:
    """Return once the condition holds, asked every few milliseconds; fail when it never does."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        held = condition()
        if await held if inspect.isawaitable(held) else held:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"did not happen within {within_s} s")

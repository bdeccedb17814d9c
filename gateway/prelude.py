"""What a stream says before its first content, held back so that a failure until then can be hidden."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

MOST_BYTES = 65_536
"""More than that goes out, content or not."""

LONGEST_S = 10.0
"""After so long what is held goes out, so that nobody takes the connection for dead."""


class Prelude:
    """Holds bytes; `send` gives them to the client, and with them the status. A timer sends what is held too long, on a
    task that is made only then: `sending`, which whoever writes next waits for first."""

    __slots__ = ("_pieces", "_send", "_size", "_timer", "sending")

    def __init__(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._send = send
        self._pieces: list[bytes] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self.sending: asyncio.Task[None] | None = None

    def hold(self, data: bytes) -> bool:
        """Keep these back. False, and nothing done, where that would be too much."""
        if self._size + len(data) > MOST_BYTES:
            return False
        self._pieces.append(data)
        self._size += len(data)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LONGEST_S, self._overdue)
        return True

    async def release(self, data: bytes) -> None:
        """Send what is held, and these behind it."""
        await self._send(self.take() + data)

    def take(self) -> bytes:
        """What is held, and hold no longer."""
        if self._timer is not None:
            self._timer.cancel()
        held = b"".join(self._pieces)
        self._pieces.clear()
        return held

    async def sent(self) -> None:
        """Return when what the timer let go has been sent."""
        if self.sending is not None:
            sending, self.sending = self.sending, None
            await sending

    async def close(self) -> None:
        """No timer any more, and nothing on its way."""
        if self._timer is not None:
            self._timer.cancel()
        await self.sent()

    def _overdue(self) -> None:
        self.sending = asyncio.create_task(self.release(b""), name="prelude")

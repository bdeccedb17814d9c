"""One connection to an upstream: bytes in, bytes out, and the one timer that judges both."""

from __future__ import annotations

import asyncio
import fcntl
import select
import struct
import termios
from typing import Protocol, cast

from gateway.core.deployment import Deadlines
from gateway.core.upstream import FailureKind, UpstreamFailure
from gateway.upstream.response import ProtocolViolation, ResponseReader

HIGH_WATER = 65_536
"""Body bytes held for a consumer before the connection stops reading."""

_NEVER = float("inf")
_FIN_OR_BYTES = select.POLLIN | getattr(select, "POLLRDHUP", 0)


class Consumer(Protocol):
    """Who waits for the response."""

    @property
    def reader(self) -> ResponseReader: ...

    def wake(self) -> None:
        """Something changed: the head, the body, or the room for writing."""

    def fail(self, failure: UpstreamFailure) -> None:
        """Nothing more will come."""


class Owner(Protocol):
    """Who keeps connections between exchanges."""

    keep_alive: float

    def release(self, connection: Connection) -> None:
        """The connection is clean and can serve again."""

    def forget(self, connection: Connection) -> None:
        """The connection is gone. Told once."""


class Connection(asyncio.Protocol):
    """Serves one exchange at a time; between exchanges, anything that arrives ends it.

    The timer is armed for at most `_patience` ahead, the shortest wait that the exchange can ask for. So a deadline
    moves by an assignment, and the timer, when it fires early, looks again later.
    """

    __slots__ = (
        "_deadline",
        "_idle",
        "_loop",
        "_name",
        "_owner",
        "_patience",
        "_poll",
        "_reader",
        "_request_size",
        "_timer",
        "_timer_at",
        "_transport",
        "closed",
        "consumer",
        "reading_paused",
        "reused",
        "uploading",
        "writing_paused",
    )

    _transport: asyncio.Transport  # from `connection_made` on, which precedes every other call

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._owner = owner
        self._loop = loop
        self._name = name
        self._poll = select.poll()
        self._reader: ResponseReader | None = None
        self._deadline = _NEVER
        self._patience = _NEVER
        self._idle = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER
        self._request_size = 0
        self.consumer: Consumer | None = None
        self.closed = False
        self.reused = False
        self.reading_paused = False
        self.writing_paused = False
        self.uploading = False

    def alive(self) -> bool:
        """Whether the peer has said nothing since the last response, as far as our kernel knows at this moment.

        The event loop may be an iteration behind the kernel, which is long enough to write to a peer that has left,
        or to take bytes sent before the request for its answer.
        """
        if self.closed:
            return False
        return not self.reused or not self._poll.poll(0)

    # What an exchange does

    def begin(self, consumer: Consumer, data: bytes, deadlines: Deadlines, *, uploading: bool = False) -> None:
        """Serve `consumer`, and write the request, or only its first bytes when `uploading`."""
        now = self._loop.time()
        self.uploading = uploading
        self.consumer = consumer
        self._reader = consumer.reader
        self._idle = deadlines.idle
        self._deadline = now + deadlines.first_byte
        self._request_size = len(data)
        self._patience = min(deadlines.first_byte, deadlines.idle, self._owner.keep_alive)
        if now + self._patience < self._timer_at:
            self._arm(now + self._patience)
        self._transport.write(data)

    def upload(self, piece: memoryview | bytes) -> None:
        """Write more of the request. Room for more is what the consumer is woken for; see `writing_paused`."""
        self._request_size += len(piece)
        self._deadline = self._loop.time() + self._idle
        self._transport.write(piece)

    def uploaded(self, deadlines: Deadlines) -> None:
        """The request is written: from now the upstream is thinking."""
        self.uploading = False
        self._deadline = self._loop.time() + deadlines.first_byte

    def resume(self) -> None:
        """Read on after the consumer has taken what was held."""
        self.reading_paused = False
        self._deadline = self._loop.time() + self._idle
        self._transport.resume_reading()

    def cut(self, reason: str) -> None:
        """Close at once; a consumer's exchange fails."""
        self._fail("aborted", reason)

    def drop(self) -> None:
        """Close at once, and tell the owner. A consumer is left to itself."""
        self.consumer = self._reader = None
        if self.closed:
            return
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        self._owner.forget(self)

    def park(self) -> None:
        """Wait for the next exchange, for as long as the owner keeps idle connections."""
        now = self._loop.time()
        self.reused = True
        self._patience = self._owner.keep_alive
        self._deadline = now + self._patience
        if self._deadline < self._timer_at:
            self._arm(self._deadline)

    # What the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._poll.register(self._descriptor, _FIN_OR_BYTES)

    def data_received(self, data: bytes) -> None:
        reader, consumer = self._reader, self.consumer
        if reader is None or consumer is None:
            self.drop()  # nobody asked
            return
        try:
            reader.feed(data)
        except ProtocolViolation as violation:
            self._fail("protocol", str(violation))
            return
        if reader.complete:
            self._finish(reader)
        elif not reader.head_complete:
            if reader.begun:
                self._deadline = min(self._deadline, self._loop.time() + self._idle)
            return
        elif reader.buffered > HIGH_WATER:
            self._pause()
        else:
            self._deadline = self._loop.time() + self._idle
        consumer.wake()

    def eof_received(self) -> None:
        reader, consumer = self._reader, self.consumer
        if reader is None or consumer is None:
            self.drop()
        elif reader.end():
            self.drop()
            consumer.wake()
        else:
            self._fail("cut", "the upstream closed before the response was complete", unsent=self._provably_unread())

    def connection_lost(self, exc: Exception | None) -> None:
        if self.consumer is not None:
            self._fail("cut", f"the connection broke: {exc or 'closed'}")
        else:
            self.drop()

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self.uploading and self.consumer is not None:
            self._deadline = self._loop.time() + self._idle
            self.consumer.wake()

    # Inside

    @property
    def _descriptor(self) -> int:
        return int(self._transport.get_extra_info("socket").fileno())

    def _pause(self) -> None:
        if not self.reading_paused:
            self.reading_paused = True
            self._transport.pause_reading()
        self._deadline = _NEVER  # the wait is the consumer's, not the upstream's

    def _finish(self, reader: ResponseReader) -> None:
        self.consumer = self._reader = None
        if not reader.keep_alive or self.uploading:
            self.drop()
            return
        if self.reading_paused:
            self.reading_paused = False
            self._transport.resume_reading()
        self._owner.release(self)

    def _fail(self, kind: FailureKind, reason: str, *, unsent: bool = False) -> None:
        consumer = self.consumer
        self.drop()
        if consumer is not None:
            consumer.fail(UpstreamFailure(kind, f"{self._name}: {reason}", unsent=unsent))

    def _provably_unread(self) -> bool:
        """Whether the peer sent its FIN before it had received a whole piece of the request.

        A FIN acknowledges all that came before it. If the kernel still holds the request unacknowledged, the peer
        stopped talking without having seen it. TLS framing can only make the queue longer than the request.
        """
        if self._reader is None or not self._reader.untouched:
            return False
        try:
            (queued,) = struct.unpack("i", fcntl.ioctl(self._descriptor, termios.TIOCOUTQ, b"\0\0\0\0"))
        except OSError:
            return False
        return bool(queued >= self._request_size)

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        now = self._loop.time()
        if now < self._deadline:
            self._arm(min(self._deadline, now + self._patience))
        elif self._reader is None:
            self.drop()
        elif self._reader.begun or self.uploading:
            self._fail("idle_timeout", f"nothing moved for {self._idle:g} s")
        else:
            self._fail("first_byte_timeout", "no response within the first-byte deadline")

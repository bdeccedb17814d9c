"""A client's connection: what arrives, when it is late, and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gateway.core.errors import GatewayError, internal_error
from gateway.core.ids import new_request_id
from gateway.guard.chunked import ChunkedBody
from gateway.guard.clock import Clock
from gateway.guard.cycle import HIGH_WATER, Cycle
from gateway.guard.head import Head, HeadReader, request_timeout
from gateway.guard.limits import GuardLimits
from gateway.guard.response import CONTINUE, error_reply
from gateway.guard.scope import connection_scope, request_scope

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

_HALF_CLOSE_GRACE: Final = 0.1
_LINGER_BYTES: Final = 64 * 2**10


class Phase(Enum):
    """What the connection expects from its client."""

    HEAD = 1
    """A request."""
    BODY = 2
    """The rest of the current request's body."""
    ANSWER = 3
    """Nothing: the current request is whole. What comes is the next one, kept for later."""
    LINGER = 4
    """That it reads the error it was sent. What comes is thrown away."""


_HEAD, _BODY, _ANSWER, _LINGER = Phase


class GuardProtocol(asyncio.Protocol):
    """uvicorn's `http=` class.

    Requests are handled strictly one after another: nothing is parsed beyond the current request's end, so that an
    error in the next one cannot overtake the answer to this one, and what a client sends ahead stays bytes.
    """

    __slots__ = (
        "_ahead",
        "_allowance",
        "_app",
        "_app_state",
        "_body",
        "_body_seconds",
        "_clock",
        "_closing",
        "_cycle",
        "_heads",
        "_idle_timeout",
        "_limits",
        "_loop",
        "_phase",
        "_reading_paused",
        "_remaining",
        "_root_path",
        "_scope",
        "_state",
        "_write_waiter",
        "transport",
        "write_paused",
    )

    transport: asyncio.Transport

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: GuardLimits,
    ) -> None:
        self._app = config.loaded_app
        self._root_path = config.root_path
        self._idle_timeout = config.timeout_keep_alive
        self._limits = limits
        self._loop = _loop or asyncio.get_running_loop()
        self._state = server_state
        self._app_state = app_state

        self._phase = _HEAD
        self._heads = HeadReader(limits)
        self._cycle: Cycle | None = None
        self._body: ChunkedBody | None = None
        self._remaining = 0  # bytes of a body with a content-length still to come
        self._body_seconds = 0.0  # what is left of the body's time while its clock is stopped
        self._ahead = b""  # bytes of requests that have not had their turn
        self._allowance = 0  # bytes to throw away before reading stops
        self._closing = False  # the connection ends with the current response

        self._clock = Clock(self._loop, self._late, self.abort)
        self._reading_paused = False
        self.write_paused = False
        self._write_waiter: asyncio.Future[None] | None = None

    # What the transport reports

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a stream's
        self.transport = transport
        self._scope = connection_scope(transport, self._root_path)
        self._state.connections.add(self)  # type: ignore[arg-type]  # uvicorn names its own classes
        self._clock.expect(self._limits.header_timeout)

    def data_received(self, data: bytes) -> None:
        cycle = self._cycle
        try:
            if cycle is None:
                if self._phase is _HEAD:
                    self._take_head(data)
                else:
                    self._discard(data)
            elif self._phase is _BODY:
                self._take_body(cycle, data)
            else:
                self._keep(data)
        except GatewayError as error:
            self._refuse(error, new_request_id())

    def eof_received(self) -> bool:
        """The client will send nothing more. Whether it still reads cannot be told apart from its being gone, so an
        answer under way gets a moment to finish and is then given up."""
        cycle = self._cycle
        if cycle is None or cycle.complete:
            return False
        if self._phase is _ANSWER and self.transport.can_write_eof():
            self._closing = True
            self._clock.expect(_HALF_CLOSE_GRACE)
            return True
        self._close()
        self._drop_request()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        self._clock.close()
        self.resume_writing()
        self._drop_request()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._clock.expect_drain(self._limits.write_timeout)

    def resume_writing(self) -> None:
        self.write_paused = False
        if not self.transport.is_closing():  # a connection that closes must also take the rest
            self._clock.drained()
        waiter, self._write_waiter = self._write_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # What the server asks

    def shutdown(self) -> None:
        """Close once the current response, if there is one, is complete."""
        self._closing = True
        if self._cycle is not None:
            self._cycle.keep_alive = False
        elif self._phase is _HEAD and not self._heads.begun:
            self._close()

    def abort(self) -> None:
        """Close now, whatever is under way."""
        self.transport.abort()
        if self._cycle is not None:
            self._cycle.leave()

    # What the cycle asks

    async def drained(self) -> None:
        while self.write_paused:
            self._write_waiter = waiter = self._loop.create_future()
            await waiter

    def body_wanted(self) -> None:
        cycle = self._cycle
        if cycle is None or self._clock.running:
            return
        if cycle.expects_continue and not cycle.started:
            cycle.expects_continue = False
            self.transport.write(CONTINUE)
        self._resume_reading()
        self._clock.expect(self._body_seconds)

    def answered(self, cycle: Cycle) -> None:
        self._cycle = None
        self._state.total_requests += 1
        if self._phase is _BODY:
            self._linger()
            self._drop_request()
        elif self._closing or not cycle.keep_alive:
            self._close()
        else:
            self._phase = _HEAD
            self._clock.expect(self._idle_timeout)
            if self._ahead:
                ahead, self._ahead = self._ahead, b""
                self._resume_reading()
                self.data_received(ahead)

    def failed(self, request_id: str) -> None:
        self._refuse(internal_error(request_id), request_id)

    # The request

    def _take_head(self, data: bytes) -> None:
        begun = self._heads.begun
        found = self._heads.take(data)
        if found is not None:
            self._begin(*found)
        elif self._heads.begun and not begun:
            self._clock.expect(self._limits.header_timeout)

    def _begin(self, head: Head, rest: bytes) -> None:
        """Start the application on a request."""
        self._clock.rest()
        self._cycle = cycle = Cycle(self, head)
        if self._closing:
            cycle.keep_alive = False
        scope = request_scope(self._scope, head, self._app_state, cycle)
        cycle.start(self._app, scope, self._loop, self._state.tasks)
        if len(rest) == head.content_length and not head.chunked:
            self._phase = _ANSWER
            cycle.add(rest, last=True)
        else:
            self._phase = _BODY
            self._body = ChunkedBody(self._limits) if head.chunked else None
            self._remaining = head.content_length
            self._await_body(cycle, rest)

    def _await_body(self, cycle: Cycle, rest: bytes) -> None:
        self._body_seconds = self._limits.body_timeout
        if rest:
            self._take_body(cycle, rest)
        if self._phase is _BODY and not self._reading_paused and not cycle.expects_continue:
            self._clock.expect(self._body_seconds)

    def _take_body(self, cycle: Cycle, data: bytes) -> None:
        cycle.expects_continue = False
        chunked = self._body
        rest = b""
        if chunked is None:
            remaining = self._remaining
            if len(data) > remaining:
                data, rest = data[:remaining], data[remaining:]
            self._remaining = remaining - len(data)
            whole = not self._remaining
        else:
            data = chunked.feed(data)
            whole = chunked.complete
            if chunked.excess:
                cycle.keep_alive = False
        cycle.add(data, last=whole)
        if whole:
            self._end_body(rest)
        elif cycle.unread > HIGH_WATER:
            self._pause_reading()
            self._stop_body_clock()

    def _end_body(self, rest: bytes) -> None:
        self._phase = _ANSWER
        self._clock.rest()
        if self._body is not None:
            self._body.close()
            self._body = None
        if rest:
            self._keep(rest)

    def _keep(self, data: bytes) -> None:
        """Hold bytes of a next request. Reading goes on while they are few: only a read tells that a client left."""
        self._ahead += data
        if len(self._ahead) > HIGH_WATER:
            self._pause_reading()

    def _drop_request(self) -> None:
        """Forget the request, telling the application that its client is gone."""
        cycle, self._cycle = self._cycle, None
        if self._body is not None:
            self._body.close()
            self._body = None
        self._ahead = b""
        if cycle is not None:
            cycle.leave()

    # The end

    def _refuse(self, error: GatewayError, request_id: str) -> None:
        """Answer in the application's stead and close; only close where the application's answer has begun."""
        started = self._cycle is not None and self._cycle.started
        if started:
            self.transport.abort()
        else:
            self.transport.write(error_reply(error, request_id))
            self._linger()
        self._drop_request()

    def _linger(self) -> None:
        """Half close, and read on for a moment: a client that is still sending would lose the answer to a reset."""
        if not self.transport.can_write_eof():
            self._close()
            return
        self._allowance = self._bytes_to_swallow()
        self._phase = _LINGER
        self.transport.write_eof()
        self._resume_reading()
        self._clock.expect(self._limits.linger_timeout)

    def _bytes_to_swallow(self) -> int:
        """How much more to read of a request that is already answered: never more than a good one would have had."""
        if self._body is not None:
            left = max(0, self._limits.max_body_bytes - self._body.size)
        else:
            left = self._remaining if self._phase is _BODY else self._limits.max_body_bytes
        return left + _LINGER_BYTES

    def _discard(self, data: bytes) -> None:
        self._allowance -= len(data)
        if self._allowance <= 0:
            self._pause_reading()

    def _close(self) -> None:
        """Close once what was written is on its way, if the client takes it in time."""
        self._phase = _LINGER
        self._clock.rest()
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._clock.expect_drain(self._limits.write_timeout)

    # Reading and its clock

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()

    def _stop_body_clock(self) -> None:
        if self._clock.running:
            self._body_seconds = self._clock.remaining()
            self._clock.rest()

    # Lateness

    def _late(self) -> None:
        """The client has not sent in time what the phase expects."""
        if self._phase is _HEAD and not self._heads.begun:
            self._close()
        elif self._phase is _HEAD:
            self._refuse(request_timeout("head", self._limits.header_timeout), new_request_id())
        elif self._phase is _BODY:
            self._refuse(request_timeout("body", self._limits.body_timeout), new_request_id())
        else:
            self.abort()


def guard_protocol(limits: GuardLimits) -> Callable[..., GuardProtocol]:
    """What uvicorn's `http=` takes. It can be pickled, so that worker processes get the same limits."""
    return partial(GuardProtocol, limits=limits)

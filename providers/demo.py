"""The built-in demo model: an OpenAI upstream without a socket, for trying things out and for tests.

It answers by itself, so it is a `Transport` too. What it sends are the bytes an OpenAI upstream would send, read by
the OpenAI dialect's own code. Commands at the start of the last user message make it misbehave:

    /error 429   answers with that status           /slow 5      waits 5 s before the first byte
    /long 2000   writes 2,000 tokens                /tool        calls the first tool
    /cut 5       breaks off after 5 tokens          /stall 5     falls silent after 5 tokens

On the other endpoints they begin the prompt, the input or the query, and count the parts of the answer.

Streams keep a pace, 40 tokens a second unless the quirk `tokens_per_second` says otherwise (0: as fast as it goes).
Usage is what was sent: a completion token is an event with content.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from gateway.core.body import Body
from gateway.core.dialect import OPENAI
from gateway.core.errors import GatewayError
from gateway.core.form import Form
from gateway.core.headers import first, safe_value
from gateway.core.upstream import FailureKind, Origin, UpstreamFailure, UpstreamRequest
from providers import openai
from providers._demo_endpoints import MEDIA
from providers._demo_replies import plan_reply
from providers._demo_reply import Parts

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target
    from gateway.core.headers import Headers
    from gateway.core.ports import Answer, Stream

TOKENS_PER_SECOND = 40.0

_ORIGIN = Origin("demo", "demo", 0)
_PACE = b"x-demo-tokens-per-second"


class Demo:
    """The `Provider` and its own `Transport`."""

    dialect = "demo"

    def serves(self, operation: str, target: Target) -> bool:
        return operation in MEDIA or openai.PROVIDER.serves(operation, target)

    def request(self, call: Call, target: Target) -> UpstreamRequest:
        pace = target.upstream.quirks.get("tokens_per_second", TOKENS_PER_SECOND)
        headers = [
            (b"content-type", b"application/json"),
            (b"x-request-id", safe_value(call.request_id)),
            (_PACE, safe_value(str(pace))),
        ]
        path = b"/" + call.endpoint.operation.encode("ascii")
        if isinstance(call.body, Form):  # of the file it is enough to know what the form says of it
            body = call.body.with_members({"model": target.upstream_model})
        else:
            body = openai.request_body(call, target)
        return UpstreamRequest(b"POST", _ORIGIN, path, headers, body, target.deadlines)

    def passing(self, call: Call, target: Target, headers: Headers) -> Stream | None:
        return openai.PROVIDER.passing(call, target, headers)

    def stream(self, call: Call, target: Target) -> Stream:
        return openai.PROVIDER.stream(call, target)

    def answer(self, call: Call, target: Target, body: bytes) -> Answer:
        return openai.PROVIDER.answer(call, target, body)

    def error(self, status: int, headers: Headers, body: bytes, target: Target) -> GatewayError:
        return openai.PROVIDER.error(status, headers, body, target)

    def exchange(self, request: UpstreamRequest) -> DemoExchange:
        return DemoExchange(request)


class DemoExchange:
    """One call to the demo model. Holds nothing but a generator and, while it waits, a timer."""

    def __init__(self, request: UpstreamRequest) -> None:
        self.status = 0
        self.headers: Headers = []
        self._request = request
        self._deadlines = request.deadlines
        self._parts: Parts = iter(())
        self._interval = _interval(request)
        self._streamed = False
        self._next_at = 0.0
        self._sleeper: asyncio.Future[None] | None = None
        self._closed = False

    async def start(self) -> None:
        wait = 0.0
        try:
            reply = plan_reply(
                self._request.target.decode("ascii").lstrip("/"),
                Body(self._request.body),
                identity=(first(self._request.headers, b"x-request-id") or b"demo").decode("ascii"),
                created=int(time.time()),
            )
        except GatewayError as error:
            self._refuse(error)
        else:
            wait = reply.wait
            self.status, self._streamed, self._parts = reply.status, reply.streamed, reply.parts
            self.headers = [(b"content-type", reply.content_type), *reply.headers]
        await self._pause(wait, self._deadlines.first_byte, "first_byte_timeout")
        self._next_at = asyncio.get_running_loop().time()

    async def read(self) -> bytes:
        if self._closed:
            raise UpstreamFailure("aborted", "The exchange was closed.")
        for part in self._parts:
            if part is None:
                await self._pause(float("inf"), self._deadlines.idle, "idle_timeout")
            elif part:
                await self._pause(self._until_next(), self._deadlines.idle, "idle_timeout")
                return part
            else:
                await self._pause(0, 0, "idle_timeout")
        await self._pause(0, 0, "idle_timeout")
        return b""

    def close(self) -> None:
        self._closed = True
        self._parts = iter(())
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def _until_next(self) -> float:
        """Seconds until the next part of a stream is due; by the clock of its start, so that the pace holds."""
        if not self._streamed:
            return 0.0
        due, self._next_at = self._next_at, self._next_at + self._interval
        return due - asyncio.get_running_loop().time()

    def _refuse(self, error: GatewayError) -> None:
        self.status = error.status
        self.headers = [(b"content-type", b"application/json")]
        self.headers += [(name.encode("ascii"), safe_value(value)) for name, value in error.headers.items()]
        self._parts = iter((OPENAI.error_body(error, ""),))

    async def _pause(self, seconds: float, deadline: float, late: FailureKind) -> None:
        """Wait, but not past a deadline and not past `close`. Always lets others run."""
        if seconds <= 0:
            await asyncio.sleep(0)
        else:
            await self._sleep(min(seconds, deadline))
        if self._closed:
            raise UpstreamFailure("aborted", "The exchange was closed.")
        if seconds > deadline:
            raise UpstreamFailure(late, f"The demo model was silent for {deadline:g} s.")

    async def _sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        sleeper = self._sleeper = loop.create_future()
        timer = loop.call_later(seconds, _wake, sleeper)
        try:
            await sleeper
        finally:
            timer.cancel()
            self._sleeper = None


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


def _interval(request: UpstreamRequest) -> float:
    """Seconds between two tokens."""
    try:
        pace = float(first(request.headers, _PACE) or TOKENS_PER_SECOND)
    except ValueError:
        pace = TOKENS_PER_SECOND
    return 1.0 / pace if pace > 0 else 0.0


PROVIDER = Demo()

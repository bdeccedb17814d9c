"""The load generator: keep-alive connections that call in a closed loop, as an SDK would, and check every answer.

Started as a process by the bench, `python -m bench.load` reads one `Phase` a line as JSON, runs it, and answers with
one line of `Outcome`. It reads the CPU clocks of the processes under test itself, right before and after the calls.
"""

from __future__ import annotations

import asyncio
import sys
from array import array
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import cast

import httptools
import msgspec
import uvloop

from bench import procfs

PATIENCE_S = 15.0
"""How long calls may take beyond a phase's end before they count as lost."""

SETTLE_S = 0.05
"""Work that a gateway does after the last byte, such as settling and journalling, belongs to the calls too."""

APART_S = 0.001
"""Streams start this long after one another, so that their chunks do not come in step."""


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """What to do: `connections` call `model` for `seconds`, at least once each, and before that, unaccounted, for
    `warmup` seconds.

    `chunks` is how many events a stream must have, 0 asks for whole answers. With `hold`, each connection opens one
    stream and keeps it for `seconds` after the last of them began. `watch` are the roots of the processes to account.
    """

    port: int
    key: str
    model: str
    connections: int
    seconds: float
    warmup: float
    chunks: int = 0
    hold: bool = False
    watch: tuple[int, ...] = ()


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. Times in seconds, memory in bytes; `cpu` and `resident` are those of the watched processes."""

    calls: int = 0
    errors: int = 0
    first_error: str | None = None
    wall: float = 0.0
    cpu: float = 0.0
    resident_before: int = 0
    resident_after: int = 0
    p50: float = 0.0
    p99: float = 0.0


def request_bytes(phase: Phase) -> bytes:
    """The call as openai-python sends it: its headers in its order and a chat of about 1 KB."""
    body = msgspec.json.encode(
        {
            "model": phase.model,
            "messages": [
                {"role": "system", "content": "You are a careful assistant. Answer briefly and name sources. " * 6},
                {"role": "user", "content": "Summarise what the following paragraph says about the plan. " * 8},
            ],
            "max_tokens": 256,
            "temperature": 0.2,
            "stream": phase.chunks > 0,
        }
    )
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{phase.port}\r\n"
        "Accept-Encoding: gzip, deflate\r\n"
        "Connection: keep-alive\r\n"
        f"authorization: Bearer {phase.key}\r\n"
        "accept: application/json\r\n"
        "content-type: application/json\r\n"
        "user-agent: OpenAI/Python 3.54.0\r\n"
        "x-stainless-lang: python\r\n"
        "x-stainless-package-version: 3.54.0\r\n"
        "x-stainless-os: Linux\r\n"
        "x-stainless-arch: x64\r\n"
        "x-stainless-runtime: CPython\r\n"
        "x-stainless-runtime-version: 3.11.7\r\n"
        "x-stainless-async: false\r\n"
        "x-stainless-retry-count: 0\r\n"
        "x-stainless-read-timeout: 600\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def complaint(status: int, body: bytes, chunks: int) -> str | None:
    """What is wrong with an answer, if anything. The parser has already held it to its announced length."""
    if status != 200:
        return f"status {status}: {body[:200].decode(errors='replace')}"
    if not chunks:
        whole = body.startswith(b"{") and body.rstrip().endswith(b"}") and b'"chat.completion"' in body
        return None if whole else f"not a completion: {body[:200]!r}"
    if not body.endswith(b"data: [DONE]\n\n"):
        return f"the stream did not end with [DONE] but with {body[-200:]!r}"
    events = body.count(b"data: ") - 1
    return None if events == chunks else f"{events} events in a stream of {chunks}"


class Tally:
    """What the connections of a phase report to."""

    def __init__(self) -> None:
        self.latencies = array("d")
        self.errors = 0
        self.first_error: str | None = None

    def failed(self, what: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or what

    def quantile(self, q: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[int(q * (len(ordered) - 1))] if ordered else 0.0


class Caller(asyncio.Protocol):
    """One keep-alive connection that calls again as soon as it was answered."""

    def __init__(self, request: bytes, chunks: int) -> None:
        self._request = request
        self._chunks = chunks
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._until = self._sent_at = 0.0
        self._tally = Tally()
        self._done: asyncio.Future[None] | None = None
        self._lost = False
        self.on_first_byte: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    @property
    def streams(self) -> bool:
        return self._chunks > 0

    def call(self, until: float, tally: Tally) -> asyncio.Future[None]:
        """Call at least once, and again until the time on `perf_counter`. Done when the last answer is complete."""
        self._until = until
        self._tally = tally
        self._done = asyncio.get_running_loop().create_future()
        if self._lost:
            self._fail("the connection was closed between calls")
        else:
            self._send()
        return self._done

    def _send(self) -> None:
        self._sent_at = perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")
            self._transport.abort()

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body
        if self.on_first_byte is not None:
            self.on_first_byte()
            self.on_first_byte = None

    def on_message_complete(self) -> None:
        now = perf_counter()
        problem = complaint(self._parser.get_status_code(), self._body, self._chunks)
        if problem is None:
            self._tally.latencies.append(now - self._sent_at)
        else:
            self._tally.failed(problem)
        if now < self._until:
            self._send()
        else:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._fail(f"the connection was lost during a call: {exc or 'closed by the server'}")

    def _fail(self, what: str) -> None:
        if self._done is not None:
            self._tally.failed(what)
            self._finish()

    def _finish(self) -> None:
        done, self._done = self._done, None
        if done is not None and not done.done():
            done.set_result(None)

    def close(self) -> None:
        """Drop the connection; a call under way counts as neither made nor failed."""
        self._done = None
        self._transport.abort()


async def _connect(phase: Phase) -> list[Caller]:
    loop = asyncio.get_running_loop()
    request = request_bytes(phase)
    callers = []
    for _ in range(phase.connections):
        _, caller = await loop.create_connection(lambda: Caller(request, phase.chunks), "127.0.0.1", phase.port)
        callers.append(caller)
    return callers


async def _round(callers: Sequence[Caller], seconds: float, tally: Tally) -> None:
    """Every caller calls for so long, at least once."""
    until = perf_counter() + seconds
    calls = []
    for caller in callers:
        calls.append(caller.call(until, tally))
        await asyncio.sleep(APART_S if caller.streams else 0)
    try:
        async with asyncio.timeout(seconds + PATIENCE_S):
            await asyncio.gather(*calls)
    except TimeoutError:
        for call in calls:
            if call.cancelled():
                tally.failed(f"no answer within {PATIENCE_S:.0f} s")


async def _hold(callers: Sequence[Caller], seconds: float, tally: Tally) -> None:
    """Every caller opens a stream; return some time after all of them have begun."""
    begun = asyncio.Semaphore(0)
    for caller in callers:
        caller.on_first_byte = begun.release
        caller.call(0.0, tally)
        await asyncio.sleep(APART_S)
    try:
        async with asyncio.timeout(PATIENCE_S):
            for _ in callers:
                await begun.acquire()
    except TimeoutError:
        tally.failed(f"not every stream had begun after {PATIENCE_S:.0f} s")
    await asyncio.sleep(seconds)


async def run(phase: Phase) -> Outcome:
    """Connect, warm up, and do what the phase says. Raises `OSError` when the target or a watched process is gone."""
    pids = [pid for root in phase.watch for pid in procfs.descendants(root)]
    resident_before = procfs.resident_bytes(pids)
    callers = await _connect(phase)
    tally = Tally()
    try:
        if not phase.hold:
            await _round(callers, phase.warmup, tally)
            tally.latencies = array("d")
        cpu_before, started = procfs.cpu_seconds(pids), perf_counter()
        await (_hold if phase.hold else _round)(callers, phase.seconds, tally)
        wall = perf_counter() - started
        await asyncio.sleep(SETTLE_S)
        cpu = procfs.cpu_seconds(pids) - cpu_before
        resident_after = procfs.resident_bytes(pids)
    finally:
        for caller in callers:
            caller.close()
    return Outcome(
        calls=len(tally.latencies),
        errors=tally.errors,
        first_error=tally.first_error,
        wall=wall,
        cpu=cpu,
        resident_before=resident_before,
        resident_after=resident_after,
        p50=tally.quantile(0.5),
        p99=tally.quantile(0.99),
    )


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin:
            phase = msgspec.json.decode(line, type=Phase)
            try:
                outcome = runner.run(run(phase))
            except OSError as error:
                outcome = Outcome(errors=1, first_error=f"{type(error).__name__}: {error}")
            print(msgspec.json.encode(outcome).decode(), flush=True)


if __name__ == "__main__":
    main()

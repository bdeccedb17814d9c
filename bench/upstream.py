"""A fake provider that costs next to nothing: `POST /v1/chat/completions`, whole or as a paced stream.

The request's model steers it: `paced-50x10ms` streams 50 chunks, one every 10 ms. Started as a process by the bench:
`python -m bench.upstream --port N` serves on the loopback until its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import re
import sys
import threading
from collections.abc import Callable
from typing import cast

import httptools
import uvloop

DEFAULT_CHUNKS = 50
DEFAULT_PACE_MS = 10

_STREAMED = re.compile(rb'"stream"\s*:\s*true')
_WANTS_USAGE = re.compile(rb'"include_usage"\s*:\s*true')
_PACED = re.compile(rb'"model"\s*:\s*"paced-(\d+)x(\d+)ms"')

_USAGE = b'"usage":{"prompt_tokens":211,"completion_tokens":49,"total_tokens":260}'
_COMPLETION = (
    b'{"id":"chatcmpl-9f2c61d07be84","object":"chat.completion","created":1760000000,"model":"plain",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"The quick brown fox jumps over the lazy dog."},'
    b'"logprobs":null,"finish_reason":"stop"}],' + _USAGE + b"}"
)
_EVENT = (
    b'data: {"id":"chatcmpl-9f2c61d07be84","object":"chat.completion.chunk","created":1760000000,"model":"paced",'
    b'"choices":[%s]%s}\n\n'
)


def _whole(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _choice(delta: bytes, finish: bytes = b"null") -> bytes:
    return b'{"index":0,"delta":{%s},"finish_reason":%s}' % (delta, finish)


_PLAIN_REPLY = _whole(b"200 OK", _COMPLETION)
_NOT_FOUND = _whole(b"404 Not Found", b'{"error":{"message":"No such path.","type":"invalid_request_error"}}')
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
_FIRST = _chunked(_EVENT % (_choice(b'"role":"assistant","content":""'), b""))
_MIDDLE = _chunked(_EVENT % (_choice(b'"content":" word"'), b""))
_LAST = _chunked(_EVENT % (_choice(b"", b'"stop"'), b""))
_USAGE_EVENT = _chunked(_EVENT % (b"", b"," + _USAGE))
_DONE = _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Wheel:
    """One timer for everything that is paced: what falls due in the same millisecond runs in one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, list[Callable[[], None]]] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def now(self) -> int:
        return int(self._loop.time() * 1000)

    def at(self, due: int, action: Callable[[], None]) -> None:
        """Run the action at a time in milliseconds of the loop's clock."""
        slot = self._slots.get(due)
        if slot is not None:
            slot.append(action)
            return
        self._slots[due] = [action]
        heapq.heappush(self._order, due)
        if self._order[0] == due:
            self._wake_at(due)

    def _wake_at(self, due: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due / 1000, self._turn)

    def _turn(self) -> None:
        self._timer = None
        now = self.now()
        while self._order and self._order[0] <= now:
            for action in self._slots.pop(heapq.heappop(self._order)):
                action()
        if self._order:
            self._wake_at(self._order[0])


class _Paced:
    """One streamed answer; the wheel asks it for a chunk at a time. The `last` one closes its connection."""

    __slots__ = ("_due", "_last", "_left", "_pace", "_transport", "_usage", "_wheel")

    def __init__(
        self, transport: asyncio.Transport, wheel: Wheel, chunks: int, pace_ms: int, usage: bool, last: bool
    ) -> None:
        self._transport = transport
        self._wheel = wheel
        self._left = max(2, chunks) - 1
        self._pace = max(1, pace_ms)
        self._usage = usage
        self._last = last
        transport.write(_STREAM_HEAD + _FIRST)
        self._due = wheel.now() + self._pace
        wheel.at(self._due, self.step)

    def step(self) -> None:
        if self._transport.is_closing():
            return
        self._left -= 1
        if self._left:
            self._transport.write(_MIDDLE)
            self._due += self._pace
            self._wheel.at(self._due, self.step)
        else:
            self._transport.write(_LAST + (_USAGE_EVENT if self._usage else b"") + _DONE)
            if self._last:
                self._transport.close()


class Upstream(asyncio.Protocol):
    """A keep-alive connection to the fake provider; answers come in the order of the requests."""

    def __init__(self, wheel: Wheel) -> None:
        self._wheel = wheel
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._path = url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        last = not self._parser.should_keep_alive()
        if self._path != b"/v1/chat/completions":
            self._transport.write(_NOT_FOUND)
        elif _STREAMED.search(body) is None:
            self._transport.write(_PLAIN_REPLY)
        else:
            paced = _PACED.search(body)
            chunks, pace = (int(paced[1]), int(paced[2])) if paced else (DEFAULT_CHUNKS, DEFAULT_PACE_MS)
            _Paced(self._transport, self._wheel, chunks, pace, _WANTS_USAGE.search(body) is not None, last)
            return
        if last:
            self._transport.close()


async def serve(port: int, until: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    wheel = Wheel(loop)
    server = await loop.create_server(lambda: Upstream(wheel), "127.0.0.1", port, backlog=4096)
    async with server:
        await until.wait()


async def _main(port: int) -> None:
    loop = asyncio.get_running_loop()
    until = asyncio.Event()

    def wait_for_parent() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(until.set)

    threading.Thread(target=wait_for_parent, daemon=True).start()
    await serve(port, until)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, required=True)
    uvloop.run(_main(arguments.parse_args().port))

"""What fake upstreams have in common: a real socket in a thread of its own, and answers that may be whole, streamed,
cut or never finished.

A fake is a function that is given each `Asked` and gives what to send: bytes that it makes with `whole` or `streamed`,
a `float` of seconds to wait, or `CUT`, after which the connection is reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.gateway import free_port

CUT: Final = "cut"
FOREVER = 3600.0

Step = bytes | float | str


@dataclass
class Asked:
    """A request as it came. `gone` is set once its client has left before the end."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    gone: threading.Event = field(default_factory=threading.Event)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def whole(status: int, body: Any, content_type: str = "application/json") -> Iterator[Step]:
    """A whole answer; `body` is JSON, or bytes as they are."""
    raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    head = f"HTTP/1.1 {status} Fake\r\ncontent-type: {content_type}\r\ncontent-length: {len(raw)}\r\n\r\n"
    yield head.encode() + raw


def streamed(steps: Iterable[Step], content_type: str = "text/event-stream") -> Iterator[Step]:
    """A chunked answer, a chunk for every piece."""
    yield f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    for step in steps:
        yield b"%x\r\n%s\r\n" % (len(step), step) if isinstance(step, bytes) else step
        if step == CUT:
            return
    yield b"0\r\n\r\n"


class Served:
    """A running fake. `asked` has its requests in order."""

    def __init__(self, answer: Callable[[Asked], Iterable[Step]]) -> None:
        self.port = free_port()
        self.asked: list[Asked] = []
        self._answer = answer
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._end = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def last(self) -> Asked:
        return self.asked[-1]

    def start(self) -> None:
        self._thread.start()
        assert self._listening.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._listen())
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self._listening.set()
        await self._end.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    asked = await _read(reader)
                    self.asked.append(asked)
                    if not await self._send(asked, reader, writer):
                        break
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _send(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection can go on."""
        for step in self._answer(asked):
            if step == CUT:
                writer.transport.abort()
                return False
            if isinstance(step, float):
                if await _left(reader, step):
                    asked.gone.set()
                    return False
                continue
            assert isinstance(step, bytes)
            writer.write(step)
            await writer.drain()
        return True


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    path, _, query = target.partition("?")
    return Asked(method, path, query, headers, await reader.readexactly(int(headers.get("content-length", 0))))


async def _left(reader: asyncio.StreamReader, within_s: float) -> bool:
    """Wait, and say whether the client hung up meanwhile."""
    try:
        return await asyncio.wait_for(reader.read(1), within_s) == b""
    except TimeoutError:
        return False


@contextmanager
def served(answer: Callable[[Asked], Iterable[Step]]) -> Iterator[Served]:
    """A fake that listens, until the end."""
    fake = Served(answer)
    fake.start()
    try:
        yield fake
    finally:
        fake.stop()

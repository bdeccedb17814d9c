"""The third book: an OpenAI-like upstream on a real socket that bills every call it gets, whatever becomes of it.

It lives in a thread with a loop of its own, so nothing that stops a gateway or keeps a test busy stops it. What it does
with a call is written in the call's last message, as a `Plan`:

    with billing_upstream() as upstream:
        ...  # send chat(Plan(chunks=20, every=5).text("n1")) through a gateway
        (bill,) = upstream.book[request_id]

A bill is found by the gateway's own `x-request-id`. One token is billed for each word of the answer.

How long an answer may be it takes from `max_tokens` alone, unless a name of its own for it, `n_predict`, says
otherwise; 0 and less are no bound. Of a member that is sent twice it takes the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Self

import uvloop

from tests.support.gateway import free_port

WORD = "tök "
"""What every token of an answer says. Not ASCII, so that a cut may fall inside a character."""

_BACKLOG = 4096
_NEVER_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of one call. Times are milliseconds: `first` passes before the head, `every` before each token.

    `chunks` is how many tokens the answer has. The upstream stops for good after `stall` tokens, and closes the
    connection after `cut` bytes of the body. `usage` is 1 where the answer reports it, 0 where it reports zeros and -1
    where it says nothing. A `status` other than 200 is an error that costs nothing.
    """

    chunks: int = 2
    every: int = 0
    first: int = 0
    stall: int = -1
    cut: int = -1
    usage: int = 1
    status: int = 200

    def text(self, nonce: str) -> str:
        said = [f"{each.name}={getattr(self, each.name)}" for each in fields(self)]
        return " ".join([f"nonce={nonce}", *said])

    @classmethod
    def read(cls, text: str) -> tuple[str, Self]:
        words = dict(word.split("=", 1) for word in text.split())
        nonce = words.pop("nonce")
        return nonce, cls(**{name: int(value) for name, value in words.items()})


SILENT = Plan(first=_NEVER_MS)
"""Takes the call and never says a word."""


@dataclass(slots=True)
class Bill:
    """One call as the upstream books it: `produced` tokens so far, and whether it gave its `whole` answer."""

    request_id: str
    nonce: str
    plan: Plan
    prompt: int
    produced: int = 0
    whole: bool = False
    open: bool = True

    @property
    def usage(self) -> tuple[int, int] | None:
        """What the answer reports once it is whole: prompt and completion tokens."""
        if not self.whole or self.plan.usage < 0 or self.plan.status != 200:
            return None
        return (self.prompt, self.produced) if self.plan.usage else (0, 0)


class Left(Exception):
    """The gateway has closed the connection."""


class BillingUpstream:
    """`book` has the bills by request id, one for each time that the upstream was asked. `always` is what it does with
    every call, whatever the call's own plan says."""

    def __init__(self) -> None:
        self.port = free_port()
        self.always: Plan | None = None
        self.book: dict[str, list[Bill]] = defaultdict(list)
        self._loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="billing-upstream", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = threading.Event()
        self._end = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def bills(self) -> list[Bill]:
        """Every bill so far."""
        return [bill for bills in list(self.book.values()) for bill in list(bills)]

    @property
    def open(self) -> int:
        """Calls that the upstream still works on."""
        return sum(bill.open for bill in self.bills)

    def start(self) -> None:
        self._thread.start()
        assert self._listening.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._listen())
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=_BACKLOG)
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
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, Left):
            pass  # the gateway left, or the test is over
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one call. False when the connection is to be closed."""
        bill, request = await self._take(reader)
        try:
            return await Answering(bill, request, reader, writer).play()
        finally:
            bill.open = False

    async def _take(self, reader: asyncio.StreamReader) -> tuple[Bill, dict[str, Any]]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        _, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        request = json.loads(body, object_pairs_hook=lambda pairs: dict(reversed(pairs)))
        text = request["messages"][-1]["content"]
        nonce, plan = Plan.read(text)
        bill = Bill(headers["x-request-id"], nonce, self.always or plan, prompt=3 + len(text) // 4)
        self.book[bill.request_id].append(bill)
        return bill, request


class Answering:
    """One answer on its way, cut where the plan says so."""

    def __init__(
        self, bill: Bill, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._bill = bill
        self._plan = bill.plan
        self._request = request
        self._reader = reader
        self._writer = writer
        self._left_to_send = bill.plan.cut

    async def play(self) -> bool:
        await self._pause(self._plan.first)
        if self._plan.status != 200:
            return self._refuse()
        return await (self._stream() if self._request.get("stream") else self._whole())

    def _refuse(self) -> bool:
        body = json.dumps({"error": {"message": "as planned", "type": "x_error", "param": None, "code": None}}).encode()
        self._writer.write(_head(self._plan.status, b"application/json", len(body)) + body)
        return True

    async def _whole(self) -> bool:
        await self._produce_all()
        choice = {"index": 0, "message": {"role": "assistant", "content": WORD * self._bill.produced}}
        document = {"id": "c", "object": "chat.completion", "choices": [{**choice, "finish_reason": "stop"}]}
        body = json.dumps(document | self._usage(), ensure_ascii=False).encode()
        cut = 0 <= self._plan.cut < len(body)
        self._bill.whole = not cut
        self._writer.write(_head(200, b"application/json", len(body)) + (body[: self._plan.cut] if cut else body))
        await self._writer.drain()
        return not cut

    async def _produce_all(self) -> None:
        for _ in range(self._tokens):
            await self._produce()

    async def _stream(self) -> bool:
        self._writer.write(_head(200, b"text/event-stream"))
        for _ in range(self._tokens):
            await self._produce()
            if not await self._send({"choices": [{"index": 0, "delta": {"content": WORD}, "finish_reason": None}]}):
                return False
        self._bill.whole = True
        last: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
        if self._plan.usage >= 0:
            last.append({"choices": []} | self._usage())
        for event in last:
            if not await self._send(event):
                return False
        if not await self._send_bytes(b"data: [DONE]\n\n"):
            return False
        self._writer.write(b"0\r\n\r\n")
        return True

    @property
    def _tokens(self) -> int:
        most = self._request.get("n_predict", self._request.get("max_tokens")) or 0
        return min(self._plan.chunks, most) if most > 0 else self._plan.chunks

    async def _produce(self) -> None:
        """Another token, in its time; for the one after the last, there is no time."""
        if self._bill.produced == self._plan.stall:
            await self._writer.drain()
            await self._pause(_NEVER_MS)
        await self._pause(self._plan.every)
        self._bill.produced += 1

    def _usage(self) -> dict[str, Any]:
        if self._plan.usage < 0:
            return {}
        prompt, completion = (self._bill.prompt, self._bill.produced) if self._plan.usage else (0, 0)
        counted = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return {"usage": counted}

    async def _send(self, event: dict[str, Any]) -> bool:
        document = {"id": "c", "object": "chat.completion.chunk", **event}
        return await self._send_bytes(b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n")

    async def _send_bytes(self, data: bytes) -> bool:
        """False when the plan's cut fell into these bytes: then only those before it went out."""
        whole = True
        if self._left_to_send >= 0:
            whole = len(data) <= self._left_to_send
            data = data[: self._left_to_send]
            self._left_to_send -= len(data)
        if data:
            self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await self._writer.drain()
        if not whole:
            self._bill.whole = False
        return whole

    async def _pause(self, milliseconds: int) -> None:
        """Wait, unless the gateway leaves meanwhile. Raises `Left`."""
        if not milliseconds:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(milliseconds / 1000):
                if not await self._reader.read(1):
                    raise Left


@contextmanager
def billing_upstream() -> Iterator[BillingUpstream]:
    upstream = BillingUpstream()
    upstream.start()
    try:
        yield upstream
    finally:
        upstream.stop()


def _head(status: int, kind: bytes, length: int | None = None) -> bytes:
    framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    return b"HTTP/1.1 %d Whatever\r\ncontent-type: %b\r\n%b\r\n\r\n" % (status, kind, framing)

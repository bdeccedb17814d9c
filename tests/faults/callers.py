"""Clients, and what each of them saw: the first of the four books.

A call is one request on a connection of its own, at the level of bytes: a client that leaves, reads slowly or is cut
off must be told from one that has its whole answer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.billing_upstream import Plan
from tests.support.until import until

PATIENCE_S = 180.0
_REFUSED_PAUSE_S = 0.02
_nonces = itertools.count(1)


@dataclass(slots=True)
class Seen:
    """One call as its client saw it. `status` is 0 where no head came; `whole` means that all of an answer did;
    `usage` is what it says of prompt and completion tokens; `error` is a code, or why nothing more came."""

    plan: Plan
    nonce: str
    streamed: bool
    status: int = 0
    request_id: str = ""
    body: bytes = b""
    whole: bool = False
    usage: tuple[int, int] | None = None
    error: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class Caller:
    """Whoever holds a key, and how they call. `words` are members that say how long an answer may be, instead of
    `max_tokens`."""

    key: str
    model: str = "billed"
    max_tokens: int = 64
    words: Mapping[str, Any] | None = None
    seen: list[Seen] = field(default_factory=list)

    async def call(
        self, port: int, plan: Plan, *, stream: bool = True, leave_after: float | None = None, leaves: str = "reset"
    ) -> Seen:
        """One call to its end, or until the client leaves, in seconds after it asked: by a RST, or by a FIN."""
        seen = Seen(plan, f"n{next(_nonces)}", stream)
        self.seen.append(seen)
        began = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
        except OSError:
            seen.error = "refused"
            return seen
        try:
            async with asyncio.timeout(PATIENCE_S if leave_after is None else leave_after):
                writer.write(self._request(seen))
                await _read(reader, seen)
        except TimeoutError:
            seen.error = "left" if leave_after is not None else "silence"
            if leaves == "reset":
                _reset(writer)
        except (OSError, asyncio.IncompleteReadError) as error:
            seen.error = seen.error or type(error).__name__
        finally:
            seen.seconds = time.monotonic() - began
            writer.close()
        return seen

    def _request(self, seen: Seen) -> bytes:
        document: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": seen.plan.text(seen.nonce)}],
            "stream": seen.streamed,
            **({"max_tokens": self.max_tokens} if self.words is None else self.words),
        }
        if seen.streamed:
            document["stream_options"] = {"include_usage": True}
        body = json.dumps(document).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {self.key}\r\n"
        head += f"content-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body


async def answered(caller: Caller, port: int, within_s: float = 30.0) -> float:
    """Return when a gateway answers calls; the seconds that took."""
    began = time.monotonic()

    async def whole() -> bool:
        return (await caller.call(port, Plan())).whole

    await until(whole, within_s)
    return time.monotonic() - began


@asynccontextmanager
async def load(
    caller: Caller, ports: Sequence[int], plans: Sequence[Plan], *, callers: int = 8, seed: int = 1
) -> AsyncIterator[list[Seen]]:
    """Calls on and on while the block runs, spread over the gateways; returns when each has come to its end. What
    has been seen by then is given."""
    ending = asyncio.Event()
    seen: list[Seen] = []

    async def call_on_and_on(number: int) -> None:
        chance = random.Random(seed * 1000 + number)
        while not ending.is_set():
            answer = await caller.call(chance.choice(ports), chance.choice(plans), stream=chance.random() < 0.5)
            seen.append(answer)
            if answer.error:
                await asyncio.sleep(_REFUSED_PAUSE_S)

    tasks = [asyncio.create_task(call_on_and_on(number)) for number in range(callers)]
    try:
        yield seen
    finally:
        ending.set()
        await asyncio.gather(*tasks)


async def _read(reader: asyncio.StreamReader, seen: Seen) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    headers = dict(each.lower().split(": ", 1) for each in lines)
    seen.request_id = headers.get("x-request-id", "")
    seen.status = int(line.split(" ")[1])
    length = headers.get("content-length")
    if length is not None:
        seen.body = await reader.readexactly(int(length))
        _understand(seen)
        return
    try:
        await _read_chunks(reader, seen)
    except (asyncio.IncompleteReadError, ConnectionError):
        seen.error = "cut"
    finally:
        _understand(seen)


async def _read_chunks(reader: asyncio.StreamReader, seen: Seen) -> None:
    pieces = []
    try:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            pieces.append((await reader.readexactly(size + 2))[:-2])
    finally:
        seen.body = b"".join(pieces)


def _understand(seen: Seen) -> None:
    """Whether this is an answer, all of it, and what it says of usage."""
    if seen.streamed and seen.status == 200:
        lines = seen.body.rpartition(b"\n\n")[0].split(b"\n")
        events = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
        seen.whole = seen.body.endswith(b"data: [DONE]\n\n")
    else:
        events = [json.loads(seen.body)]
        seen.whole = seen.status == 200
    for event in events:
        if usage := event.get("usage"):
            seen.usage = (usage["prompt_tokens"], usage["completion_tokens"])
        if "error" in event:
            seen.error = event["error"]["code"]
            assert not seen.whole, "an answer that ends in an error must not look whole"


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()

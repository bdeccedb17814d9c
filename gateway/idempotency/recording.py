"""Writes down what a client is sent, for whoever keeps it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from gateway.client import Client, Message
from gateway.core.headers import Headers

MOST_ANSWER_BYTES = 2**20
"""A larger answer is not kept."""


class Recorded(NamedTuple):
    """A whole answer; `body` is None where it is too large to keep."""

    status: int
    headers: Headers
    body: bytes | None


class Recording:
    """`done` is told once, and waited for, when the last piece of the answer is about to go out: the whole, or None
    where that piece tells of a failure. An answer that never ends is never told of."""

    def __init__(self, client: Client, done: Callable[[Recorded | None], Awaitable[None]]) -> None:
        self._client = client
        self._done = done
        self._status = 0
        self._headers: Headers = []
        self._pieces: list[bytes] = []
        self._size = 0
        client.tee(self._see)

    async def _see(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], message["headers"]
            return
        self._add(message["body"])
        if not message["more_body"]:
            await self._done(None if self._client.failed else self._whole())

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= MOST_ANSWER_BYTES:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def _whole(self) -> Recorded:
        body = b"".join(self._pieces) if self._size <= MOST_ANSWER_BYTES else None
        return Recorded(self._status, self._headers, body)

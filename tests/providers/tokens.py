"""A token endpoint, as tests of whatever needs tokens ask it."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs

from gateway.core.headers import Headers
from gateway.core.upstream import UpstreamFailure, UpstreamRequest


class Endpoint:
    """A `Transport` to a token endpoint that answers as told: a status and a body, or a failure."""

    def __init__(self, *answers: tuple[int, bytes] | UpstreamFailure, waits: asyncio.Event | None = None) -> None:
        self._answers = list(answers)
        self._waits = waits
        self.asked: list[UpstreamRequest] = []

    def exchange(self, request: UpstreamRequest) -> Exchange:
        self.asked.append(request)
        return Exchange(self._answers.pop(0), self._waits)


class Exchange:
    def __init__(self, answer: tuple[int, bytes] | UpstreamFailure, waits: asyncio.Event | None) -> None:
        self._answer = answer
        self._waits = waits
        self.status = 0
        self.headers: Headers = []

    async def start(self) -> None:
        if self._waits is not None:
            await self._waits.wait()
        if isinstance(self._answer, UpstreamFailure):
            raise self._answer
        self.status, self._body = self._answer

    async def read(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def close(self) -> None:
        pass


def granted(token: str = "eyJ.a", lifetime: Any = 3599) -> tuple[int, bytes]:
    return 200, json.dumps({"access_token": token, "expires_in": lifetime, "token_type": "Bearer"}).encode()


def form_of(request: UpstreamRequest) -> dict[str, str]:
    """What was asked."""
    return {name: value for name, (value,) in parse_qs(request.body.decode(), strict_parsing=True).items()}

"""Answers in this process. They end with it, and so do its claims."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from gateway.idempotency.seam import OVERHEAD, Answer, Standing

MOST_BYTES = 64 * 2**20
MOST_KEYS = 100_000


class _Finished(NamedTuple):
    fingerprint: str
    answer: Answer | None
    size: int
    until: float


class MemoryAnswers:
    """Of the finished calls the oldest make room; a running one never does. `clock` counts seconds."""

    def __init__(
        self, most_bytes: int = MOST_BYTES, most_keys: int = MOST_KEYS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_bytes = most_bytes
        self._most_keys = most_keys
        self._clock = clock
        self._running: dict[str, tuple[str, str]] = {}  # fingerprint and owner
        self._finished: OrderedDict[str, _Finished] = OrderedDict()
        self._bytes = 0

    async def claim(self, scope: str, fingerprint: str, owner: str, by: float | None = None) -> Answer | Standing:
        running = self._running.get(scope)
        if running is not None:
            return "running" if running[0] == fingerprint else "other_body"
        found = self._found(scope)
        if found is None:
            self._running[scope] = (fingerprint, owner)
            return "granted"
        if found.fingerprint != fingerprint:
            return "other_body"
        return "not_kept" if found.answer is None else found.answer

    async def keep(self, scope: str, fingerprint: str, owner: str, answer: Answer | None, for_s: int) -> None:
        if self._running.get(scope) == (fingerprint, owner):
            del self._running[scope]
            self._finish(scope, fingerprint, answer, for_s)

    async def find(self, scope: str, by: float | None = None) -> Answer | None:
        found = self._found(scope)
        return None if found is None else found.answer

    async def put(self, scope: str, answer: Answer | None, for_s: int) -> None:
        if scope in self._finished:
            self._drop(scope)
        if answer is not None:
            self._finish(scope, "", answer, for_s)

    def _found(self, scope: str) -> _Finished | None:
        found = self._finished.get(scope)
        if found is not None and found.until <= self._clock():
            self._drop(scope)
            return None
        return found

    def _finish(self, scope: str, fingerprint: str, answer: Answer | None, for_s: int) -> None:
        size = OVERHEAD if answer is None else answer.size
        self._finished[scope] = _Finished(fingerprint, answer, size, self._clock() + for_s)
        self._bytes += size
        while self._bytes > self._most_bytes or len(self._finished) + len(self._running) > self._most_keys:
            if not self._finished:
                return
            self._drop(next(iter(self._finished)))

    async def free(self, scope: str, owner: str, by: float | None = None) -> None:
        running = self._running.get(scope)
        if running is not None and running[1] == owner:
            del self._running[scope]

    async def remind(self) -> None:
        """Nothing is lost here."""

    async def start(self) -> None:
        """Nothing lapses here: a claim ends with its call or with the process."""

    async def close(self) -> None:
        self._finished.clear()
        self._bytes = 0

    def _drop(self, scope: str) -> None:
        self._bytes -= self._finished.pop(scope).size

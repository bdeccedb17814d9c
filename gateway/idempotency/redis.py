"""Answers in Redis, shared by all processes of a gateway.

A claim is a lease that its process renews while the call runs, so the keys of a process that was killed are free again
when it lapses. What is kept has a bound of its own, because the counters need the same server's memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.core.headers import Headers
from gateway.core.ports import DECISION_S
from gateway.idempotency.seam import OVERHEAD, Answer, Standing, StoreUnavailable
from gateway.quotas.pool import connection_pool

PREFIX = "{aidock}:once"
CACHE_PREFIX = "{aidock}:cache"
LEASE_S = 60.0
RENEW_S = 15.0
MOST_BYTES = 256 * 2**20
_CONNECTIONS = 16
_AT_ONCE = 500
_MOST_UNFREED = 10_000
_NOBODY = ""
"""The owner whose answer takes any other's place."""

logger = logging.getLogger("aidock.idempotency")

Script = Callable[..., Awaitable[Any]]


class RedisAnswers:
    """`url` is the counters'. Every verb is decided within `decision_s`, or sooner where told, and sent once: the
    library's own retries are off, because a claim whose reply was lost would find itself running."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = PREFIX,
        lease_s: float = LEASE_S,
        renew_s: float = RENEW_S,
        decision_s: float = DECISION_S,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._redis = Redis.from_pool(connection_pool(url, _CONNECTIONS, decision_s))
        self._claim, self._keep, self._free, self._renew = map(self._script, ("claim", "keep", "free", "renew"))
        self._find = self._script("find")
        self._prefix = prefix
        self._lease_ms = int(lease_s * 1000)
        self._renew_s = renew_s
        self._decision_s = decision_s
        self._most_bytes = most_bytes
        self._running: dict[str, tuple[str, str]] = {}  # fingerprint and owner
        self._unfreed: dict[str, str] = {}
        self._bell = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def claim(self, scope: str, fingerprint: str, owner: str, by: float | None = None) -> Answer | Standing:
        running = self._running.get(scope)
        if running is not None:  # whatever the store has forgotten of it
            return "running" if running[0] == fingerprint else "other_body"
        try:
            found = await self._ask(self._claim, [self._key(scope)], [fingerprint, owner, self._lease_ms], by)
        except BaseException:
            self._free_later(scope, owner)  # it may have been granted
            raise
        match found:
            case [b"granted"]:
                self._running[scope] = (fingerprint, owner)
                return "granted"
            case [b"running"]:
                return "running"
            case [b"other_body"]:
                return "other_body"
            case [b"not_kept"]:
                return "not_kept"
            case [b"answer", status, head, body]:
                return Answer(int(status), _headers(head), body)
        raise StoreUnavailable("the store of answers answered what was not asked")

    async def keep(self, scope: str, fingerprint: str, owner: str, answer: Answer | None, for_s: int) -> None:
        self._running.pop(scope, None)
        await self._keep_now(scope, fingerprint, owner, answer, for_s)

    async def find(self, scope: str, by: float | None = None) -> Answer | None:
        status, head, body = await self._ask(self._find, [self._key(scope)], [], by)
        return Answer(int(status), _headers(head), body) if status not in (None, b"0") else None

    async def put(self, scope: str, answer: Answer | None, for_s: int) -> None:
        await self._keep_now(scope, "", _NOBODY, answer, for_s)

    async def _keep_now(self, scope: str, fingerprint: str, owner: str, answer: Answer | None, for_s: int) -> None:
        kept = Answer(0, [], b"") if answer is None else answer
        head = b"\n".join(b"%b:%b" % header for header in kept.headers)
        bound = [for_s * 1000, OVERHEAD if answer is None else answer.size, self._most_bytes]
        keys = [self._key(scope), f"{self._prefix}.index", f"{self._prefix}.bytes"]
        await self._ask(self._keep, keys, [fingerprint, owner, *bound, kept.status, head, kept.body])

    async def free(self, scope: str, owner: str, by: float | None = None) -> None:
        self._running.pop(scope, None)
        self._free_later(scope, owner)
        try:
            await self._free_now(scope, owner, by)
        except StoreUnavailable as error:
            self._bell.set()
            logger.warning("An idempotency key is freed later than its call ended.", extra={"reason": str(error)})

    async def remind(self) -> None:
        try:
            await self._renew_all()
        except StoreUnavailable as error:
            logger.warning("The store of answers cannot be told of running calls.", extra={"reason": str(error)})

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="idempotency")

    async def close(self) -> None:
        self._closing = True  # a cancellation alone can get lost: Python 3.11's wait_for, which the library sends with
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None
        await self._redis.aclose()

    async def _run(self) -> None:
        """Renew the leases of running calls, and free what could not be freed when it should have been; soon where the
        bell rings."""
        while not self._closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._renew_s):
                    await self._bell.wait()
            self._bell.clear()
            try:
                await self._renew_all()
                for scope, owner in list(self._unfreed.items()):
                    await self._free_now(scope, owner)
            except StoreUnavailable as error:
                logger.warning("The leases of idempotency keys could not be renewed.", extra={"reason": str(error)})

    async def _renew_all(self) -> None:
        running = list(self._running.items())
        for start in range(0, len(running), _AT_ONCE):
            some = running[start : start + _AT_ONCE]
            owners = [word for _, pair in some for word in pair]
            await self._ask(self._renew, [self._key(scope) for scope, _ in some], [self._lease_ms, *owners])
            for scope, (_, owner) in some:
                if scope not in self._running:
                    await self._free_now(scope, owner)  # it ended meanwhile, and may have been claimed anew by this

    async def _free_now(self, scope: str, owner: str, by: float | None = None) -> None:
        await self._ask(self._free, [self._key(scope)], [owner], by)
        self._unfreed.pop(scope, None)

    def _free_later(self, scope: str, owner: str) -> None:
        """Remember, within bounds: what is forgotten lapses with its lease."""
        if len(self._unfreed) < _MOST_UNFREED:
            self._unfreed[scope] = owner

    async def _ask(
        self, script: Script, keys: Sequence[str], arguments: Sequence[str | bytes | int], by: float | None = None
    ) -> Any:
        """Run a script. One deadline covers the wait for a connection and all that is sent and read on it."""
        left = self._decision_s if by is None else min(self._decision_s, by - time.monotonic())
        if left <= 0:
            raise StoreUnavailable("no time is left to ask the store of answers")
        try:
            async with asyncio.timeout(left):
                return await script(keys=keys, args=arguments)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"the store of answers: {str(error) or 'timeout'}") from error

    def _key(self, scope: str) -> str:
        return f"{self._prefix}:{scope}"

    def _script(self, verb: str) -> Script:
        source = (resources.files(__package__) / f"{verb}.lua").read_bytes()
        script: Script = self._redis.register_script(source)
        return script


def _headers(head: bytes) -> Headers:
    pairs = (line.partition(b":") for line in head.split(b"\n") if line)
    return [(name, value) for name, _, value in pairs]

"""Makes a call once for all requests that carry the same key, and gives the others what the first was given.

What a client was sent is stored before the last byte of it goes out, so a client that has its whole answer never
finds its key still in use. A process that dies between the two leaves the key to its lease.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Awaitable, Callable

from gateway.client import Client
from gateway.core.call import Call
from gateway.core.errors import DO_NOT_RETRY, GatewayError, accounting_unavailable, invalid_request
from gateway.core.headers import Headers
from gateway.idempotency.recording import Recorded, Recording
from gateway.idempotency.seam import Answer, AnswerStore, Standing, StoreUnavailable

_HEADER = b"idempotency-key"
_KEY = re.compile(rb"[!-~]{1,255}")
_REPLAYED = (b"idempotent-replayed", b"true")
_NOT_REPLAYED = (b"age", b"content-length", b"x-ratelimit-")
"""What is measured anew, and what was true at its time only."""
_PASSING = frozenset({408, 429})
"""Client errors of an upstream that the same request may not meet again."""

logger = logging.getLogger("aidock.idempotency")


def idempotency_key(headers: Headers) -> bytes | None:
    """The key a request carries, None where it carries none. Raises 400 for one that cannot be used."""
    found = [value for name, value in headers if name == _HEADER]
    if not found:
        return None
    if _KEY.fullmatch(found[0]) is None or len(found) > 1:
        raise invalid_request("Idempotency-Key must be one value of 1 to 255 visible ASCII characters.")
    return found[0]


class Once:
    """The calls that carry a key. One object per process."""

    def __init__(self, store: AnswerStore) -> None:
        self._store = store

    async def make(
        self, key: bytes, call: Call, client: Client, keep_s: int, by: float, make: Callable[[], Awaitable[None]]
    ) -> Answer | None:
        """Make the call and keep its answer, or answer with what is kept, and return that. Raises 409 while it is being
        made and where its answer was too large to keep, 422 where the key belongs to another body, 503 where the store
        cannot say by `by`, on the monotonic clock. `make` raises `GatewayError` for a call that is refused."""
        record = _Record(self._store, _scope(call, key), _fingerprint(call), call, keep_s)
        found = await record.claim(by)
        if isinstance(found, Answer):
            await client.reply(found.status, [*found.headers, _REPLAYED], found.body)
            return found
        if found != "granted":
            raise _refusal(found)
        record.watch(client)
        try:
            await make()
        except GatewayError:
            await record.close(by)  # whoever was refused waits to be told
            raise
        finally:
            await record.close()
        return None


class _Record:
    """What becomes of one claim."""

    def __init__(self, store: AnswerStore, scope: str, fingerprint: str, call: Call, keep_s: int) -> None:
        self._store = store
        self._scope = scope
        self._fingerprint = fingerprint
        self._owner = call.request_id
        self._keep_s = keep_s
        self._closed = False

    async def claim(self, by: float) -> Answer | Standing:
        """Ask for the call. Raises 503."""
        try:
            return await self._store.claim(self._scope, self._fingerprint, self._owner, by)
        except StoreUnavailable as error:
            raise accounting_unavailable(
                "The gateway cannot check the Idempotency-Key now, so it does not make the call. Try again shortly."
            ) from error

    def watch(self, client: Client) -> None:
        Recording(client, self._finish)

    async def close(self, by: float | None = None) -> None:
        """The call is over. One without a whole answer leaves its key free."""
        if not self._closed:
            self._closed = True
            await self._store.free(self._scope, self._owner, by)

    async def _finish(self, told: Recorded | None) -> None:
        """The last piece is about to go out."""
        if self._closed:
            return
        if told is None or told.status >= 500 or told.status in _PASSING:
            await self.close()
            return
        self._closed = True
        answer = None
        if told.body is not None:
            headers = [pair for pair in told.headers if not pair[0].startswith(_NOT_REPLAYED)]
            answer = Answer(told.status, headers, told.body)
        try:
            await self._store.keep(self._scope, self._fingerprint, self._owner, answer, self._keep_s)
        except StoreUnavailable as error:
            logger.warning(
                "An answer could not be kept for its idempotency key, which will be free again soon.",
                extra={"http.request.id": self._owner, "reason": str(error)},
            )


def _scope(call: Call, key: bytes) -> str:
    """One name for caller, endpoint and key. None of the first two can hold the separator."""
    parts = (call.principal.key_id.encode(), call.endpoint.name.encode(), key)
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _fingerprint(call: Call) -> str:
    """What is asked: the body, and the model, which may stand in the path. Which model answers is no part of it."""
    asked = hashlib.sha256((call.endpoint.model or "").encode() + b"\0")
    asked.update(call.body.raw)
    return asked.hexdigest()


def _refusal(found: Standing) -> GatewayError:
    if found == "running":
        return GatewayError(
            409,
            "idempotency_key_in_use",
            "A call with this Idempotency-Key is still running. Ask again when it has ended.",
            headers={"retry-after": "1"},
        )
    if found == "other_body":
        return GatewayError(
            422,
            "idempotency_key_reused",
            "This Idempotency-Key was used with another request body. A new request needs a new key.",
            headers=DO_NOT_RETRY,
        )
    return GatewayError(
        409,
        "idempotency_answer_not_kept",
        "The call with this Idempotency-Key was made, but its answer was too large to keep, so it cannot be given "
        "again. To make another call use a new key.",
        headers=DO_NOT_RETRY,
    )

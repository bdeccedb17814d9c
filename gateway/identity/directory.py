"""Who is calling, and what binds them: answered from memory, kept true by a revision number.

Every process polls the number that all changes to departments, users, keys and quotas raise. When it has moved, the
callers known here are read again in one go, so a change never sends all of them to the database one by one, and a
database that is down takes nothing away from those already known.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import NamedTuple

from gateway.core.errors import GatewayError, accounting_unavailable, invalid_api_key
from gateway.core.limits import Limit, LimitSet
from gateway.core.ports import StoreUnavailable
from gateway.core.principal import Principal
from gateway.identity.holders import NEXT, admit
from gateway.identity.keys import KEY_LENGTH, PREFIX, digest, parse
from gateway.identity.limits import LimitBook
from gateway.identity.pepper import Pepper, confirm
from gateway.storage import api_keys, quotas, revisions
from gateway.storage.api_keys import KeyHolder
from gateway.storage.engine import Database
from gateway.storage.errors import DatabaseUnavailable

POLL_S = 1.0
REFRESH_S = 4.0
MAX_CALLERS = 50_000
MAX_UNKNOWN = 10_000
UNKNOWN_S = 3.0
_CHUNK = 500

_LOG = logging.getLogger("aidock.identity")


class _Refused(NamedTuple):
    """Why a key opens nothing, for as long as that is remembered (on the monotonic clock)."""

    message: str
    until: float


class Directory:
    """The callers, keys and limits of one process. `healthy` says whether the last look at the database succeeded.

    `before_limits` is awaited with limits set by hand before they bind anyone, so that they can be counted up first.
    """

    def __init__(self, database: Database, pepper: Pepper, file_limits: Callable[[], tuple[Limit, ...]]) -> None:
        self.healthy = True
        self._database = database
        self._pepper = pepper
        self._confirmed = False
        self.before_limits: Callable[[tuple[Limit, ...]], Awaitable[None]] = _nothing
        self._revision = -1
        self._limits_revision = -1
        self._callers: OrderedDict[bytes, Principal] = OrderedDict()
        self._handle_key = secrets.token_bytes(32)
        self._digests: dict[bytes, bytes] = {}
        self._unknown: OrderedDict[bytes, _Refused] = OrderedDict()
        self._lookups: dict[bytes, asyncio.Task[Principal | GatewayError]] = {}
        self._book = LimitBook(file_limits)

    def recall(self, credential: bytes | str) -> Principal | None:
        """The caller, if known here and not expired. None means no more than: ask `find`."""
        if isinstance(credential, str):
            credential = credential.encode("utf-8", "replace")
        if len(credential) != KEY_LENGTH:
            return None
        key = self._digests.get(blake2b(credential, key=self._handle_key).digest())
        return None if key is None else self._known(key)

    async def find(self, credential: bytes | str) -> Principal:
        """The caller. Raises 401 for a key that opens nothing, 503 while the database cannot say."""
        if isinstance(credential, str):
            credential = credential.encode("utf-8", "replace")
        public_id = parse(credential)
        if public_id is None:
            raise invalid_api_key(_malformed(credential))
        key = digest(self._pepper, credential)
        principal = self._known(key)
        if principal is not None:
            self._remember_digest(credential, key)
            return principal
        refused = self._unknown.get(key)
        if refused is not None and refused.until > time.monotonic():
            raise invalid_api_key(refused.message)
        found = await asyncio.shield(self._lookup(key, public_id))
        if isinstance(found, GatewayError):
            raise GatewayError(found.status, found.code, found.message, type=found.type, headers=found.headers)
        self._remember_digest(credential, key)
        return found

    def limits(self, principal: Principal, model_id: str) -> LimitSet:
        """What binds a caller on a model."""
        return self._book.limits(principal, model_id)

    async def refresh(self) -> None:
        """Catch up with the database. To be awaited once before the first call is served.

        Raises `DatabaseUnavailable`, which leaves everything as it was, and `PepperRefused`.
        """
        if not self._confirmed:
            async with self._database.write() as session:
                await confirm(session, self._pepper)
            self._confirmed = True
        async with self._database.read() as session:
            revision = await revisions.current(session)
            if revision == self._revision == self._limits_revision:
                return
            limits = await quotas.limits(session)
            digests = list(self._callers)
            holders: dict[bytes, KeyHolder] = {}
            for start in range(0, len(digests), _CHUNK):
                for holder in await api_keys.holders(session, digests[start : start + _CHUNK]):
                    holders[holder.digest] = holder
        self._revision = revision
        self._replace_callers(holders)
        self._unknown.clear()
        await self.before_limits(limits)  # may take a while, or fail; who was shut out is out by now
        self._limits_revision = revision
        self._book.load(limits)

    async def run(self, poll_s: float = POLL_S) -> None:
        """Catch up again and again, until cancelled."""
        while True:
            await asyncio.sleep(poll_s)
            try:
                async with asyncio.timeout(REFRESH_S):
                    await self.refresh()
            except (DatabaseUnavailable, StoreUnavailable, TimeoutError) as error:
                if self.healthy:
                    _LOG.error(
                        "The directory cannot be read; known callers keep working.",
                        extra={"reason": str(error) or "it took too long"},
                    )
                self.healthy = False
            else:
                if not self.healthy:
                    _LOG.info("The directory can be read again.")
                self.healthy = True

    async def close(self) -> None:
        """End look-ups that still wait for the database."""
        lookups = list(self._lookups.values())
        for task in lookups:
            task.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)

    def _known(self, key: bytes) -> Principal | None:
        principal = self._callers.get(key)
        if principal is None:
            return None
        if principal.expires_at is not None and principal.expires_at <= time.time():
            del self._callers[key]
            return None
        self._callers.move_to_end(key)
        return principal

    def _lookup(self, key: bytes, public_id: str) -> asyncio.Task[Principal | GatewayError]:
        """The look-up of this key that is under way, or a new one: a burst of calls is one question."""
        task = self._lookups.get(key)
        if task is None:
            task = self._lookups[key] = asyncio.create_task(self._ask(key, public_id))
            task.add_done_callback(lambda _: self._lookups.pop(key, None))
        return task

    async def _ask(self, key: bytes, public_id: str) -> Principal | GatewayError:
        """Ask the database. Returns errors, so that nobody has to be there to catch them."""
        try:
            async with self._database.read() as session:
                revision = await revisions.current(session)
                holder = await api_keys.holder(session, key)
        except DatabaseUnavailable:
            return accounting_unavailable(
                "The gateway cannot look up API keys now: its database does not answer. Try again shortly."
            )
        fresh = revision >= self._revision  # an answer from before the last change must not be kept
        admitted = admit(holder, public_id, time.time())
        if isinstance(admitted, GatewayError):
            if fresh:
                self._remember_unknown(key, admitted.message)
        elif fresh:
            self._callers[key] = admitted
            if len(self._callers) > MAX_CALLERS:
                self._callers.popitem(last=False)
        return admitted

    def _remember_digest(self, credential: bytes, key: bytes) -> None:
        """Let `recall` find the digest without OpenSSL, whose keyed hash costs a call 50 us more than this one."""
        if len(self._digests) >= 2 * MAX_CALLERS:
            del self._digests[next(iter(self._digests))]
        self._digests[blake2b(credential, key=self._handle_key).digest()] = key

    def _remember_unknown(self, key: bytes, message: str) -> None:
        self._unknown[key] = _Refused(message, time.monotonic() + UNKNOWN_S)
        self._unknown.move_to_end(key)
        if len(self._unknown) > MAX_UNKNOWN:
            self._unknown.popitem(last=False)

    def _replace_callers(self, holders: dict[bytes, KeyHolder]) -> None:
        """Keep the callers whose keys still open the door, as they are now, in the order of last use.

        A caller who came in while the others were read is dropped: the next call asks for it again.
        """
        now = time.time()
        asked = ((key, admit(holder, holder.public_id, now)) for key in self._callers if (holder := holders.get(key)))
        self._callers = OrderedDict((key, caller) for key, caller in asked if isinstance(caller, Principal))


async def _nothing(_limits: tuple[Limit, ...]) -> None:
    return


def _malformed(credential: bytes) -> str:
    if not credential:
        return f"No API key was given. Send one as 'Authorization: Bearer {PREFIX}…'."
    return f"This is not an API key of this gateway, or it was cut short or mistyped. Keys begin with {PREFIX}. {NEXT}"

"""Puts a kept conversation into the body of the call that continues it, and keeps what the call adds.

The body is whole before anything reads it, so policies look at all of the conversation and the call holds room for all
of it. What was added is kept before the last byte of the answer goes out: whoever has the answer can continue it.
"""

from __future__ import annotations

import hashlib
import logging
from typing import NamedTuple

from gateway.client import Client, Message
from gateway.conversations.seam import ConversationStore, StoreUnavailable
from gateway.core.body import Body
from gateway.core.call import Call
from gateway.core.endpoint import Inference
from gateway.core.errors import GatewayError, request_too_large
from gateway.core.ports import Continues
from gateway.core.principal import Principal
from gateway.settings.schema import ServerSettings

MOST_CONVERSATION_BYTES = 4 * 2**20
"""A longer conversation is not kept."""

logger = logging.getLogger("aidock.conversations")


class Recalled(NamedTuple):
    """A body, and what it continues: the id of an answer whose conversation is in it now."""

    body: Body
    continues: str | None = None


class Conversations:
    """One object per process."""

    def __init__(self, store: ConversationStore) -> None:
        self._store = store

    async def recall(self, endpoint: Inference, principal: Principal, body: Body, server: ServerSettings) -> Recalled:
        """The body with the conversation that it continues, as it came where none is kept. Raises 413 where that is
        longer than a body may be, 503 where the store cannot say."""
        continues = endpoint.continues if server.responses_store_seconds else None
        identity = None if continues is None else continues.continued(body)
        if continues is None or identity is None:
            return Recalled(body)
        conversation = await self.lookup(principal, identity)
        if conversation is None:
            return Recalled(body)
        joined = continues.joined(body, conversation)
        most = server.max_body_bytes
        if len(joined.raw) > most:
            raise request_too_large(f"With the conversation that it continues the call has more than {most} bytes.")
        return Recalled(joined, identity)

    async def lookup(self, principal: Principal, identity: str) -> bytes | None:
        """What is kept for its user, None where nothing is, or no longer. Raises 503."""
        try:
            return await self._store.get(_name(principal, identity))
        except StoreUnavailable as error:
            raise _unavailable() from error

    async def forget(self, principal: Principal, identity: str) -> bool:
        """Keep it no longer; whether it was kept. Raises 503."""
        try:
            return await self._store.drop(_name(principal, identity))
        except StoreUnavailable as error:
            raise _unavailable() from error

    def watch(self, call: Call, client: Client, keep_s: int) -> None:
        """Keep the conversation for `keep_s` seconds once its answer is whole, where the client lets it be kept."""
        continues = call.endpoint.continues
        if continues is None or not keep_s or not continues.wants_keeping(call.body):
            return

        async def see(message: Message) -> None:
            if message["type"] == "http.response.body" and not message["more_body"] and not client.failed:
                await self._keep(continues, call, message["body"], keep_s)

        client.tee(see)

    async def _keep(self, continues: Continues, call: Call, last: bytes, keep_s: int) -> None:
        added = continues.conversation(call, last)
        if added is None or len(added.conversation) > MOST_CONVERSATION_BYTES:
            return
        try:
            await self._store.put(_name(call.principal, added.identity), added.conversation, keep_s)
        except StoreUnavailable as error:
            logger.warning(
                "A conversation could not be kept; its client will have to send it whole.",
                extra={"http.request.id": call.request_id, "reason": str(error)},
            )


def _unavailable() -> GatewayError:
    message = "The gateway cannot look up the conversations that it keeps now. Try again shortly."
    return GatewayError(503, "conversation_unavailable", message, type="server_error", headers={"retry-after": "1"})


def _name(principal: Principal, identity: str) -> str:
    """Nobody but the same user finds what is kept under it."""
    return hashlib.sha256(b"\0".join((principal.user.encode(), identity.encode("utf-8", "replace")))).hexdigest()

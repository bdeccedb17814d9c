"""The conversation behind a response: what was asked and what was answered, as items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.core import sse
from gateway.core.body import Body, DecodeError, encode, raw_items, raw_members
from gateway.core.errors import DO_NOT_RETRY, GatewayError
from gateway.core.ports import Kept

if TYPE_CHECKING:
    from gateway.core.call import Call

_WHOLE = (b'"completed"', b'"incomplete"')


class Continued:
    """What `Continues` asks for."""

    def continued(self, body: Body) -> str | None:
        return body.text("previous_response_id")

    def wants_keeping(self, body: Body) -> bool:
        return bytes(body.members.get("store", b"")) != b"false"

    def joined(self, body: Body, conversation: bytes) -> Body:
        items = [*raw_items(raw_members(conversation)["items"]), *_items(body)]
        return Body(body.with_members({"input": items, "previous_response_id": None}))

    def conversation(self, call: Call, last: bytes) -> Kept | None:
        """What the gateway answered itself; a response that an upstream made is that upstream's to keep."""
        identity = f"resp_{call.request_id}"
        try:
            document = raw_members(_last_document(last))["response"] if call.streamed else last
            response = raw_members(document)
            if bytes(response["id"]) != encode(identity) or bytes(response["status"]) not in _WHOLE:
                return None
            items = [*_items(call.body), *raw_items(response["output"])]
            return Kept(identity, encode({"items": items, "response": response}))
        except (KeyError, *DecodeError):
            return None


def response_in(conversation: bytes) -> bytes:
    """The response that ended a conversation."""
    return bytes(raw_members(conversation)["response"])


def not_kept(identity: str) -> GatewayError:
    """404: nothing is kept under an id, or not for this user; the two are not told apart."""
    message = f"There is no response '{identity[:100]}' kept here, or no longer. The gateway keeps those that it told "
    message += "through chat, for server.responses_store_seconds; others are their provider's to keep."
    return GatewayError(404, "response_not_found", message, headers=DO_NOT_RETRY)


def _items(body: Body) -> list[Any]:
    """The input as items; what is no input is none."""
    raw = body.members.get("input", b"")
    if bytes(memoryview(raw)[:1]) == b'"':
        return [{"type": "message", "role": "user", "content": raw}]
    try:
        return list(raw_items(raw))
    except DecodeError:
        return []


def _last_document(block: bytes) -> bytes:
    documents = [payload for event in sse.events(block) if (payload := sse.data(event)) is not None]
    return documents[-1] if documents else b""

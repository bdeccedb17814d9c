"""The conversation behind a response: what was asked and what was answered, as items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.core import sse
from gateway.core.body import Body, DecodeError, encode, raw_items, raw_members
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
        items = [*raw_items(conversation), *_items(body)]
        return Body(body.with_members({"input": items, "previous_response_id": None}))

    def conversation(self, call: Call, last: bytes) -> Kept | None:
        """What the gateway answered itself; a response that an upstream made is that upstream's to keep."""
        identity = f"resp_{call.request_id}"
        try:
            response = raw_members(_last_document(last) if call.streamed else last)
            if call.streamed:
                response = raw_members(response["response"])
            if bytes(response["id"]) != encode(identity) or bytes(response["status"]) not in _WHOLE:
                return None
            return Kept(identity, encode([*_items(call.body), *raw_items(response["output"])]))
        except (KeyError, *DecodeError):
            return None


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

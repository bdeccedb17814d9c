"""Tells the system's messages as the user's, for models that know no system.

A model says so by its `supported_roles`. It is the same for every provider, so it is done to the call before a provider
sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gateway.core.body import Body, DecodeError, decode, raw_items, raw_members
from gateway.core.call import Call
from gateway.core.deployment import Target
from gateway.endpoints.chat_completions import ENDPOINT as CHAT

_SYSTEM = (b'"system"', b'"developer"')
_ROLES = frozenset({"system", "developer"})


def folded(call: Call, target: Target) -> Call:
    """The call as a target's model can take it: the texts of system messages lead the first message of the user."""
    if call.endpoint.operation != CHAT.operation or not _ROLES.isdisjoint(target.model.supported_roles):
        return call
    if not any(role in call.body.raw for role in _SYSTEM):
        return call
    try:
        messages = _fold([raw_members(message) for message in raw_items(call.body.members["messages"])])
    except DecodeError:
        return call  # what is no list of objects is the provider's to refuse
    return replace(call, body=Body(call.body.with_members({"messages": messages})))


def _fold(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    said = [text for message in messages if _role(message) in _SYSTEM for text in _texts(message.get("content"))]
    texts = [text for text in said if text]
    others = [dict(message) for message in messages if _role(message) not in _SYSTEM]
    if not texts:
        return others
    lead = "\n\n".join(texts)
    for message in others:
        if _role(message) == b'"user"':
            message["content"] = _led(lead, message.get("content"))
            return others
    return [{"role": "user", "content": lead}, *others]


def _role(message: Mapping[str, Any]) -> bytes:
    return bytes(message.get("role", b""))


def _texts(content: bytes | None) -> list[str]:
    """The texts of a system message, which may be in parts."""
    match decode(content) if content is not None else None:
        case str(text):
            return [text]
        case [*parts]:
            found = [part.get("text") for part in parts if isinstance(part, dict)]
            return [text for text in found if isinstance(text, str)]
    return []


def _led(lead: str, content: bytes | None) -> object:
    """A message's content with a text before it; parts keep their bytes."""
    if content is not None and bytes(content).startswith(b"["):
        return [{"type": "text", "text": lead}, *raw_items(content)]
    said = decode(content) if content is not None else None
    return f"{lead}\n\n{said}" if isinstance(said, str) and said else lead

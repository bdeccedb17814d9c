"""What upstreams of chat may refuse in a request that a client of another dialect has sent, and that was told as chat.

Such clients send hints that they do not know to be refused, so these are left out where the upstream does not
understand them. Who speaks OpenAI's dialect gets what it asks for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.core.body import Body

FOREIGN = frozenset({"cache_control", "reasoning_content", "reasoning_effort", "thinking_blocks", "top_k"})
"""Members of the request, of its messages, of their parts, and of its tools, that not every upstream takes."""

LATE_SYSTEM = "late_system"
"""Not a member: that system messages may stand anywhere. Many models' templates want them first."""

_REASONING = re.compile(r"(?:^|/)(?:o\d|gpt-(?:[5-9]|\d\d|oss))")
"""Models of OpenAI's that take an effort; the others refuse it."""


def understood(stated: frozenset[str], model: str, *, by_openai: bool) -> frozenset[str]:
    """What an upstream understands of it: as stated, and what its model's name says."""
    known = {"reasoning_effort"} if _REASONING.search(model) else set()
    return stated | known | ({LATE_SYSTEM} if by_openai else set())


def plainly_told(body: Body, understands: frozenset[str]) -> dict[str, Any]:
    """Changes to a body's members that take out what the upstream does not understand. Texts that were parts only
    because they were marked become one text again, which more upstreams take."""
    unknown = FOREIGN - understands
    changes: dict[str, Any] = {name: None for name in unknown if name in body.members}
    messages, tools = body.value("messages"), body.value("tools")
    if isinstance(messages, list):
        told = [_plain_message(message, unknown) for message in messages]
        changes["messages"] = told if LATE_SYSTEM in understands else _system_first(told)
    if isinstance(tools, list):
        changes["tools"] = [_without(tool, unknown) for tool in tools]
    return changes


def _plain_message(message: dict[str, Any], unknown: frozenset[str]) -> dict[str, Any]:
    plain: dict[str, Any] = _without(message, unknown)
    content = plain.get("content")
    if isinstance(content, list):
        parts = [_without(part, unknown) for part in content]
        between = "" if plain.get("role") == "assistant" else "\n\n"
        plain["content"] = between.join(part["text"] for part in parts) if all(map(_is_text, parts)) else parts
    return plain


def _without(value: Any, unknown: frozenset[str]) -> Any:
    return {name: held for name, held in value.items() if name not in unknown} if isinstance(value, Mapping) else value


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.keys() == {"type", "text"}


def _system_first(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """System messages that come late, told by the user: at the end of what the user has just said, if anything."""
    told: list[dict[str, Any]] = []
    for message in messages:
        late = message.get("role") == "system" and any(earlier["role"] != "system" for earlier in told)
        if not late:
            told.append(message)
        elif told[-1]["role"] == "user":
            told[-1] = {**told[-1], "content": _joined(told[-1]["content"], message["content"])}
        else:
            told.append({"role": "user", "content": message["content"]})
    return told


def _joined(content: Any, more: Any) -> Any:
    if isinstance(content, str) and isinstance(more, str):
        return f"{content}\n\n{more}" if content else more
    return _as_parts(content) + _as_parts(more)


def _as_parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]

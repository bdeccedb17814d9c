"""What OpenAI-like upstreams put on the wire, and what clients read from it."""

from __future__ import annotations

import json
from typing import Any

from tests.support.misbehaving import chunk, ok

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
COST_OF_USAGE = 10 * 1 + 5 * 2
"""Micro-dollars, at the price that the gateway under test has for its models."""


def event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def delta(text: str, finish: str | None = None) -> bytes:
    """An event of a streamed answer."""
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    return event({"id": "c1", "object": "chat.completion.chunk", "choices": [choice]})


def usage_event(**members: Any) -> bytes:
    return event({"id": "c1", "object": "chat.completion.chunk", "choices": [], "usage": {**USAGE, **members}})


def answer(text: str = "Hi", **members: Any) -> bytes:
    """An unstreamed answer's body."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    document = {"id": "c1", "object": "chat.completion", "choices": [choice], "usage": USAGE}
    return json.dumps({**document, **members}, ensure_ascii=False).encode()


WHOLE = ok(answer())
"""A whole response, head and body."""

EVENTS = delta("Hel") + delta("lo") + delta("", "stop") + usage_event() + DONE


def streamed(events: bytes = EVENTS) -> bytes:
    """A whole streamed response."""
    return STREAM_HEAD + chunk(events) + chunk(b"")


def payloads(body: bytes) -> list[Any]:
    """The data of a stream's events, decoded, except for `[DONE]`."""
    found = [line[6:] for line in body.replace(b"\r\n", b"\n").split(b"\n") if line.startswith(b"data: ")]
    return [data.decode() if data == b"[DONE]" else json.loads(data) for data in found]


def text_of(body: bytes) -> str:
    """What a streamed answer says."""
    events = [each for each in payloads(body) if isinstance(each, dict)]
    return "".join(choice["delta"].get("content") or "" for each in events for choice in each.get("choices", ()))

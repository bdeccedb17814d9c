"""Streams of the Responses API as vendors send them, event by event."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from gateway.core.usage import Usage

USAGE = {
    "input_tokens": 7,
    "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
    "output_tokens": 3,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 10,
}
TEXT = 'Hé 🙂\u2028 "usage": {"input_tokens": 99} response.completed [DO error'


def response(status: str = "in_progress", **members: Any) -> dict[str, Any]:
    return {
        "id": "resp_68af4030592c81938ec0a5fbab4a3e9f05438e46b5f69a3b",
        "object": "response",
        "created_at": 1_741_476_777,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": "gpt-x-2026-01-01",
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": {},
        **members,
    }


def message(text: str, status: str = "completed") -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "status": status, "role": "assistant", "content": [part(text)]}


def part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


_AT = {"item_id": "msg_1", "output_index": 0}
_IN = {**_AT, "content_index": 0}


def text_events(*deltas: str, end: str = "completed", **members: Any) -> list[dict[str, Any]]:
    """A message in so many deltas. `end` is how the response ends, with more `members` of it; empty for not at all."""
    whole = "".join(deltas)
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response()},
        {"type": "response.in_progress", "response": response()},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**message("", "in_progress"), "content": []},
        },
        {"type": "response.content_part.added", **_IN, "part": part("")},
    ]
    events += [
        {"type": "response.output_text.delta", **_IN, "delta": delta, "logprobs": [], "obfuscation": "x7Jd"}
        for delta in deltas
    ]
    if end:
        last = {"output": [message(whole)], "usage": USAGE, **members}
        events += [
            {"type": "response.output_text.done", **_IN, "text": whole, "logprobs": []},
            {"type": "response.content_part.done", **_IN, "part": part(whole)},
            {"type": "response.output_item.done", "output_index": 0, "item": message(whole)},
            {"type": f"response.{end}", "response": response(end, **last)},
        ]
    return numbered(events)


def numbered(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"type": event["type"], "sequence_number": number, **{n: v for n, v in event.items() if n != "type"}}
        for number, event in enumerate(events)
    ]


def wire(*events: dict[str, Any], named: bool = True, **dumping: Any) -> bytes:
    """As bytes; not `named` leaves the `event:` lines out."""
    body = b""
    for event in events:
        name = f"event: {event['type']}\n".encode() if named else b""
        body += name + b"data: " + json.dumps(event, ensure_ascii=False, **dumping).encode() + b"\n\n"
    return body


class Recorded(NamedTuple):
    name: str
    body: bytes
    usage: Usage | None


_CALL = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "f", "arguments": "", "status": "x"}
_CALLED = numbered(
    [
        {"type": "response.created", "response": response()},
        {"type": "response.output_item.added", "output_index": 0, "item": _CALL},
        {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "output_index": 0, "delta": '{"a":'},
        {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "output_index": 0, "delta": "1}"},
        {"type": "response.function_call_arguments.done", "item_id": "fc_1", "output_index": 0, "arguments": '{"a":1}'},
        {"type": "response.output_item.done", "output_index": 0, "item": {**_CALL, "arguments": '{"a":1}'}},
        {"type": "response.completed", "response": response("completed", output=[_CALL], usage=USAGE)},
    ]
)
_TEXT = text_events("Hel", "lo", TEXT)
_INVENTED = numbered(
    [*_TEXT[:4], {"type": "response.sparkle.done", "usage": {"input_tokens": 5}, "error": None}, *_TEXT[4:]]
)
_SHORT = text_events("Hi", end="incomplete", incomplete_details={"reason": "max_output_tokens"})

RECORDED = [
    Recorded("OpenAI", wire(*_TEXT, separators=(",", ":")), Usage(7, 3, 0, 2)),
    Recorded("spaced, CRLF", wire(*_TEXT).replace(b"\n", b"\r\n"), Usage(7, 3, 0, 2)),
    Recorded("CR", wire(*_TEXT).replace(b"\n", b"\r"), Usage(7, 3, 0, 2)),
    Recorded("no event lines, sorted", wire(*_TEXT, named=False, sort_keys=True), Usage(7, 3, 0, 2)),
    Recorded("a tool call", wire(*_CALLED), Usage(7, 3, 0, 2)),
    Recorded("incomplete", wire(*_SHORT), Usage(7, 3, 0, 2)),
    Recorded("events nobody knows, comments", b": hi\n\n" + wire(*_INVENTED), Usage(7, 3, 0, 2)),
    Recorded("no usage", wire(*text_events("Hi", usage=None)), None),
]

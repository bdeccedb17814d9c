"""Streams as Anthropic and its likes send them, event by event."""

from __future__ import annotations

import json
from typing import Any

START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "cache_creation_input_tokens": 2,
            "cache_read_input_tokens": 4,
            "output_tokens": 1,
        },
    },
}
PING: dict[str, Any] = {"type": "ping"}
STOP: dict[str, Any] = {"type": "message_stop"}
OVERLOADED: dict[str, Any] = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def event(document: dict[str, Any]) -> bytes:
    payload = json.dumps(document, ensure_ascii=False)
    return f"event: {document['type']}\ndata: {payload}\n\n".encode()


def begin(index: int, block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, name: str, value: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: value}}


def end(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def over(reason: str | None, **usage: Any) -> dict[str, Any]:
    unknown = dict.fromkeys(
        (
            "input_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
            "output_tokens_details",
            "server_tool_use",
        )
    )
    delta = {"stop_reason": reason, "stop_sequence": None, "stop_details": None, "container": None}
    return {"type": "message_delta", "delta": delta, "usage": {**unknown, "output_tokens": 9, **usage}}


def stream(*documents: dict[str, Any]) -> bytes:
    return b"".join(map(event, documents))


def text(index: int, *pieces: str) -> list[dict[str, Any]]:
    block = begin(index, {"type": "text", "text": "", "citations": None})
    return [block, *(delta(index, "text_delta", "text", piece) for piece in pieces), end(index)]


def thoughts(index: int, signature: str, *pieces: str) -> list[dict[str, Any]]:
    return [
        begin(index, {"type": "thinking", "thinking": "", "signature": ""}),
        *(delta(index, "thinking_delta", "thinking", piece) for piece in pieces),
        delta(index, "signature_delta", "signature", signature),
        end(index),
    ]


def call(index: int, identity: str, name: str, *pieces: str) -> list[dict[str, Any]]:
    return [
        begin(index, {"type": "tool_use", "id": identity, "name": name, "input": {}, "caller": {"type": "direct"}}),
        *(delta(index, "input_json_delta", "partial_json", piece) for piece in pieces),
        end(index),
    ]

"""An OpenAI upstream that serves responses, streamed and not.

What it does with a call is the first word of the call's last text:

    hello    says 'Hello, world.'       tool     calls the first tool         limit    is cut short by its cap
    fail     fails after all of it      error    tells of an error            cut      closes after half of it
    slow     an event every 50 ms       open     never closes after its end   status   answers 429
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.providers.responses_streams import USAGE, numbered, response, text_events, wire
from tests.support.dialects.upstream import Upstream, begin_stream, last_text, send, upstream, write

WORDS = ("Hello", ", ", "world", ".")


def _events(command: str, document: dict[str, Any]) -> list[dict[str, Any]]:
    echo = {"model": document["model"], "metadata": document.get("metadata") or {}}
    match command:
        case "tool":
            return _tool_events(document, echo)
        case "limit":
            return text_events(*WORDS, end="incomplete", incomplete_details={"reason": "max_output_tokens"}, **echo)
        case "fail":
            return text_events(*WORDS, end="failed", error={"code": "server_error", "message": "It broke."}, **echo)
    return text_events(*WORDS, **echo)


def _tool_events(document: dict[str, Any], echo: dict[str, Any]) -> list[dict[str, Any]]:
    name = document["tools"][0]["name"]
    call = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": name, "arguments": ""}
    done = {**call, "arguments": '{"city":"Oslo"}', "status": "completed"}
    at = {"item_id": "fc_1", "output_index": 0}
    return numbered(
        [
            {"type": "response.created", "response": response(**echo)},
            {"type": "response.output_item.added", "output_index": 0, "item": {**call, "status": "in_progress"}},
            {"type": "response.function_call_arguments.delta", **at, "delta": '{"city":'},
            {"type": "response.function_call_arguments.delta", **at, "delta": '"Oslo"}'},
            {"type": "response.function_call_arguments.done", **at, "name": name, "arguments": done["arguments"]},
            {"type": "response.output_item.done", "output_index": 0, "item": done},
            {"type": "response.completed", "response": response("completed", output=[done], usage=USAGE, **echo)},
        ]
    )


def _stream(peer: BaseHTTPRequestHandler, command: str, document: dict[str, Any]) -> None:
    begin_stream(peer)
    events = _events(command, document)
    if command in ("cut", "error"):
        events = events[:6]
    if command == "error":
        events = numbered([*events, {"type": "error", "code": "server_error", "message": "It broke.", "param": None}])
    if command == "slow":
        events = text_events(*WORDS * 50)
    for event in events:
        if event is events[-1] and command in ("fail", "error"):
            time.sleep(0.2)  # so that the client has been answered when it comes
        write(peer, wire(event))
        if command == "slow":
            time.sleep(0.05)
    if command == "open":
        peer.rfile.read(1)  # until the gateway goes
    elif command == "cut":
        peer.close_connection = True
    else:
        peer.wfile.write(b"0\r\n\r\n")


def answer(peer: BaseHTTPRequestHandler, document: dict[str, Any]) -> None:
    """Answer one call."""
    command = last_text(document.get("input")).partition(" ")[0]
    if command == "status":
        send(peer, 429, {"error": {"message": "slow down", "type": "rate_limit_error", "param": None, "code": None}})
    elif document.get("stream"):
        _stream(peer, command, document)
    else:
        send(peer, 200, _events(command, document)[-1]["response"])


def responses_upstream() -> AbstractContextManager[Upstream]:
    """It, running."""
    return upstream(answer)

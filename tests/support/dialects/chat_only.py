"""An upstream that serves chat completions and nothing else, as a reasoning model behind an OpenAI-like server does.

What it does with a call is the first word of its last message:

    hello    thinks, then says 'Hello, world.'   tool     calls every tool             custom   calls one with an input
    refuse   refuses                             limit    is cut short by its cap      filter   is cut short by a filter
    error    tells of an error                   cut      closes after half of it      status   answers 429
    slow     a token every 50 ms                 json     keeps to the format it is asked for
"""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.dialects.upstream import Upstream, begin_stream, last_text, send, upstream, write

WORDS = ("Hello", ", ", "world", ".")
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "total_tokens": 12,
    "completion_tokens_details": {"reasoning_tokens": 1},
}


def answer(peer: BaseHTTPRequestHandler, document: dict[str, Any]) -> None:
    """Answer one call."""
    if peer.path != "/v1/chat/completions":
        send(peer, 404, {"error": {"message": f"no {peer.path} here", "type": "not_found"}})
        return
    command = last_text(document["messages"]).partition(" ")[0]
    if command == "status":
        send(peer, 429, {"error": {"message": "slow down", "type": "rate_limit_error", "param": None, "code": None}})
        return
    deltas, finish = _deltas(command, document)
    if document.get("stream"):
        _stream(peer, command, deltas, finish)
    else:
        choice = {"index": 0, "message": _joined(deltas), "finish_reason": finish}
        send(peer, 200, {"id": "c", "object": "chat.completion", "model": "big", "choices": [choice], "usage": USAGE})


def _deltas(command: str, document: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    role: dict[str, Any] = {"role": "assistant", "content": ""}
    match command:
        case "tool":
            return [role, *_calls(document, '{"city":"Oslo"}')], "tool_calls"
        case "custom":
            return [role, *_calls(document, '{"input":"*** Begin"}')], "tool_calls"
        case "refuse":
            return [role, {"refusal": "No."}], "stop"
        case "json":
            schema = document["response_format"]["json_schema"]["schema"]
            return [role, {"content": json.dumps(dict.fromkeys(schema["properties"], "Oslo"))}], "stop"
    thoughts = [{"reasoning_content": "Hm"}, {"reasoning_content": "."}]
    finish = {"limit": "length", "filter": "content_filter"}.get(command, "stop")
    return [role, *thoughts, *({"content": word} for word in WORDS)], finish


def _calls(document: dict[str, Any], arguments: str) -> list[dict[str, Any]]:
    deltas = []
    for index, tool in enumerate(document["tools"]):
        function = {"name": tool["function"]["name"], "arguments": ""}
        call = {"index": index, "id": f"call_{index}", "type": "function", "function": function}
        half = len(arguments) // 2
        deltas.append({"tool_calls": [call]})
        pieces = (arguments[:half], arguments[half:])
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in pieces]
    return deltas


def _joined(deltas: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        for name in ("content", "reasoning_content", "refusal"):
            if delta.get(name):
                message[name] = (message.get(name) or "") + delta[name]
        for piece in delta.get("tool_calls", ()):
            call = calls.setdefault(piece["index"], {**piece, "function": {**piece["function"], "arguments": ""}})
            call["function"]["arguments"] += piece["function"]["arguments"]
    return {**message, "tool_calls": list(calls.values())} if calls else message


def _stream(peer: BaseHTTPRequestHandler, command: str, deltas: list[dict[str, Any]], finish: str) -> None:
    begin_stream(peer)
    if command in ("cut", "error"):
        deltas = deltas[:4]
    if command == "slow":
        deltas = deltas * 50
    for delta in deltas:
        _chunk(peer, [{"index": 0, "delta": delta, "finish_reason": None}])
        if command == "slow":
            time.sleep(0.05)
    if command == "error":
        time.sleep(0.2)  # so that the client has been answered when it comes
        write(peer, b'data: {"error":{"message":"It broke.","type":"server_error","param":null,"code":null}}\n\n')
    elif command == "cut":
        peer.close_connection = True
        return
    else:
        _chunk(peer, [{"index": 0, "delta": {}, "finish_reason": finish}])
        _chunk(peer, [], usage=USAGE)
        write(peer, b"data: [DONE]\n\n")
    write(peer, b"")


def _chunk(peer: BaseHTTPRequestHandler, choices: list[dict[str, Any]], **members: Any) -> None:
    document = {"id": "c", "object": "chat.completion.chunk", "model": "big", "choices": choices, **members}
    write(peer, b"data: " + json.dumps(document).encode() + b"\n\n")


def chat_upstream() -> AbstractContextManager[Upstream]:
    """It, running."""
    return upstream(answer)

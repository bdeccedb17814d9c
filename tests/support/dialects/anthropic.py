"""A fake of Anthropic's Messages API, strict about what it is sent.

What it does is the last user text's first word: `tools` calls the first tool twice, `think` thinks first, `cite` cites,
`cut` breaks off after a word, `fail` ends with an error in band, `full` has one before anything else, `wait` never
ends, `long` stops at its cap, `refuse` refuses, `429`, `529` and the like refuse by status; the rest is said again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tests.providers.anthropic_streams import (
    OVERLOADED,
    PING,
    STOP,
    begin,
    call,
    delta,
    end,
    event,
    over,
    text,
    thoughts,
)
from tests.support.dialects.served import CUT, FOREVER, Asked, Step, streamed, whole

KEY = "sk-ant-fake-0123456789abcdef"
VERSIONS = ("2023-06-01", "2026-10-21")
USAGE = {"input_tokens": 5, "cache_read_input_tokens": 64, "cache_creation_input_tokens": 2, "output_tokens": 9}
_UNSAID = dict.fromkeys(("cache_creation", "inference_geo", "output_tokens_details", "server_tool_use", "service_tier"))
SIGNATURE = "c2lnbmF0dXJl+/=="
_MEMBERS = {
    "model",
    "max_tokens",
    "messages",
    "system",
    "stream",
    "tools",
    "tool_choice",
    "stop_sequences",
    "temperature",
    "top_p",
    "top_k",
    "metadata",
    "thinking",
    "output_config",
    "cache_control",
    "service_tier",
}
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 529: "overloaded_error"}


def anthropic(asked: Asked) -> Iterable[Step]:
    fault = _fault(asked)
    if fault is not None:
        return _error(*fault)
    body = asked.json
    said = _last_text(body["messages"][-1])
    word = said.split()[0]
    if word.isdigit():
        return _error(int(word), f"refused with {word}")
    if asked.path.endswith("/count_tokens"):
        return whole(200, {"input_tokens": 42})
    documents = _events(word, said, body)
    return streamed(_steps(word, documents)) if body.get("stream") else whole(200, _message(documents))


def _fault(asked: Asked) -> tuple[int, str] | None:
    """What the real one would find wrong."""
    if asked.headers.get("x-api-key") != KEY:
        return 401, "invalid x-api-key"
    if asked.headers.get("anthropic-version") not in VERSIONS:
        return 400, "anthropic-version: unknown"
    if asked.path not in ("/v1/messages", "/v1/messages/count_tokens"):
        return 404, "no such path"
    body = asked.json
    if unknown := body.keys() - _MEMBERS:
        return 400, f"{sorted(unknown)}: Extra inputs are not permitted"
    if asked.path == "/v1/messages" and not isinstance(body.get("max_tokens"), int):
        return 400, "max_tokens: Field required"
    if body["messages"][0]["role"] != "user":
        return 400, "messages: first message must use the user role"
    return None


def _error(status: int, message: str) -> Iterable[Step]:
    told = {"type": _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error"), "message": message}
    return whole(status, {"type": "error", "error": told, "request_id": "req_fake"})


def _last_text(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    block = content[-1]
    if block["type"] == "tool_result":
        inner = block["content"]
        return inner if isinstance(inner, str) else str(inner[0]["text"])
    return str(block["text"])


def _events(word: str, said: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a streamed answer; a whole one is put together from them."""
    pieces = [said[at : at + 5] for at in range(0, len(said), 5)]
    opening = {"id": "msg_fake", "type": "message", "role": "assistant", "model": body["model"], "content": []}
    opening |= dict.fromkeys(("stop_reason", "stop_sequence", "stop_details", "container"))
    opening["usage"] = {**USAGE, "output_tokens": 1, **_UNSAID}
    documents = [{"type": "message_start", "message": opening}, PING]
    match word:
        case "tools":
            name = body["tools"][0]["name"]
            documents += text(0, "I will look.")
            documents += call(1, "toolu_1", name, '{"city":', '"Öslo"}') + call(2, "toolu_2", name)
            return [*documents, over("tool_use", **_final()), STOP]
        case "think":
            documents += [*thoughts(0, SIGNATURE, "Hm, ", "so."), *text(1, *pieces)]
            return [*documents, over("end_turn", **_final(), output_tokens_details={"thinking_tokens": 4}), STOP]
        case "cite":
            cited = {"type": "search_result_location", "source": "https://a.example", "title": "A", "cited_text": "x"}
            cited |= {"search_result_index": 0, "start_block_index": 0, "end_block_index": 1}
            documents += [begin(0, {"type": "text", "text": "", "citations": []})]
            documents += [delta(0, "text_delta", "text", said), delta(0, "citations_delta", "citation", cited), end(0)]
        case _:
            documents += text(0, *pieces)
    reason = {"long": "max_tokens", "refuse": "refusal"}.get(word, "end_turn")
    return [*documents, over(reason, **_final()), STOP]


def _final() -> dict[str, Any]:
    return {name: count for name, count in USAGE.items() if name != "output_tokens"}


def _steps(word: str, documents: list[dict[str, Any]]) -> Iterable[Step]:
    if word == "full":
        yield event(OVERLOADED)
        return
    for document in documents:
        yield event(document)
        if document["type"] == "content_block_delta":
            match word:
                case "cut":
                    yield 0.2
                    yield CUT
                case "fail":
                    yield 0.2  # so that the client has been answered when it comes
                    yield event(OVERLOADED)
                    return
                case "wait":
                    yield FOREVER


def _message(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole message that a stream's events add up to."""
    message = dict(documents[0]["message"])
    content: list[dict[str, Any]] = []
    arguments = ""
    for document in documents:
        match document:
            case {"type": "content_block_start", "content_block": block}:
                content.append(dict(block))
                arguments = ""
            case {"type": "content_block_delta", "delta": {"text": piece}}:
                content[-1]["text"] += piece
            case {"type": "content_block_delta", "delta": {"thinking": piece}}:
                content[-1]["thinking"] += piece
            case {"type": "content_block_delta", "delta": {"signature": piece}}:
                content[-1]["signature"] = piece
            case {"type": "content_block_delta", "delta": {"citation": cited}}:
                content[-1]["citations"] = [cited]
            case {"type": "content_block_delta", "delta": {"partial_json": piece}}:
                arguments += piece
                if arguments.endswith("}"):
                    content[-1]["input"] = json.loads(arguments)
            case {"type": "message_delta", "delta": ended, "usage": usage}:
                message |= {**ended, "usage": {**_UNSAID, **usage}}
    return {**message, "content": content}

"""A fake of an upstream that speaks OpenAI's chat, strict about members that are none of OpenAI's.

What it does is the last text's first word: `tools` calls the first tool twice, `think` thinks first, `cut` breaks off,
`fail` ends with an error in band, `wait` never ends, a number refuses by status; anything else is said again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tests.support.dialects.served import CUT, FOREVER, Asked, Step, streamed, whole

USAGE = {
    "prompt_tokens": 71,
    "completion_tokens": 9,
    "total_tokens": 80,
    "prompt_tokens_details": {"cached_tokens": 64},
}
_FOREIGN = ("cache_control", "thinking_blocks", "reasoning_content", "top_k", "thinking")


def openai_chat(asked: Asked) -> Iterable[Step]:
    body = asked.json
    for name in _FOREIGN:
        if f'"{name}"' in asked.body.decode():
            return _refused(400, f"Unknown parameter: '{name}'")
    said = _last_text(body["messages"][-1]["content"])
    word = said.split()[0]
    if word.isdigit():
        return _refused(int(word), f"refused with {word}")
    return streamed(_steps(word, said, body)) if body.get("stream") else whole(200, _answer(word, said, body))


def _refused(status: int, message: str) -> Iterable[Step]:
    return whole(status, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}})


def _last_text(content: Any) -> str:
    return content if isinstance(content, str) else str(content[-1]["text"])


def _calls(body: dict[str, Any]) -> list[dict[str, Any]]:
    name = body["tools"][0]["function"]["name"]
    return [
        {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, arguments in enumerate(('{"city":"Öslo"}', "{}"))
    ]


def _answer(word: str, said: str, body: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said}
    if word == "tools":
        message = {"role": "assistant", "content": None, "tool_calls": _calls(body)}
    if word == "think":
        message["reasoning_content"] = "Hm, so."
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if word == "tools" else "stop"}
    return {"id": "c1", "object": "chat.completion", "model": body["model"], "choices": [choice], "usage": USAGE}


def _steps(word: str, said: str, body: dict[str, Any]) -> Iterable[Step]:
    yield _chunk({"role": "assistant", "content": ""})
    match word:
        case "tools":
            for index, call in enumerate(_calls(body)):
                arguments = call["function"]["arguments"]
                head = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
                yield _chunk({"tool_calls": [head]})
                for piece in (arguments[:5], arguments[5:]):
                    yield _chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
            yield _chunk({}, "tool_calls")
        case _:
            if word == "think":
                yield _chunk({"reasoning_content": "Hm, "})
                yield _chunk({"reasoning_content": "so."})
            for at in range(0, len(said), 5):
                yield _chunk({"content": said[at : at + 5]})
                if word == "wait":
                    yield FOREVER
                if word in ("cut", "fail"):
                    yield 0.2  # so that the client has been answered when it comes
                    yield CUT if word == "cut" else b'data: {"error":{"message":"It broke.","type":"server_error"}}\n\n'
                    return
            yield _chunk({}, "stop")
    head = {"id": "c1", "object": "chat.completion.chunk", "model": body["model"]}
    yield b"data: " + json.dumps({**head, "choices": [], "usage": USAGE}).encode() + b"\n\ndata: [DONE]\n\n"


def _chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    document = {"id": "c1", "object": "chat.completion.chunk", "model": "plain", "choices": [choice]}
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"

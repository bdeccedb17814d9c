"""A fake of Mistral's chat API, strict about what it is sent. What it does is the last message's first word:

`tools` calls the first tool twice, `think` thinks first, `cut` breaks off after a word, `fail` ends with an error for a
finish reason, `wait` never ends, a number refuses with that status; anything else is said again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from tests.support.dialects.served import CUT, FOREVER, Asked, Step, streamed, whole

KEY = "mistral-key-0123456789abcdef"
USAGE = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
_MEMBERS = {
    "model",
    "messages",
    "stream",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "max_tokens",
    "stop",
    "temperature",
    "top_p",
    "n",
    "random_seed",
    "frequency_penalty",
    "presence_penalty",
    "prompt_mode",
    "safe_prompt",
    "prediction",
}
_MESSAGE = {"role", "content", "tool_calls", "tool_call_id", "name", "prefix"}
_CALL_ID = re.compile(r"[0-9A-Za-z]{9}").fullmatch


def mistral(asked: Asked) -> Iterable[Step]:
    body = asked.json
    if asked.headers.get("authorization") != f"Bearer {KEY}":
        return whole(401, {"detail": "Unauthorized"})
    if asked.path != "/v1/chat/completions":
        return whole(404, {"detail": "Not Found"})
    wrong = _objections(body)
    if wrong:
        detail = [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs"} for name in wrong]
        return whole(422, {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error"})
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else content[0]["text"]
    word = text.split()[0]
    if word.isdigit():
        return whole(int(word), {"object": "error", "message": f"refused with {word}", "type": "x", "code": word})
    return streamed(_events(word, text, body)) if body.get("stream") else whole(200, _answer(word, text, body))


def _objections(body: dict[str, Any]) -> list[str]:
    """What Mistral would not take: members it does not know, and ids of calls that are not nine letters and digits."""
    wrong = sorted(body.keys() - _MEMBERS)
    for message in body["messages"]:
        wrong += sorted(message.keys() - _MESSAGE)
        calls = [call["id"] for call in message.get("tool_calls") or ()]
        wrong += [name for name in (*calls, message.get("tool_call_id", "123456789")) if not _CALL_ID(name)]
    return wrong


def _content(word: str, text: str) -> Any:
    if word != "think":
        return text
    return [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": text}]


def _calls(body: dict[str, Any]) -> list[dict[str, Any]]:
    """As Mistral has them: whole, and without a type."""
    function = {"name": body["tools"][0]["function"]["name"], "arguments": '{"city":"Öslo"}'}
    return [{"id": f"abcdefgh{number}", "function": function} for number in range(2)]


def _answer(word: str, text: str, body: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": _content(word, text), "tool_calls": None}
    reason = {"fail": "error", "long": "model_length"}.get(word, "stop")
    if word == "tools":
        message, reason = {"role": "assistant", "content": "", "tool_calls": _calls(body)}, "tool_calls"
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {**_head("chat.completion", body), "choices": [choice], "usage": USAGE}


def _events(word: str, text: str, body: dict[str, Any]) -> Iterable[Step]:
    yield _chunk(body, {"role": "assistant", "content": ""})
    reason = "error" if word == "fail" else "stop"
    if word == "tools":
        yield _chunk(body, {"content": "", "tool_calls": _calls(body)}, finish="tool_calls", usage=USAGE)
        yield b"data: [DONE]\n\n"
        return
    if word == "think":
        yield _chunk(body, {"content": _content(word, "")[:1]})
    for piece in text.split(" "):
        yield _chunk(body, {"content": piece})
        if word == "cut":
            yield CUT
        if word == "wait":
            yield FOREVER
    yield _chunk(body, {"content": ""}, finish=reason, usage=USAGE)
    yield b"data: [DONE]\n\n"


def _chunk(body: dict[str, Any], delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    document = {**_head("chat.completion.chunk", body), "choices": choices, **more}
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def _head(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"id": "m-1", "object": kind, "created": 1, "model": body["model"]}

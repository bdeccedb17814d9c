"""A fake of Ollama, as strict as it is: unknown types, arguments that are text, and messages whose content is no text
are refused. What it answers is a command in the last message, see `_answers`; anything else is said again.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from tests.support.dialects.served import CUT, FOREVER, Asked, Step, streamed, whole

NDJSON = "application/x-ndjson"

_MEMBERS = {
    "model",
    "messages",
    "stream",
    "format",
    "options",
    "tools",
    "think",
    "keep_alive",
    "logprobs",
    "top_logprobs",
}
_COUNTS = {"total_duration": 9, "prompt_eval_count": 12, "eval_count": 5}


class Refused(Exception):
    """The request is wrong, in Ollama's words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": message}


def ollama(asked: Asked) -> Iterable[Step]:
    """What it does with a request."""
    try:
        body = asked.json
        if body.get("model") == "missing":
            raise Refused(404, "model 'missing' not found")
        if asked.path == "/api/embed":
            return whole(200, _embeddings(body))
        if asked.path != "/api/chat":
            return whole(404, b"404 page not found", "text/plain")
        _check(body)
        answers = _answers(body)
        if body.get("stream", True):
            first = next(answers)  # an error that comes first is a status
            return streamed(_lines(chain([first], answers)), NDJSON)
        return _whole(answers)
    except Refused as refused:
        return whole(refused.status, refused.body)


def _check(body: dict[str, Any]) -> None:
    unknown = body.keys() - _MEMBERS
    if unknown:
        raise Refused(400, f"unknown members {unknown}")
    if body.get("think") not in (None, True, False, "low", "medium", "high", "max"):
        raise Refused(400, "invalid think value")
    for message in body["messages"]:
        if not isinstance(message["content"], str) or message["role"] not in ("system", "user", "assistant", "tool"):
            raise Refused(400, "json: cannot unmarshal message")
        for call in message.get("tool_calls", []):
            if not isinstance(call["function"]["arguments"], dict):
                raise Refused(400, "json: cannot unmarshal arguments")
        for image in message.get("images", []):
            try:
                base64.b64decode(image, validate=True)
            except binascii.Error as error:
                raise Refused(400, "illegal base64 data") from error


def _answers(body: dict[str, Any]) -> Iterator[dict[str, Any] | Step]:
    """The lines of a stream; a whole answer is all of them."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        results = [f"{it['tool_name']}={it['content']}" for it in body["messages"] if it["role"] == "tool"]
        yield from (_line(f"The tools said: {', '.join(results)}."), _done())
        return
    command, _, argument = last["content"].partition(" ")
    match command:
        case "/tools" if body.get("tools"):
            for tool in body["tools"]:
                call = {"function": {"name": tool["function"]["name"], "arguments": {"city": "Tromsø"}}}
                yield _line("", tool_calls=[call])
            yield _done()
        case "/tools":
            yield from (_line("No tools, then."), _done())
        case "/think":
            yield from (_line("", thinking=f"Thinking {body['think']}. "), _line("42"), _done("stop", eval_count=7))
        case "/json":
            assert body["format"]["type"] == "object"
            yield from (_line('{"city":"Oslo",'), _line('"degrees":-3}'), _done())
        case "/length":
            yield from (_line("x"), {**_done("length"), "eval_count": body["options"]["num_predict"]})
        case "/see":
            yield from (_line(f"{len(last['images'])} pictures"), _done())
        case "/error" | "/html" | "/cut" | "/end" | "/midway" | "/stall" | "/silent":
            yield from _misbehaviour(command, argument)
        case _:
            for word in f"You said: {last['content']}".split(" "):
                yield _line(word + " ")
            yield _done()


def _misbehaviour(command: str, argument: str) -> Iterator[dict[str, Any] | Step]:
    if command == "/error":
        raise Refused(int(argument), f"Ollama says {argument}")
    if command == "/html":
        yield b"<html>A proxy says hello</html>\n"
    elif command != "/silent":
        yield _line("Half ")
    if command == "/cut":
        yield CUT
    elif command == "/midway":
        yield 0.2  # what comes with an error at once is never seen
        yield {"error": "an error was encountered while running the model"}
    elif command in ("/stall", "/silent"):
        yield FOREVER


def _line(content: str, **members: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **members}
    return {"model": "fake", "created_at": "2026-11-26T12:00:00Z", "message": message, "done": False}


def _done(reason: str = "stop", **counts: int) -> dict[str, Any]:
    return {**_line(""), "done": True, "done_reason": reason, **_COUNTS, **counts}


def _lines(answers: Iterable[dict[str, Any] | Step]) -> Iterator[Step]:
    for answer in answers:
        yield json.dumps(answer, ensure_ascii=False).encode() + b"\n" if isinstance(answer, dict) else answer


def _whole(answers: Iterable[dict[str, Any] | Step]) -> Iterable[Step]:
    """All lines as one answer; what misbehaves does so in place of it."""
    merged = _line("")
    message = merged["message"]
    for answer in answers:
        if isinstance(answer, bytes):
            return whole(200, answer, "text/html")
        if not isinstance(answer, dict):
            return iter([answer])
        if "error" in answer:
            return whole(500, answer)
        for name, said in answer["message"].items():
            if name != "role" and said:
                message[name] = message[name] + said if name in message else said
        merged = {**answer, "message": message}
    return whole(200, merged)


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    vectors = [[len(text) / 8, -0.5] for text in body["input"]]
    return {"model": "fake", "embeddings": vectors, "prompt_eval_count": 3 * len(vectors)}

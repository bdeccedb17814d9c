"""A fake of Bedrock's runtime: it checks signatures, takes the model out of the path, and is strict about turns. What
it does is the last user text's first word:

`tools` calls the first tool twice, `think` thinks with a signature, `cut` breaks off after a word, `trip` ends with an
exception in band, `wait` never ends, `429`, `500`, `400` refuse; anything else is said again.
"""

from __future__ import annotations

import base64
import json
import struct
from binascii import crc32
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from gateway.core.credentials import AwsKeys
from gateway.core.deployment import Deadlines
from gateway.core.secret import Secret
from gateway.core.upstream import Origin, UpstreamRequest
from providers._aws_signature import sign
from tests.support.dialects.served import CUT, FOREVER, Asked, Step, streamed, whole

KEYS = AwsKeys("eu-west-1", "AKIDEXAMPLE", Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"), Secret("t0ken"))
USAGE = {"inputTokens": 7, "outputTokens": 9, "totalTokens": 80, "cacheReadInputTokens": 60, "cacheWriteInputTokens": 4}
EVENTS = "application/vnd.amazon.eventstream"
_ERRORS = {400: "ValidationException", 429: "ThrottlingException", 500: "InternalServerException"}


def bedrock(asked: Asked) -> Iterable[Step]:
    if not _is_signed(asked):
        return whole(403, {"message": "The request signature does not match."})
    _, _, model, verb = asked.path.split("/")
    if "/" in model or not unquote(model):
        return whole(400, {"message": "The model id is not one segment."})
    body = asked.json
    if verb == "invoke":
        return whole(200, {"embedding": [1.0, 0.5], "inputTextTokenCount": len(body["inputText"])})
    fault = _fault(body)
    if fault:
        return whole(400, {"message": fault})
    text = next(block["text"] for block in reversed(body["messages"][-1]["content"]) if "text" in block)
    word = text.split()[0]
    if word.isdigit():
        return whole(int(word), {"message": f"{_ERRORS[int(word)]}: refused with {word}"})
    if verb == "converse-stream":
        return streamed(_events(word, text, body), EVENTS)
    return whole(200, _answer(word, text, body))


def _is_signed(asked: Asked) -> bool:
    host, _, port = asked.headers["host"].partition(":")
    headers = [(name.encode(), value.encode()) for name, value in asked.headers.items() if name != "host"]
    request = UpstreamRequest(
        b"POST", Origin("http", host, int(port)), asked.path.encode(), headers, asked.body, Deadlines()
    )
    when = datetime.strptime(asked.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    sign(request, KEYS, "bedrock", when)
    return dict(request.headers)[b"authorization"].decode() == asked.headers["authorization"]


def _fault(body: dict[str, Any]) -> str:
    roles = [message["role"] for message in body["messages"]]
    if roles != [("user", "assistant")[index % 2] for index in range(len(roles))]:
        return f"Roles must alternate, from user on: {roles}"
    blocks = [block for message in body["messages"] for block in message["content"]]
    if any(block.get("text", "x").strip() == "" for block in blocks):
        return "The text field is blank."
    if any("toolUse" in block or "toolResult" in block for block in blocks) and "toolConfig" not in body:
        return "The toolConfig field must be defined."
    return ""


def _answer(word: str, text: str, body: dict[str, Any]) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"text": text}]
    reason = "end_turn"
    match word:
        case "tools":
            content = [{"text": "I will look."}, *({"toolUse": call} for call in _calls(body))]
            reason = "tool_use"
        case "think":
            content.insert(0, {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "c2ln"}}})
        case "long":
            reason = "max_tokens"
    message = {"role": "assistant", "content": content}
    return {"output": {"message": message}, "stopReason": reason, "usage": USAGE, "metrics": {"latencyMs": 1}}


def _calls(body: dict[str, Any]) -> list[dict[str, Any]]:
    name = body["toolConfig"]["tools"][0]["toolSpec"]["name"]
    return [{"toolUseId": f"tooluse_{number}", "name": name, "input": {"city": "Öslo"}} for number in range(2)]


def _events(word: str, text: str, body: dict[str, Any]) -> Iterable[Step]:
    yield event("messageStart", role="assistant")
    index = 0
    if word == "think":
        yield delta(index, reasoningContent={"text": "Hm."})
        yield delta(index, reasoningContent={"signature": "c2ln"})
        yield event("contentBlockStop", contentBlockIndex=index)
        index = 1
    for piece in ("I ", "will ", "look.") if word == "tools" else (word + " " for word in text.split(" ")):
        yield delta(index, text=piece)
        if word == "cut":
            yield CUT
        if word == "wait":
            yield FOREVER
        if word == "trip":
            yield exception("modelStreamErrorException", "The model tripped.")
            return
    yield event("contentBlockStop", contentBlockIndex=index)
    if word == "tools":
        for number, call in enumerate(_calls(body)):
            start = {"toolUse": {"toolUseId": call["toolUseId"], "name": call["name"]}}
            yield event("contentBlockStart", start=start, contentBlockIndex=number + 1)
            for piece in ('{"city":', '"Öslo"}'):
                yield delta(number + 1, toolUse={"input": piece})
            yield event("contentBlockStop", contentBlockIndex=number + 1)
    yield event("messageStop", stopReason="tool_use" if word == "tools" else "end_turn")
    yield event("metadata", usage=USAGE, metrics={"latencyMs": 1})


def delta(index: int, **said: Any) -> bytes:
    return event("contentBlockDelta", delta=said, contentBlockIndex=index)


def event(name: str, **members: Any) -> bytes:
    document = {**members, "p": "abcd"}
    return frame({":event-type": name, ":content-type": "application/json", ":message-type": "event"}, document)


def exception(name: str, message: str) -> bytes:
    return frame({":exception-type": name, ":message-type": "exception"}, {"message": message})


def frame(headers: dict[str, str], document: Any) -> bytes:
    payload = json.dumps(document, ensure_ascii=False).encode()
    block = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value.encode())) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    body = prelude + struct.pack(">I", crc32(prelude)) + block + payload
    return body + struct.pack(">I", crc32(body))


PICTURE = base64.b64encode(b"not really a picture").decode()

"""The Mistral dialect: OpenAI's with an accent that a table of quirks cannot say.

Messages go without the members that Mistral refuses; ids of tool calls become nine letters and digits, the same ones
every time; documents and audio are said its way. Answers whose content is a list of thoughts and texts become
`reasoning_content` and `content`; everything else passes as it came.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from gateway.core import sse
from gateway.core.body import Body, DecodeError, decode, encode
from gateway.core.errors import upstream_error
from providers import openai
from providers._chat import refuse
from providers._errors import unreadable
from providers._reader import OpenAIStream

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target
    from gateway.core.ports import Answer
    from gateway.core.upstream import UpstreamRequest

_MEMBERS = frozenset({"role", "content", "tool_calls", "tool_call_id", "prefix"})
"""What Mistral takes of a message; `name` besides, in a tool's result."""

_CALL_ID = re.compile(r"[0-9A-Za-z]{9}").fullmatch
_accent = re.compile(rb'"content"\s*:\s*\[|"tool_calls"\s*:\s*\[|"finish_reason"\s*:\s*"(?:model_length|error)"').search
"""What of an answer has to be said another way."""

_HOLD = 16 * 2**20


class Mistral(openai.OpenAI):
    """The `Provider`."""

    dialect = "mistral"

    def request(self, call: Call, target: Target) -> UpstreamRequest:
        request = super().request(call, target)
        if call.endpoint.operation == "chat/completions":
            request.body = _told(Body(request.body), target)
        return request

    def stream(self, call: Call, target: Target) -> MistralStream:
        return MistralStream(target, keep_usage=call.wants_usage, choices=call.demand.choices)

    def answer(self, call: Call, target: Target, body: bytes) -> Answer:
        try:
            told = _as_openai(body, target) if _accent(body) else body
        except DecodeError as error:
            raise unreadable(target) from error
        return super().answer(call, target, told)


class MistralStream(OpenAIStream):
    """A `Stream`: whole events are put into OpenAI's words where they need it, then read as OpenAI's."""

    __slots__ = ("_target_of", "_unfinished")

    def __init__(self, target: Target, *, keep_usage: bool, choices: int = 1) -> None:
        super().__init__(target, keep_usage=keep_usage, choices=choices)
        self._target_of = target
        self._unfinished = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        unfinished = self._unfinished
        unsearched = max(0, len(unfinished) - 2)
        unfinished += chunk
        end = sse.whole(unfinished, unsearched)
        if not end and len(unfinished) > _HOLD:
            raise unreadable(self._target_of)
        block = bytes(unfinished[:end])
        del unfinished[:end]
        return super().feed(self._translated(block)) if block else b""

    def finish(self) -> bytes:
        rest = self._translated(bytes(self._unfinished))
        self._unfinished.clear()
        told = super().feed(rest) if rest else b""
        return told + super().finish()

    def _translated(self, block: bytes) -> bytes:
        return b"".join(map(self._event, sse.events(block))) if _accent(block) else block

    def _event(self, event: bytes) -> bytes:
        payload = sse.data(event)
        if payload is None or not _accent(payload):
            return event
        try:
            return sse.with_data(event, _as_openai(payload, self._target_of))
        except DecodeError:
            return event  # what an event that was cut off means is for the reader to say


def _told(body: Body, target: Target) -> bytes:
    """A chat body as Mistral takes it. Messages that cannot be read are the upstream's to refuse."""
    changes: dict[str, Any] = {}
    messages = body.value("messages")
    if isinstance(messages, list):
        changes["messages"] = [_message(m, target) if isinstance(m, dict) else m for m in messages]
    match body.value("tool_choice"):
        case {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [*allowed]}}:
            names = {_function_name(tool) for tool in allowed}
            tools = body.value("tools")
            kept = [tool for tool in tools if _function_name(tool) in names] if isinstance(tools, list) else []
            changes |= {"tool_choice": mode, "tools": kept}
    return body.with_members(changes)


def _message(message: Mapping[str, Any], target: Target) -> dict[str, Any]:
    told = {name: value for name, value in message.items() if name in _MEMBERS and value is not None}
    if message.get("role") == "tool" and message.get("name"):
        told["name"] = message["name"]
    if isinstance(told.get("content"), list):
        told["content"] = [_part(part, target) for part in told["content"]]
    elif "content" not in told and "tool_calls" not in told:
        told["content"] = ""
    if isinstance(told.get("tool_calls"), list):
        told["tool_calls"] = [_call(call) for call in told["tool_calls"]]
    if isinstance(told.get("tool_call_id"), str):
        told["tool_call_id"] = _call_id(told["tool_call_id"])
    return told


def _part(part: Any, target: Target) -> Any:
    match part:
        case {"type": "refusal", "refusal": text}:
            return {"type": "text", "text": text}
        case {"type": "text", "text": text}:
            return {"type": "text", "text": text}
        case {"type": "input_audio", "input_audio": {"data": data}}:
            return {"type": "input_audio", "input_audio": data}
        case {"type": "file", "file": {"file_id": str(identity)}}:
            return {"type": "file", "file_id": identity}
        case {"type": "file", "file": {"file_data": str(data)}}:
            if not data.startswith(("data:", "https://")):
                raise refuse("messages", target, "A file must be a data: or an https: URL in 'file_data'.")
            return {"type": "document_url", "document_url": data}
    return part


def _call(call: Any) -> Any:
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        return call
    function = call["function"]
    return {
        "id": _call_id(str(call.get("id") or "")),
        "type": "function",
        "function": {"name": function.get("name"), "arguments": function.get("arguments") or "{}"},
    }


def _call_id(identity: str) -> str:
    """Nine letters and digits, the same for a call and its result."""
    return identity if _CALL_ID(identity) else sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def _function_name(tool: Any) -> str | None:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _as_openai(document: bytes, target: Target) -> bytes:
    """An answer, or a chunk of one, in OpenAI's words. Raises a 502 for one that ended in an error."""
    decoded = decode(document)
    choices = decoded.get("choices") if isinstance(decoded, dict) else None
    if not isinstance(choices, list):
        return document
    for choice in choices:
        if isinstance(choice, dict):
            _choice(choice, target)
    return encode(decoded)


def _choice(choice: dict[str, Any], target: Target) -> None:
    match choice.get("finish_reason"):
        case "model_length":
            choice["finish_reason"] = "length"
        case "error":
            raise upstream_error(f"The provider '{target.upstream.name}' broke off its answer.")
    said = choice.get("delta") or choice.get("message")
    if not isinstance(said, dict):
        return
    content = said.get("content")
    if isinstance(content, list):
        thoughts = "".join(_text(part) for part in content if _kind(part) == "thinking")
        said["content"] = "".join(_text(part) for part in content if _kind(part) != "thinking")
        if thoughts:
            said["reasoning_content"] = thoughts
    calls = said.get("tool_calls")
    if isinstance(calls, list):
        for position, call in enumerate(calls):
            if isinstance(call, dict):
                call.setdefault("type", "function")
                if "delta" in choice:
                    call.setdefault("index", position)


def _kind(part: Any) -> object:
    return part.get("type") if isinstance(part, dict) else None


def _text(part: Any) -> str:
    """The text of a part; a thought holds a list of them."""
    if not isinstance(part, dict):
        return ""
    if part.get("type") == "thinking":
        thinking = part.get("thinking")
        return "".join(map(_text, thinking)) if isinstance(thinking, list) else str(thinking or "")
    text = part.get("text")
    return text if isinstance(text, str) else ""


PROVIDER = Mistral()

"""What Bedrock's Converse answers, whole or streamed, as chat has it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gateway.core.body import decode, encode
from gateway.core.usage import Usage
from providers._errors import answered_error, unreadable
from providers._event_stream import Frame, Frames
from providers._translated import TranslatedStream
from providers._usage import count
from providers._writer import Choice, FinishReason, WrittenAnswer, tool_call

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target

_FINISH: Mapping[str, FinishReason] = {
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
_STATUS = {
    "validationException": 400,
    "throttlingException": 429,
    "modelStreamErrorException": 424,
    "serviceUnavailableException": 503,
}
"""What exceptions in a stream amount to; any other is the service's own fault."""


def written_answer(document: object, call: Call, target: Target) -> WrittenAnswer:
    """A whole answer. Raises a 502 where it is none."""
    match document:
        case {"output": {"message": {"content": [*blocks]}}, "stopReason": str(reason), **rest}:
            choice = Choice(finish=_FINISH.get(reason, "stop"))
            for block in blocks:
                _add(choice, block)
            return WrittenAnswer(call, target.upstream_model, [choice], read_usage(rest.get("usage")))
    raise unreadable(target)


def _add(choice: Choice, block: object) -> None:
    match block:
        case {"text": str(text)}:
            choice.text += text
        case {"toolUse": {"toolUseId": str(identity), "name": str(name), **rest}}:
            choice.calls.append(tool_call(identity, name, encode(rest.get("input") or {}).decode()))
        case {"reasoningContent": {"reasoningText": {"text": str(text), **rest}}}:
            choice.reasoning += text
            if isinstance(rest.get("signature"), str):
                choice.thinking.append({"type": "thinking", "thinking": text, "signature": rest["signature"]})
        case {"reasoningContent": {"redactedContent": str(data)}}:
            choice.thinking.append({"type": "redacted_thinking", "data": data})
        case {"citationsContent": {"content": [*texts], **rest}}:
            start = len(choice.text)
            choice.text += "".join(text["text"] for text in texts if _has_text(text))
            cited = rest.get("citations")
            for citation in cited if isinstance(cited, list) else ():
                choice.annotations += _annotations(citation, start, len(choice.text))


def _annotations(citation: object, start: int, end: int) -> list[dict[str, Any]]:
    if not isinstance(citation, Mapping):
        return []
    location = citation.get("location")
    web = location.get("web") if isinstance(location, Mapping) else None
    url = web.get("url") if isinstance(web, Mapping) else None
    source, title = citation.get("source"), citation.get("title")
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": start,
                "end_index": end,
                "title": title if isinstance(title, str) else "",
                "url": url if isinstance(url, str) else source if isinstance(source, str) else "",
            },
        }
    ]


class BedrockStream(TranslatedStream):
    """A `Stream` of chat's chunks from Amazon's event stream. `metadata`, which has the usage, is its last event."""

    def __init__(self, call: Call, target: Target) -> None:
        super().__init__(call, target)
        self._frames = Frames()
        self._stopped = False
        self._thought = ""
        self._signature = ""
        self._tool_open = False

    def split(self, chunk: bytes) -> Iterable[Frame]:
        return self._frames.feed(chunk)

    def read(self, message: Frame) -> None:
        headers, payload = message
        if headers.get(":message-type") != "event":
            name = headers.get(":exception-type") or headers.get(":error-code") or ""
            raise answered_error(_STATUS.get(name, 500), [], payload or encode({"message": name}), self.target)
        event = decode(payload)
        if not isinstance(event, Mapping):
            raise unreadable(self.target)
        match headers.get(":event-type"):
            case "messageStart":
                self.say(self.write.role())
            case "contentBlockStart":
                self._start(event.get("start"))
            case "contentBlockDelta":
                self._delta(event.get("delta"))
            case "contentBlockStop":
                self._stop()
            case "messageStop":
                self._stopped = True
                self.say(self.write.finish(_FINISH.get(str(event.get("stopReason")), "stop")))
            case "metadata":
                self.usage = read_usage(event.get("usage"))
                if self._stopped:
                    self.end()

    def close(self) -> None:
        if self._stopped:
            self.end()

    def _start(self, start: object) -> None:
        match start:
            case {"toolUse": {"toolUseId": str(identity), "name": str(name)}}:
                self.say(self.write.tool_call(identity, name))
                self._tool_open = True

    def _delta(self, delta: object) -> None:
        match delta:
            case {"text": str(text)}:
                self.say(self.write.text(text))
            case {"toolUse": {"input": str(piece)}} if piece and self.write.called():
                self._tool_open = False
                self.say(self.write.arguments(piece))
            case {"reasoningContent": {"text": str(text)}}:
                self._thought += text
                self.say(self.write.reasoning(text))
            case {"reasoningContent": {"signature": str(signature)}}:
                self._signature += signature
            case {"reasoningContent": {"redactedContent": str(data)}}:
                self.say(self.write.thinking({"type": "redacted_thinking", "data": data}))
            case {"citation": citation}:
                at = self.write.text_bytes
                self.say(self.write.annotations(_annotations(citation, at, at)))

    def _stop(self) -> None:
        """The end of a block: a call without arguments has empty ones, thoughts are handed out with their signature."""
        if self._tool_open:
            self.say(self.write.arguments("{}"))
            self._tool_open = False
        if self._signature:
            block = {"type": "thinking", "thinking": self._thought, "signature": self._signature}
            self.say(self.write.thinking(block))
        self._thought = self._signature = ""


def read_usage(report: object) -> Usage | None:
    """Converse counts what came from or went into the cache apart from the input."""
    if not isinstance(report, Mapping):
        return None
    fresh, written = count(report.get("inputTokens")), count(report.get("outputTokens"))
    if fresh is None or written is None:
        return None
    cached = count(report.get("cacheReadInputTokens"))
    return Usage(fresh + (cached or 0) + (count(report.get("cacheWriteInputTokens")) or 0), written, cached)


def _has_text(part: object) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("text"), str)

"""What Cohere's v2 chat answers, whole or streamed, as chat has it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gateway.core.errors import GatewayError, upstream_error, upstream_timeout
from gateway.core.usage import Usage
from providers._errors import redact, unreadable
from providers._translated import TranslatedEvents
from providers._usage import count
from providers._writer import Choice, FinishReason, WrittenAnswer, tool_call

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target

_FINISH: Mapping[str, FinishReason] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
}


def written_answer(document: object, call: Call, target: Target) -> WrittenAnswer:
    """A whole answer. Raises `GatewayError` where it is an error or none at all."""
    if not isinstance(document, Mapping) or not isinstance(document.get("message"), Mapping):
        raise unreadable(target)
    message = document["message"]
    parts = _maps(message.get("content"))
    choice = Choice(
        text=_text(message, "tool_plan") + "".join(_text(part, "text") for part in parts),
        reasoning="".join(_text(part, "thinking") for part in parts),
        calls=[_call(each) for each in _maps(message.get("tool_calls"))],
        annotations=[annotation(each) for each in _maps(message.get("citations"))],
    )
    choice.finish = _finish(document, target, called=bool(choice.calls))
    return WrittenAnswer(call, target.upstream_model, [choice], read_usage(document.get("usage")))


class CohereStream(TranslatedEvents):
    """A `Stream` of chat's chunks. `message-end` ends it; the `[DONE]` behind is not waited for."""

    def __init__(self, call: Call, target: Target) -> None:
        super().__init__(call, target)
        self._cited: list[Mapping[str, Any]] = []

    def read(self, message: Any) -> None:
        _, event = message
        if not isinstance(event, Mapping):
            if event is None:
                return
            raise unreadable(self.target)
        delta = event.get("delta")
        said = delta.get("message") if isinstance(delta, Mapping) else None
        match event.get("type"):
            case "message-start":
                self.say(self.write.role())
            case "content-start" | "content-delta" | "tool-plan-delta" | "tool-call-start" | "tool-call-delta":
                if isinstance(said, Mapping):
                    self._said(str(event["type"]), said)
            case "citation-start":
                if isinstance(said, Mapping) and isinstance(said.get("citations"), Mapping):
                    self.say(self.write.annotations([annotation(said["citations"])]))
            case "message-end":
                self._end(delta if isinstance(delta, Mapping) else {})
            case None:
                raise _reported(event, self.target)

    def _said(self, kind: str, said: Mapping[str, Any]) -> None:
        match kind:
            case "tool-plan-delta":
                self._tell("text", _text(said, "tool_plan"))
            case "tool-call-start" | "tool-call-delta":
                self._call(kind, said.get("tool_calls"))
            case _:
                content = said.get("content")
                if isinstance(content, Mapping):
                    self._tell("reasoning", _text(content, "thinking"))
                    self._tell("text", _text(content, "text"))

    def _tell(self, what: str, text: str) -> None:
        if text:
            self.say(self.write.reasoning(text) if what == "reasoning" else self.write.text(text))

    def _call(self, kind: str, call: object) -> None:
        if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
            return
        function = call["function"]
        if kind == "tool-call-start":
            self.say(self.write.tool_call(_text(call, "id"), _text(function, "name"), _text(function, "arguments")))
        elif self.write.called():
            self.say(self.write.arguments(_text(function, "arguments")))

    def _end(self, delta: Mapping[str, Any]) -> None:
        self.usage = read_usage(delta.get("usage"))
        self.say(self.write.finish(_finish(delta, self.target, called=self.write.called())))
        self.end()


def annotation(citation: Mapping[str, Any]) -> dict[str, Any]:
    """A citation as chat has them. A source without an address is told by its id."""
    source = next(iter(_maps(citation.get("sources"))), {})
    document = source.get("document")
    document = document if isinstance(document, Mapping) else {}
    return {
        "type": "url_citation",
        "url_citation": {
            "start_index": count(citation.get("start")) or 0,
            "end_index": count(citation.get("end")) or 0,
            "title": _text(document, "title") or _text(source, "id"),
            "url": _text(document, "url") or _text(source, "id"),
        },
    }


def read_usage(report: object) -> Usage | None:
    """Tokens as counted, else as billed; Cohere gives them as floats."""
    if not isinstance(report, Mapping):
        return None
    for group in ("tokens", "billed_units"):
        tokens = report.get(group)
        if isinstance(tokens, Mapping):
            prompt, completion = count(tokens.get("input_tokens")), count(tokens.get("output_tokens"))
            if prompt is not None and completion is not None:
                cached = count(report.get("cached_tokens"))
                return Usage(prompt, completion, cached if cached is None or cached <= prompt else None)
    return None


def _finish(holder: Mapping[str, Any], target: Target, *, called: bool) -> FinishReason:
    reason = holder.get("finish_reason")
    if reason == "ERROR":
        raise _reported(holder, target)
    if reason == "TIMEOUT":
        raise upstream_timeout(f"The provider '{target.upstream.name}' did not finish its answer in time.")
    return _FINISH.get(str(reason), "tool_calls" if called else "stop")


def _reported(holder: Mapping[str, Any], target: Target) -> GatewayError:
    said = _text(holder, "error") or _text(holder, "message")
    reason = f": {redact(said[:500], target)}" if said else "."
    return upstream_error(f"The provider '{target.upstream.name}' broke off its answer{reason}")


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    function = function if isinstance(function, Mapping) else {}
    return tool_call(_text(call, "id"), _text(function, "name"), _text(function, "arguments"))


def _maps(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, Iterable) else []


def _text(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    return value if isinstance(value, str) else ""

"""Claude's answers, whole and streamed, as chat completions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gateway.core.body import DecodeError, decode, encode
from providers._anthropic_errors import is_error, told_error
from providers._anthropic_tools import FORMAT_TOOL
from providers._anthropic_usage import Counted, read_usage
from providers._errors import unreadable
from providers._translated import TranslatedEvents
from providers._writer import Choice, FinishReason, WrittenAnswer, tool_call

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target

Json = Mapping[str, Any]

MOST_THOUGHTS = 4 * 2**20
"""Characters of one block of thoughts that are held until its signature has come."""

_FINISH: Mapping[str, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


def read_answer(call: Call, target: Target, body: bytes) -> WrittenAnswer:
    """A whole answer. Raises `GatewayError` where it is none."""
    try:
        document = decode(body)
    except DecodeError as error:
        raise unreadable(target) from error
    if is_error(document):
        raise told_error(document, target)
    content = document.get("content") if isinstance(document, Mapping) else None
    if not isinstance(content, list):
        raise unreadable(target)
    choice = Choice()
    for block in content:
        if isinstance(block, Mapping):
            _read_block(block, choice)
    choice.finish = _finished(document.get("stop_reason"), called=bool(choice.calls))
    if choice.finish == "content_filter" and not choice.text:
        choice.refusal = _explained(document.get("stop_details"))
    return WrittenAnswer(call, target.upstream_model, [choice], read_usage(document.get("usage")))


def _read_block(block: Json, choice: Choice) -> None:
    """One block of content. What Anthropic's own tools did is no part of a chat."""
    match block:
        case {"type": "text", "text": str(text)}:
            start = len(choice.text)
            choice.text += text
            choice.annotations.extend(_annotations(_list(block.get("citations")), start, len(choice.text)))
        case {"type": "thinking", "thinking": str(text)}:
            choice.reasoning += text
            choice.thinking.append(_thoughts(text, block.get("signature")))
        case {"type": "redacted_thinking", "data": str(data)}:
            choice.thinking.append({"type": "redacted_thinking", "data": data})
        case {"type": "tool_use", "name": str(name)} if name == FORMAT_TOOL:
            choice.text += encode(block.get("input") or {}).decode()
        case {"type": "tool_use", "id": str(identity), "name": str(name)}:
            choice.calls.append(tool_call(identity, name, encode(block.get("input") or {}).decode()))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _thoughts(text: str, signature: object) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": signature if isinstance(signature, str) else ""}


def _finished(reason: object, *, called: bool) -> FinishReason:
    if isinstance(reason, str) and reason in _FINISH:
        return _FINISH[reason]
    return "tool_calls" if called else "stop"


def _explained(details: object) -> str:
    explanation = details.get("explanation") if isinstance(details, Mapping) else None
    return explanation if isinstance(explanation, str) else ""


def _annotations(citations: Iterable[object], start: int, end: int) -> Iterator[dict[str, Any]]:
    """Citations of one passage of the text, in characters. A document of the prompt has no URL but its place."""
    for citation in citations:
        if not isinstance(citation, Mapping):
            continue
        url = citation.get("url") or citation.get("source") or f"document:{citation.get('document_index', 0)}"
        title = citation.get("title") or citation.get("document_title") or ""
        said = {"start_index": start, "end_index": end, "url": str(url), "title": str(title)}
        yield {"type": "url_citation", "url_citation": said}


class MessagesStream(TranslatedEvents):
    """A streamed answer: blocks one after the other, each begun, filled and ended by events of its own."""

    def __init__(self, call: Call, target: Target) -> None:
        super().__init__(call, target)
        self._counted = Counted()
        self._block: Json = {}
        self._pieces: list[str] = []
        self._held = 0
        self._signature = ""
        self._written = 0  # characters of the answer's text, by which citations say what they are about
        self._cited: list[object] = []
        self._passage = 0
        self._reason: str | None = None
        self._details: object = None

    def read(self, message: tuple[bytes, Any]) -> None:
        name, event = message
        if name == b"error" or is_error(event):
            raise told_error(event, self.target)
        match event:
            case {"type": "message_start", "message": dict(opening)}:
                self._counted.add(opening.get("usage"), final=False)
                self.say(self.write.role())
            case {"type": "content_block_start", "content_block": dict(block)}:
                self._begin(block)
            case {"type": "content_block_delta", "delta": dict(delta)}:
                self._fill(delta)
            case {"type": "content_block_stop"}:
                self._end()
            case {"type": "message_delta"}:
                self._counted.add(event.get("usage"))
                self._stop(event.get("delta"))
            case {"type": "message_stop"}:
                self._finish()
        self.usage = self._counted.so_far(self.write.produced())

    def close(self) -> None:
        """Some that speak this dialect leave out the last event; the answer is whole with its reason to stop."""
        if self._reason is not None:
            self._finish()

    def _begin(self, block: Json) -> None:
        self._block, self._pieces, self._held, self._signature = block, [], 0, ""
        self._cited, self._passage = [], self._written
        match block:
            case {"type": "text", "text": str(text)} if text:
                self._text(text)
            case {"type": "thinking", "thinking": str(text)} if text:
                self._think(text)
            case {"type": "redacted_thinking", "data": str(data)}:
                self.say(self.write.thinking({"type": "redacted_thinking", "data": data}))
            case {"type": "tool_use", "id": str(identity), "name": str(name)}:
                if name != FORMAT_TOOL:
                    self.say(self.write.tool_call(identity, name))
            case {"type": "tool_use"}:
                raise unreadable(self.target)

    def _fill(self, delta: Json) -> None:
        match delta:
            case {"type": "text_delta", "text": str(text)}:
                self._text(text)
            case {"type": "thinking_delta", "thinking": str(text)}:
                self._think(text)
            case {"type": "signature_delta", "signature": str(signature)}:
                self._hold(signature)
                self._signature += signature
            case {"type": "input_json_delta", "partial_json": str(piece)} if self._block.get("type") == "tool_use":
                self._argue(piece)
            case {"type": "citations_delta", "citation": citation}:
                self._hold(str(citation))
                self._cited.append(citation)

    def _text(self, text: str) -> None:
        if text:
            self._written += len(text)
            self.say(self.write.text(text))

    def _think(self, text: str) -> None:
        if text:
            self._hold(text)
            self._pieces.append(text)
            self.say(self.write.reasoning(text))

    def _argue(self, piece: str) -> None:
        if not piece:
            return
        self._held = 1  # there are arguments; they are not held
        if self._block.get("name") == FORMAT_TOOL:
            self._text(piece)
        else:
            self.say(self.write.arguments(piece))

    def _hold(self, text: str) -> None:
        self._held += len(text)
        if self._held > MOST_THOUGHTS:
            raise unreadable(self.target)

    def _end(self) -> None:
        """The block is whole: its signature has come, and all of its citations."""
        block, self._block = self._block, {}
        match block:
            case {"type": "thinking"}:
                self.say(self.write.thinking(_thoughts("".join(self._pieces), self._signature)))
            case {"type": "tool_use"} if not self._held:
                self._argue_whole(block)
            case {"type": "text"} if self._cited:
                self.say(self.write.annotations(list(_annotations(self._cited, self._passage, self._written))))

    def _argue_whole(self, block: Json) -> None:
        """Arguments that came with the block's beginning, or none at all."""
        whole = encode(block.get("input") or {}).decode()
        if block.get("name") == FORMAT_TOOL:
            self._text(whole)
        else:
            self.say(self.write.arguments(whole))

    def _stop(self, delta: object) -> None:
        if isinstance(delta, Mapping) and isinstance(delta.get("stop_reason"), str):
            self._reason = delta["stop_reason"]
            self._details = delta.get("stop_details")

    def _finish(self) -> None:
        self.usage = self._counted.usage
        finish = _finished(self._reason, called=self.write.called())
        explained = _explained(self._details) if finish == "content_filter" and not self._written else ""
        if explained:
            self.say(self.write.refusal(explained))
        self.say(self.write.finish(finish))
        self.end()

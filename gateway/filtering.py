"""Puts the texts of a chat answer through filters on their way to the client.

Each text of each choice has filters of its own, one after the other. They may hold text back, so it can reach the
client in other events than it came in, but never after its choice's finish reason. Tool calls are not texts: a program
reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gateway.core import sse
from gateway.core.body import DecodeError, decode, encode
from gateway.core.call import Call
from gateway.core.errors import GatewayError
from gateway.core.ports import Answer, Stream, TextFilter
from gateway.core.usage import Usage

TEXTS = ("content", "reasoning_content", "reasoning", "refusal", "text")
"""The members of a choice's message, of its delta, or of itself, that hold what a reader sees."""

_FILTERED = frozenset({"chat/completions", "completions"})
_DONE = b"data: [DONE]\n\n"

Make = Callable[[], TextFilter]


def applies(call: Call) -> bool:
    """Whether an answer in the shape that the call asks for is filtered."""
    return bool(call.filters) and call.endpoint.operation in _FILTERED


class FilteredAnswer:
    """An `Answer`, filtered."""

    def __init__(self, answer: Answer, filters: Sequence[Make]) -> None:
        self.content_type = answer.content_type
        self.usage = answer.usage
        self.produced = answer.produced
        document = decode(answer.body)
        for choice in _choices(document):
            _filter_whole(choice, filters)
        self.body = encode(document)


class FilteredStream:
    """A `Stream`, filtered. An answer that a filter ends is complete: the upstream is let go and charged for what it
    wrote."""

    def __init__(self, stream: Stream, call: Call) -> None:
        self._stream = stream
        self._call = call
        self._texts: dict[tuple[int, str], _Filtered] = {}
        self._finished: set[int] = set()
        self._ended = False
        self.produced = stream.produced

    @property
    def usage(self) -> Usage | None:
        return self._stream.usage

    @property
    def complete(self) -> bool:
        return self._ended or self._stream.complete

    @property
    def begun(self) -> bool:
        return self._stream.begun

    def feed(self, chunk: bytes) -> bytes:
        return b"" if self._ended else self._filtered(self._stream.feed(chunk))

    def finish(self) -> bytes:
        return self._filtered(self._stream.finish())

    def _filtered(self, block: bytes) -> bytes:
        told: list[bytes] = []
        for event in sse.events(block):
            told.append(self._event(event))
            if self._ended:
                break
        return b"".join(told)

    def _event(self, event: bytes) -> bytes:
        payload = sse.data(event)
        if payload is None or payload.strip() == b"[DONE]":
            return event
        try:
            document = decode(payload)
        except DecodeError:
            return b""  # what cannot be read cannot be filtered
        choices = _choices(document)
        if not choices:
            return event
        kept = []
        for choice in choices:
            try:
                told = self._choice(choice)
            except GatewayError:
                return self._cut(document)
            if told:
                kept.append(choice)
        document["choices"] = kept
        return sse.event(encode(document)) if kept or document.get("usage") else b""

    def _choice(self, choice: dict[str, Any]) -> bool:
        """Filter what an event says of a choice; False where nothing is left to say."""
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        finish = choice.get("finish_reason")
        delta = choice.get("delta")
        holder = delta if isinstance(delta, dict) else choice
        _forget_copies(choice, holder)
        held_back = False
        for place, name, of in _places(holder):
            text = place[name]
            if isinstance(text, str) and text:
                place[name] = self._filter(index, of).feed(text)
                held_back = held_back or not place[name]
        if finish is not None:
            self._finished.add(index)
            for (number, name), filtered in self._texts.items():
                if number == index:
                    _append(holder, name, filtered.finish())
            return True
        if not held_back:
            return True
        return any(value for name, value in holder.items() if name not in ("index", "logprobs"))

    def _filter(self, index: int, name: str) -> _Filtered:
        filtered = self._texts.get((index, name))
        if filtered is None:
            filtered = self._texts[index, name] = _Filtered(self._call.filters)
        return filtered

    def _cut(self, document: dict[str, Any]) -> bytes:
        """A filter has ended the answer, all choices of it: say so as content filters do, and what is charged."""
        self._ended = True
        head = {name: value for name, value in document.items() if name not in ("choices", "usage")}
        emptied: dict[str, Any] = {"delta": {}} if self._call.endpoint.operation == "chat/completions" else {"text": ""}
        ended = [
            {"index": index, **emptied, "logprobs": None, "finish_reason": "content_filter"}
            for index in range(self._call.demand.choices)
            if index not in self._finished
        ]
        told = sse.event(encode({**head, "choices": ended}))
        if self._call.wants_usage:
            told += sse.event(encode({**head, "choices": [], "usage": self._usage()}))
        return told + _DONE

    def _usage(self) -> dict[str, int]:
        """As the books have it: what the upstream has told so far, else what is estimated, as it is let go."""
        demand, told = self._call.demand, self._stream.usage
        prompt = demand.likely_prompt if told is None else told.prompt
        completion = demand.within_cap(self._stream.produced()) if told is None else told.completion
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class _Filtered:
    """One text, through every filter in turn."""

    def __init__(self, filters: Sequence[Make]) -> None:
        self._filters = [make() for make in filters]

    def feed(self, text: str) -> str:
        for each in self._filters:
            text = each.feed(text)
        return text

    def finish(self) -> str:
        text = ""
        for each in self._filters:
            text = (each.feed(text) if text else "") + each.finish()
        return text


def _forget_copies(choice: dict[str, Any], holder: dict[str, Any]) -> None:
    """Log probabilities, signed thoughts and titles of what is cited spell out again what was filtered."""
    choice["logprobs"] = None
    for name in ("thinking_blocks", "reasoning_details", "annotations"):
        holder.pop(name, None)


def _places(holder: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Where the texts of a delta, a message or a choice are: what holds each, under which name there, and which of the
    choice's texts it is a piece of."""
    for name in TEXTS:
        value = holder.get(name)
        if isinstance(value, str):
            yield holder, name, name
        elif isinstance(value, list):
            yield from ((part, "text", name) for part in value if isinstance(part, dict) and "text" in part)
    spoken = holder.get("audio")
    if isinstance(spoken, dict) and "transcript" in spoken:
        yield spoken, "transcript", "transcript"


def _append(holder: dict[str, Any], name: str, text: str) -> None:
    """Add the rest of a text to an event, in whatever shape the event has it."""
    value = holder.get(name)
    if not text:
        return
    if name == "transcript":
        holder["audio"] = {"transcript": text}
    elif isinstance(value, list):
        value.append({"type": "text", "text": text})
    else:
        holder[name] = (value or "") + text


def _choices(document: object) -> list[dict[str, Any]]:
    choices = document.get("choices") if isinstance(document, dict) else None
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _filter_whole(choice: dict[str, Any], filters: Sequence[Make]) -> None:
    """Filter a whole choice; one that a filter ends keeps nothing but the reason."""
    message = choice.get("message")
    holder = message if isinstance(message, dict) else choice
    _forget_copies(choice, holder)
    try:
        for place, name, _ in _places(holder):
            text = place[name]
            if isinstance(text, str) and text:
                filtered = _Filtered(filters)
                place[name] = filtered.feed(text) + filtered.finish()
    except GatewayError as error:
        choice["finish_reason"] = "content_filter"
        if holder is choice:
            choice["text"] = ""
        else:
            choice["message"] = {"role": "assistant", "content": None, "refusal": error.message}

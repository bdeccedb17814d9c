"""The items of a response while they are written, and the events that tell of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.core import sse
from gateway.core.body import encode
from gateway.endpoints._responses_output import (
    Status,
    call_item,
    message_item,
    reasoning_item,
    refusal_part,
    summary_part,
    text_part,
)
from gateway.endpoints._responses_tools import Tool, custom_input


class Events:
    """Numbers events and keeps them until they are taken."""

    def __init__(self) -> None:
        self.number = 0
        self._said: list[bytes] = []

    def say(self, kind: str, **members: Any) -> None:
        """The next event."""
        document = {"type": kind, "sequence_number": self.number, **members}
        self._said.append(sse.event(encode(document), kind.encode("ascii")))
        self.number += 1

    def take(self) -> bytes:
        """What was said since."""
        said = b"".join(self._said)
        self._said.clear()
        return said


class Thoughts:
    """A reasoning item."""

    def __init__(self, events: Events, index: int, identity: str) -> None:
        self._events = events
        self._identity = identity
        self._index = index
        self._pieces: list[str] = []
        item = {**reasoning_item(identity, "", None), "status": "in_progress"}
        events.say("response.output_item.added", output_index=index, item=item)

    def add(self, text: str) -> None:
        if not self._pieces:
            self._say("reasoning_summary_part.added", part=summary_part(""))
        self._pieces.append(text)
        self._say("reasoning_summary_text.delta", delta=text)

    def close(self, sealed: str | None) -> dict[str, Any]:
        """The finished item."""
        text = "".join(self._pieces)
        if self._pieces:
            self._say("reasoning_summary_text.done", text=text)
            self._say("reasoning_summary_part.done", part=summary_part(text))
        item = reasoning_item(self._identity, text, sealed)
        self._events.say("response.output_item.done", output_index=self._index, item=item)
        return item

    def _say(self, kind: str, **members: Any) -> None:
        at = {"item_id": self._identity, "output_index": self._index, "summary_index": 0}
        self._events.say(f"response.{kind}", **at, **members)


class Message:
    """A message item, its parts one after the other."""

    def __init__(self, events: Events, index: int, identity: str) -> None:
        self._events = events
        self._index = index
        self._identity = identity
        self._parts: list[Mapping[str, Any]] = []
        self._kind = ""
        self._pieces: list[str] = []
        self._annotations: list[Mapping[str, Any]] = []
        self._logprobs: list[Mapping[str, Any]] = []
        item = message_item(identity, [], "in_progress")
        events.say("response.output_item.added", output_index=index, item=item)

    def text(self, text: str, logprobs: Sequence[Mapping[str, Any]] = ()) -> None:
        self._begin("output_text")
        self._pieces.append(text)
        self._logprobs += logprobs
        self._say("output_text.delta", delta=text, logprobs=logprobs)

    def refusal(self, text: str) -> None:
        self._begin("refusal")
        self._pieces.append(text)
        self._say("refusal.delta", delta=text)

    def annotate(self, annotations: Sequence[Mapping[str, Any]]) -> None:
        self._begin("output_text")
        for annotation in annotations:
            number = len(self._annotations)
            self._annotations.append(annotation)
            self._say("output_text.annotation.added", annotation_index=number, annotation=annotation)

    def close(self, status: Status) -> dict[str, Any]:
        """The finished item."""
        self._end_part()
        item = message_item(self._identity, self._parts, status)
        self._events.say("response.output_item.done", output_index=self._index, item=item)
        return item

    def _begin(self, kind: str) -> None:
        if self._kind == kind:
            return
        self._end_part()
        self._kind = kind
        self._say("content_part.added", part=self._part(""))

    def _end_part(self) -> None:
        if not self._kind:
            return
        text = "".join(self._pieces)
        part = self._part(text)
        if self._kind == "refusal":
            self._say("refusal.done", refusal=text)
        else:
            self._say("output_text.done", text=text, logprobs=self._logprobs)
        self._say("content_part.done", part=part)
        self._parts.append(part)
        self._kind = ""
        self._pieces, self._annotations, self._logprobs = [], [], []

    def _part(self, text: str) -> Mapping[str, Any]:
        if self._kind == "refusal":
            return refusal_part(text)
        return text_part(text, self._annotations, self._logprobs)

    def _say(self, kind: str, **members: Any) -> None:
        at = {"item_id": self._identity, "output_index": self._index, "content_index": len(self._parts)}
        self._events.say(f"response.{kind}", **at, **members)


class ToolCall:
    """An item that calls a tool. A custom tool's input is told in one piece, once it can be read."""

    def __init__(self, events: Events, index: int, identity: str, tool: Tool, call_id: str) -> None:
        self._events = events
        self._index = index
        self._identity = identity
        self._tool = tool
        self._call_id = call_id
        self._pieces: list[str] = []
        item = call_item(identity, tool, call_id, "", "in_progress")
        events.say("response.output_item.added", output_index=index, item=item)

    def add(self, arguments: str) -> None:
        self._pieces.append(arguments)
        if self._tool.kind == "function":
            self._say("function_call_arguments.delta", delta=arguments)

    def close(self, status: Status) -> dict[str, Any]:
        """The finished item."""
        if not self._pieces:
            self.add("{}")  # no arguments are an empty object
        arguments = "".join(self._pieces)
        if self._tool.kind == "function":
            self._say("function_call_arguments.done", name=self._tool.name, arguments=arguments)
        else:
            text = custom_input(arguments)
            self._say("custom_tool_call_input.delta", delta=text)
            self._say("custom_tool_call_input.done", input=text)
        item = call_item(self._identity, self._tool, self._call_id, arguments, status)
        self._events.say("response.output_item.done", output_index=self._index, item=item)
        return item

    def _say(self, kind: str, **members: Any) -> None:
        self._events.say(f"response.{kind}", item_id=self._identity, output_index=self._index, **members)

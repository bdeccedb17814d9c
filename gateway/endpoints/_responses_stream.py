"""A streamed chat answer told as the events of a response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gateway.core import sse
from gateway.core.body import DecodeError, decode
from gateway.core.errors import GatewayError, upstream_error
from gateway.core.responses import failed_event
from gateway.endpoints._responses_events import Events, Message, Thoughts, ToolCall
from gateway.endpoints._responses_output import (
    Status,
    annotations_of,
    call_identity,
    logprobs_of,
    objects,
    response_end,
    response_head,
    text_of,
    usage_of,
)
from gateway.endpoints._responses_seal import Sealed, seal
from gateway.endpoints._responses_tools import Tools, tools_of

if TYPE_CHECKING:
    from gateway.core.call import Call

_MOST = 64 * 2**20
"""The most bytes of an answer that are told: all of it is held for the last event, which repeats it."""


class ResponseStream:
    """A `Translator`. Thoughts and text follow each other; calls stay open to the end, because some upstreams write
    several at once."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._events = Events()
        self._splitter = sse.Splitter()
        self._head: dict[str, Any] = {}
        self._output: list[Mapping[str, Any] | None] = []
        self._thoughts: Thoughts | None = None
        self._message: Message | None = None
        self._calls: dict[int, tuple[int, ToolCall]] = {}
        self._unnamed: dict[int, tuple[str, str]] = {}
        self._tools: Tools | None = None
        self._thinking: list[Mapping[str, Any]] = []
        self._extras: dict[str, Mapping[str, Any]] = {}
        self._open_at = 0
        self._finish: str | None = None
        self._usage: dict[str, Any] = {}
        self._size = 0
        self._over = False

    def feed(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        if self._size > _MOST:
            raise upstream_error("The provider's answer is longer than can be told as a response.")
        try:
            for _, payload in self._splitter.feed(chunk):
                if payload.strip() != b"[DONE]":
                    self._read(decode(payload))
        except (ValueError, *DecodeError) as error:
            raise upstream_error("The provider's answer cannot be told as a response.") from error
        return self._events.take()

    def finish(self) -> bytes:
        if self._over:
            return b""
        self._over = True
        self._begin(self._call.model_id)
        end = response_end(self._finish)
        if not self._output:
            self._spoken().text("")
        self._close_all("completed" if end["status"] == "completed" else "incomplete")
        whole = {**self._head, **end, "output": self._output, **self._usage}
        self._events.say(f"response.{end['status']}", response=whole)
        return self._events.take()

    def failure(self, error: GatewayError, request_id: str) -> bytes:
        said = self._events.take()
        head = self._head or response_head(self._call, self._call.model_id)
        finished = [item for item in self._output if item is not None]
        return said + failed_event({**head, "output": finished}, error, self._events.number)

    def _read(self, document: object) -> None:
        if not isinstance(document, dict):
            raise upstream_error("The provider's answer cannot be told as a response.")
        model = document.get("model")
        self._begin(model if isinstance(model, str) and model else self._call.model_id)
        self._usage = usage_of(document.get("usage")) or self._usage
        for choice in objects(document.get("choices"))[:1]:
            delta = choice.get("delta")
            if isinstance(delta, dict):
                self._delta(delta, choice)
            finish = choice.get("finish_reason")
            self._finish = finish if isinstance(finish, str) else self._finish

    def _begin(self, model: str) -> None:
        if self._head:
            return
        self._head = response_head(self._call, model)
        self._events.say("response.created", response=self._head)
        self._events.say("response.in_progress", response=self._head)

    def _delta(self, delta: dict[str, Any], choice: dict[str, Any]) -> None:
        thought = text_of(delta, "reasoning_content") or text_of(delta, "reasoning")
        if thought:
            self._thinker().add(thought)
        self._thinking += objects(delta.get("thinking_blocks"))
        text = text_of(delta, "content")
        if text:
            self._spoken().text(text, logprobs_of(choice.get("logprobs")))
        refusal = text_of(delta, "refusal")
        if refusal:
            self._spoken().refusal(refusal)
        annotations = annotations_of(delta.get("annotations"))
        if annotations:
            self._spoken().annotate(annotations)
        for call in objects(delta.get("tool_calls")):
            self._tool_call(call)

    def _tool_call(self, call: dict[str, Any]) -> None:
        number = call.get("index")
        number = number if isinstance(number, int) else len(self._calls)
        function = call.get("function")
        told = function if isinstance(function, dict) else {}
        extra = call.get("extra_content")
        known, held = self._unnamed.pop(number, ("", ""))
        identity = text_of(call, "id") or known or f"call_{self._call.request_id}_{number}"
        arguments = held + text_of(told, "arguments")
        if isinstance(extra, dict):
            self._extras[identity] = extra
        if number not in self._calls:
            name = text_of(told, "name")
            if not name:
                self._unnamed[number] = (identity, arguments)
                return
            self._open_call(number, identity, name)
        if arguments:
            self._calls[number][1].add(arguments)

    def _open_call(self, number: int, identity: str, name: str) -> None:
        self._close_text("completed")
        if self._tools is None:
            self._tools = tools_of(self._call.body)
        tool = self._tools.called(name)
        index = self._place()
        item = ToolCall(self._events, index, call_identity(self._call, tool, index), tool, identity)
        self._calls[number] = (index, item)

    def _thinker(self) -> Thoughts:
        if self._thoughts is None:
            self._close_text("completed")
            self._open_at = self._place()
            self._thoughts = Thoughts(self._events, self._open_at, f"rs_{self._call.request_id}_{self._open_at}")
        return self._thoughts

    def _spoken(self) -> Message:
        if self._message is None:
            self._close_text("completed")
            self._open_at = self._place()
            self._message = Message(self._events, self._open_at, f"msg_{self._call.request_id}_{self._open_at}")
        return self._message

    def _close_all(self, status: Status) -> None:
        self._close_text(status)
        for index, call in self._calls.values():
            self._output[index] = call.close(status)

    def _close_text(self, status: Status) -> None:
        """End the thoughts or the message under way. What a provider needs back goes with thoughts, its own if need
        be."""
        if self._message is not None:
            self._output[self._open_at] = self._message.close(status)
            self._message = None
        sealed = seal(Sealed(self._thinking, self._extras))
        if sealed is not None and self._thoughts is None:
            self._open_at = self._place()
            self._thoughts = Thoughts(self._events, self._open_at, f"rs_{self._call.request_id}_{self._open_at}")
        if self._thoughts is not None:
            self._output[self._open_at] = self._thoughts.close(sealed)
            self._thoughts = None
            self._thinking, self._extras = [], {}

    def _place(self) -> int:
        self._output.append(None)
        return len(self._output) - 1

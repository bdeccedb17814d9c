"""A streamed chat answer as Anthropic's Messages API streams it: blocks one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gateway.core import sse
from gateway.core.body import DecodeError, decode, encode
from gateway.core.dialect import ANTHROPIC
from gateway.core.errors import upstream_error
from gateway.endpoints._messages_answer import (
    estimated,
    opening,
    stop_reason,
    stopped,
    text_block,
    text_of,
    thinking_block,
    told_usage,
    tool_block,
    whole_usage,
)

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.errors import GatewayError

Json = Mapping[str, Any]

_UNREADABLE = "The provider gave an answer that cannot be read."


class MessagesTranslator:
    """The `Translator`. At most one block is open: text, thoughts, or a call of a tool."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._splitter = sse.Splitter()
        self._out: list[bytes] = []
        self._begun = False
        self._block = -1
        self._open = ""
        self._calling: tuple[int, str] | None = None
        self._called: set[int] = set()
        self._written = 0
        self._finish: object = None
        self._usage: object = None

    def feed(self, chunk: bytes) -> bytes:
        try:
            for _, data in self._splitter.feed(chunk):
                if data.strip() != b"[DONE]":
                    self._read(decode(data))
        except (ValueError, *DecodeError) as error:
            raise upstream_error(_UNREADABLE) from error
        return self._taken()

    def finish(self) -> bytes:
        self._begin(None)
        self._close()
        usage = told_usage(self._usage) or estimated(self._call, self._written)
        reason = stop_reason(self._finish, called=bool(self._called))
        self._say("message_delta", delta=stopped(reason), usage=usage)
        self._say("message_stop")
        return self._taken()

    def failure(self, error: GatewayError, request_id: str) -> bytes:
        return self._taken() + ANTHROPIC.error_event(error, request_id)

    def _read(self, chunk: object) -> None:
        if not isinstance(chunk, dict):
            return
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return
        self._begin(chunk.get("model"))
        self._finish = choice.get("finish_reason") or self._finish
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._delta(delta)

    def _delta(self, delta: Json) -> None:
        thoughts = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(thoughts, str) and thoughts:
            self._think(thoughts)
        for block in _objects(delta.get("thinking_blocks")):
            self._sign(block)
        for text in (text_of(delta.get("content")), delta.get("refusal")):
            if isinstance(text, str) and text:
                self._text(text)
        for call in _objects(delta.get("tool_calls")):
            self._call_tool(call)

    def _begin(self, model: object) -> None:
        if self._begun:
            return
        self._begun = True
        # What the prompt really was is known at the end only; until then clients are given the estimate.
        usage = whole_usage(estimated(self._call, 0))
        self._say("message_start", message={**opening(self._call, model), "usage": usage})
        self._say("ping")

    def _text(self, text: str) -> None:
        if self._open != "text":
            self._start("text", text_block(""))
        self._written += len(text)
        self._fill({"type": "text_delta", "text": text})

    def _think(self, text: str) -> None:
        if self._open != "thinking":
            self._start("thinking", thinking_block(""))
        self._written += len(text)
        self._fill({"type": "thinking_delta", "thinking": text})

    def _sign(self, block: Json) -> None:
        """A finished block of thoughts: its text has come, or comes with it; its signature ends it."""
        match block:
            case {"type": "redacted_thinking", "data": str()}:
                self._start("redacted_thinking", dict(block))
                self._close()
            case {"type": "thinking", "thinking": str(text), "signature": str(signature)}:
                if self._open != "thinking":
                    self._start("thinking", thinking_block(""))
                    if text:
                        self._fill({"type": "thinking_delta", "thinking": text})
                self._fill({"type": "signature_delta", "signature": signature})
                self._close()

    def _call_tool(self, call: Json) -> None:
        function, index, identity = call.get("function"), call.get("index"), call.get("id")
        if not isinstance(function, dict):
            return
        index = index if isinstance(index, int) else 0
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(name, str) and name and self._begins(index, identity):
            told = (
                identity if isinstance(identity, str) and identity else f"toolu_{len(self._called)}_{self._block + 1}"
            )
            self._start("tool_use", tool_block(told, name, {}))
            self._calling = (index, told)
            self._called.add(index)
        elif self._calling is None or self._calling[0] != index:
            raise ValueError("arguments of a call that is over, or has not begun")
        if isinstance(arguments, str) and arguments:
            self._written += len(arguments)
            self._fill({"type": "input_json_delta", "partial_json": arguments})

    def _begins(self, index: int, identity: object) -> bool:
        """Whether a piece with a name begins a call. Some repeat name and id with every piece, others give all calls
        the same index."""
        if self._calling is None or self._calling[0] != index:
            return True
        return isinstance(identity, str) and bool(identity) and identity != self._calling[1]

    def _start(self, kind: str, block: Json) -> None:
        self._close()
        self._open = kind
        self._block += 1
        self._say("content_block_start", index=self._block, content_block=block)

    def _fill(self, delta: Json) -> None:
        self._say("content_block_delta", index=self._block, delta=delta)

    def _close(self) -> None:
        if self._open:
            self._say("content_block_stop", index=self._block)
        self._open = ""
        self._calling = None

    def _say(self, kind: str, **members: Any) -> None:
        self._out.append(sse.event(encode({"type": kind, **members}), kind.encode("ascii")))

    def _taken(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out


def _objects(value: object) -> Iterable[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else ()

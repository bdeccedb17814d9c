"""Anthropic's own answers on their way to clients that speak its dialect, byte for byte."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Any

from gateway.core import sse
from gateway.core.body import DecodeError, decode, encode, raw_members
from gateway.core.dialect import ANTHROPIC
from gateway.core.usage import Usage
from providers._anthropic_errors import is_error, told_error
from providers._anthropic_model import within
from providers._anthropic_usage import Counted, read_usage
from providers._errors import unreadable
from providers._passing import TAIL, PassedStream
from providers._usage import BYTES_PER_TOKEN

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target
    from gateway.core.errors import GatewayError

NO_TOKENS = Usage(0, 0)

_special = re.compile(rb'"type"\s*:\s*"(?:message_(?:start|delta|stop)|error)"|\bevent: ?error\b').search
_seen = re.compile(rb'"(?:text|thinking|partial_json)"\s*:\s*"[^"]|"type"\s*:\s*"tool_use"').search
_DELTA = b'"content_block_delta"'


def passed_body(call: Call, target: Target) -> bytes:
    """The client's own bytes, but for the model's name and a lowered cap."""
    body = call.body
    changes: dict[str, Any] = {}
    model = body.members.get("model")
    if model is None or bytes(model) != encode(target.upstream_model):
        changes["model"] = target.upstream_model
    cap = call.demand.cap_to_write
    if cap is not None and call.endpoint.caps:
        changes["max_tokens"] = cap
        changes |= within(cap, body.value("thinking"))
    return body.with_members(changes) if changes else body.raw


class PassedAnswer:
    """An unstreamed answer, its bytes as they came."""

    content_type = b"application/json"

    def __init__(self, body: bytes, usage: Usage | None, size: int) -> None:
        self.body = body
        self.usage = usage
        self._size = size

    def produced(self) -> int:
        """A token per four bytes of content, rounded up."""
        return -(-self._size // BYTES_PER_TOKEN)


def pass_answer(call: Call, target: Target, body: bytes) -> PassedAnswer:
    """A message, or a count of tokens, which uses none."""
    try:
        members = raw_members(body)
        document = decode(body) if "error" in members or bytes(members.get("type", b"")) == b'"error"' else None
        if is_error(document):
            raise told_error(document, target)
        report = decode(members["usage"]) if "usage" in members else None
    except DecodeError as error:
        raise unreadable(target) from error
    if not call.endpoint.uses_tokens:
        return PassedAnswer(body, NO_TOKENS, 0)
    return PassedAnswer(body, read_usage(report), len(bytes(members.get("content", b""))))


class PassedMessages(PassedStream):
    """A streamed message. Its usage stands in the first and in the last but one of its events."""

    __slots__ = ("_counted", "_deltas", "_giant_bytes", "_recent", "_stopped")

    def __init__(self, target: Target) -> None:
        self._counted = Counted()
        super().__init__(target)
        self._stopped = False
        self._deltas = 0
        self._giant_bytes = 0
        self._recent: deque[bytes] = deque(maxlen=4)

    @property
    def usage(self) -> Usage | None:
        """What was reported, with an estimate of the output until the end has told it."""
        return self._counted.so_far(self.produced())

    @usage.setter
    def usage(self, usage: Usage | None) -> None:
        """Nothing is known at the beginning."""

    def is_special(self, block: bytes) -> bool:
        return _special(block) is not None

    def tally(self, block: bytes) -> None:
        deltas = block.count(_DELTA)
        if deltas:
            self._deltas += deltas
            self._recent.append(block if len(block) <= TAIL else block[-TAIL:])
        self.begun = self.begun or _seen(block) is not None

    def judge_first(self, event: bytes, payload: bytes) -> None:
        document = self._document(payload)
        if is_error(document) or sse.kind(event) == b"error":
            raise told_error(document, self.target)
        if not isinstance(document, dict) or "type" not in document:
            raise unreadable(self.target)

    def judge(self, event: bytes) -> bytes:
        payload = sse.data(event)
        if payload is None or not self.is_special(event):
            self.tally(event)
            return event
        document = self._document(payload)
        if sse.kind(event) == b"error":
            raise told_error(document, self.target)
        match document:
            case {"type": "error"}:
                raise told_error(document, self.target)
            case {"type": "message_start", "message": {"usage": report}}:
                self._counted.add(report, final=False)
            case {"type": "message_delta", "delta": dict(delta)}:
                self._counted.add(document.get("usage"))
                self._stopped = self._stopped or isinstance(delta.get("stop_reason"), str)
            case {"type": "message_stop"}:
                self.complete = True
        return event

    def end(self) -> bytes:
        """Some that speak this dialect leave out the last event; the answer is whole with its reason to stop."""
        if not self._stopped:
            raise self.broken_off()
        return b""

    def giant_begins(self, piece: bytes) -> None:
        self._giant_bytes += len(piece)
        self.begun = True

    def giant_goes_on(self, piece: bytes, window: bytes, *, over: bool) -> None:
        self._giant_bytes += len(piece)

    def failure(self, error: GatewayError, request_id: str) -> bytes:
        """A client that has only a part of an event is given the end of it first."""
        ended = b"\n\n" if self.inside_an_event else b""
        return self.unsent + ended + ANTHROPIC.error_event(error, request_id)

    def produced(self) -> int:
        """Deltas times the tokens that one seems to carry: one, or a quarter of its text's bytes where that is more.
        The text is sampled from the last blocks."""
        sizes = [size for block in self._recent for event in sse.events(block) if (size := _text_size(event))]
        giants = self._giant_bytes // BYTES_PER_TOKEN
        if not sizes:
            return giants
        return giants + round(self._deltas * max(1.0, sum(sizes) / len(sizes) / BYTES_PER_TOKEN))

    def _document(self, payload: bytes) -> Any:
        try:
            return decode(payload)
        except DecodeError as error:
            raise unreadable(self.target) from error


def _text_size(event: bytes) -> int:
    """Bytes of the text that a delta brings."""
    try:
        document = decode(sse.data(event) or b"null")
    except DecodeError:
        return 0  # the start of a block that was remembered only in part
    match document:
        case {"delta": {"text": str(text)} | {"thinking": str(text)} | {"partial_json": str(text)}}:
            return len(text.encode("utf-8", "replace"))
    return 0

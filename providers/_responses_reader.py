"""Reads the streamed answer of an upstream that speaks OpenAI's Responses API.

Events pass. Only those that can end the answer are taken apart, for their usage; a client waits for one of them, so a
failure is told by one too, under the next sequence number.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Any

from gateway.core import sse
from gateway.core.body import DecodeError, decode, raw_members
from gateway.core.responses import bare_response, failed_event
from providers._errors import reported_error, unreadable
from providers._passing import TAIL, PassedStream
from providers._usage import BYTES_PER_TOKEN, read_responses_usage

if TYPE_CHECKING:
    from gateway.core.deployment import Target
    from gateway.core.errors import GatewayError
    from gateway.core.usage import Usage

_HEAD = 4_096
"""How much of the first event is remembered, for who the response is."""

_LAST = frozenset({b"response.completed", b"response.incomplete", b"response.failed"})
_PRELUDE = frozenset({b"response.created", b"response.queued", b"response.in_progress"})

_special = re.compile(rb"response\.(?:completed|incomplete|failed)|error|\[DONE\]").search
_seen = re.compile(rb'"delta"|\.done"|partial_image').search
_KIND = re.compile(rb'(?:\A|[\r\n])event:\s*([a-z._]+)|"type"\s*:\s*"(response\.[a-z._]+)"')
_IDENTITY = re.compile(rb'"id"\s*:\s*"([!-~]{1,200}?)"')
_MODEL = re.compile(rb'"model"\s*:\s*"([!-~]{1,200}?)"')
_CREATED = re.compile(rb'"created_at"\s*:\s*(\d{1,12})')
_SEQUENCE = re.compile(rb'"sequence_number"\s*:\s*(\d{1,9})')
_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')


class ResponsesStream(PassedStream):
    """A `Stream` that `TellsFailure`."""

    __slots__ = (
        "_deltas",
        "_events",
        "_failed",
        "_giant_bytes",
        "_giant_kind",
        "_head",
        "_recent",
        "_sequence",
        "_tail",
    )

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._head = b""
        self._tail = b""  # of a giant event
        self._giant_kind = b""
        self._giant_bytes = 0  # of giant events that carry text
        self._events = 0
        self._deltas = 0
        self._recent: deque[bytes] = deque(maxlen=4)
        self._sequence = b""  # where the last sequence number stands
        self._failed: dict[str, Any] | None = None

    def is_special(self, block: bytes) -> bool:
        return _special(block) is not None

    def tally(self, block: bytes) -> None:
        self._events += block.count(b"data:")
        self._note_sequence(block)
        self.begun = self.begun or _seen(block) is not None
        deltas = block.count(b'"delta"')
        if deltas:
            self._deltas += deltas
            self._recent.append(block if len(block) <= TAIL else block[-TAIL:])

    def judge_first(self, event: bytes, payload: bytes) -> None:
        self._head = event[:_HEAD]
        if payload.strip() == b"[DONE]":
            return
        self.raise_reported(event, payload)
        try:
            members = raw_members(payload)
        except DecodeError as error:
            raise unreadable(self.target) from error
        if "type" not in members:
            raise reported_error(decode(payload), self.target) if "message" in members else unreadable(self.target)

    def judge(self, event: bytes) -> bytes:
        payload = sse.data(event)
        if payload is None:
            return event
        if payload.strip() == b"[DONE]":
            raise self.broken_off()  # it ends other dialects, and clients would take it for an end here
        self.raise_reported(event, payload)
        kind = self._kind(event, payload)
        if kind == b"error":
            raise reported_error(decode(payload), self.target)
        if kind in _LAST:
            self._end_with(kind, payload)
        self.tally(event)
        return event

    def giant_begins(self, piece: bytes) -> None:
        self._head = self._head or piece[:_HEAD]
        found = _KIND.search(piece[:_HEAD])
        self._giant_kind = (found[1] or found[2]) if found else b""
        self.begun = self.begun or self._giant_kind not in _PRELUDE
        self._events += 1
        self._note_sequence(piece[:_HEAD])
        self._add_to_giant(piece)

    def giant_goes_on(self, piece: bytes, window: bytes, *, over: bool) -> None:
        self._add_to_giant(piece)
        if over and self._giant_kind in _LAST:
            self.usage = _usage_near_the_end(self._tail) or self.usage
            self.complete = True

    def end(self) -> bytes:
        raise self.broken_off()

    def failure(self, error: GatewayError, request_id: str) -> bytes:
        """The upstream's own failed response where it told of one, less what callers must not see; else what is known
        of the response. A client that has only a part of an event is given the end of it first."""
        told = failed_event(self._failed or self._known(request_id), error, self._next_sequence())
        return self.unsent + (b"\n\n" if self.inside_an_event else b"") + told

    def produced(self) -> int:
        """Deltas times the tokens that one seems to carry: one, or a quarter of its text's bytes where that is more.
        The text is sampled from the last blocks."""
        sizes = [size for size in self._recent_sizes() if size]
        giants = self._giant_bytes // BYTES_PER_TOKEN
        if not sizes:
            return giants
        return giants + round(self._deltas * max(1.0, sum(sizes) / len(sizes) / BYTES_PER_TOKEN))

    def _end_with(self, kind: bytes, payload: bytes) -> None:
        """The last event. Raises where it says that the response failed; what it used is noted all the same."""
        try:
            response: dict[str, Any] = dict(raw_members(raw_members(payload)["response"]))
            self.usage = read_responses_usage(decode(response.get("usage", b"null"))) or self.usage
            told = decode(response.get("error", b"null"))
        except (KeyError, *DecodeError) as error:
            raise unreadable(self.target) from error
        if kind == b"response.failed":
            self._failed = response
            raise reported_error({"error": told}, self.target)
        self.complete = True

    def _kind(self, event: bytes, payload: bytes) -> bytes:
        """What an event is: its `event:` line says it, else its `type`. Raises where it is no JSON."""
        try:
            kind = decode(raw_members(payload).get("type", b"null"))
        except DecodeError as error:
            raise unreadable(self.target) from error
        return sse.kind(event) or (kind.encode("utf-8", "replace") if isinstance(kind, str) else b"")

    def _add_to_giant(self, piece: bytes) -> None:
        if self._giant_kind.endswith(b"delta"):
            self._giant_bytes += len(piece)
        self._tail = (self._tail + piece)[-TAIL:]

    def _note_sequence(self, block: bytes) -> None:
        at = block.rfind(b'"sequence_number"')
        if at >= 0:
            self._sequence = block[at : at + 40]

    def _next_sequence(self) -> int:
        found = _SEQUENCE.match(self._sequence)
        return int(found[1]) + 1 if found else self._events

    def _known(self, request_id: str) -> dict[str, Any]:
        identity, model, created = (found.search(self._head) for found in (_IDENTITY, _MODEL, _CREATED))
        return bare_response(
            identity[1].decode("ascii") if identity else f"resp_{request_id}",
            model[1].decode("ascii") if model else self.target.upstream_model,
            int(created[1]) if created else 0,
        )

    def _recent_sizes(self) -> list[int]:
        sizes = []
        for block in self._recent:
            for event in sse.events(block):
                try:
                    delta = decode(raw_members(sse.data(event) or b"").get("delta", b"null"))
                except DecodeError:
                    continue  # the start of a block that was remembered only in part
                sizes.append(len(delta.encode("utf-8", "replace")) if isinstance(delta, str) else 0)
        return sizes


def _usage_near_the_end(tail: bytes) -> Usage | None:
    """The usage in what is left of an event that was too long to hold."""
    for found in reversed(list(_USAGE.finditer(tail))):
        try:
            usage = read_responses_usage(decode(_object_at(tail, found.end())))
        except DecodeError:
            continue
        if usage is not None:
            return usage
    return None


def _object_at(text: bytes, start: int) -> bytes:
    """The JSON object that begins there, as long as no brace is inside a string."""
    depth = 0
    for at in range(start, len(text)):
        depth += {0x7B: 1, 0x7D: -1}.get(text[at], 0)
        if not depth:
            return text[start : at + 1]
    return b""

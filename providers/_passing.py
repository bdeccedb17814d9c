"""Reads the streamed answer of an upstream that speaks its client's own dialect.

Bytes go through as they came. What must be understood is found by searching bytes, which is safe because a quote
inside a JSON string is always escaped: `"usage"` and `"error"` in the raw bytes are JSON's own. Only an event that
holds one of these is taken apart. An unfinished event is held until its end arrives, so that the client always stands
between two events when something goes wrong, and so that an event is hidden whole or not at all.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from gateway.core import sse
from gateway.core.body import DecodeError, decode, raw_members
from gateway.core.errors import GatewayError, upstream_error
from providers._errors import reported_error, unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.core.deployment import Target
    from gateway.core.usage import Usage

HOLD = 65_536
"""The most bytes of an unfinished event that are held. A longer event goes through in pieces."""

TAIL = 16_384
"""How much of a block is remembered for the questions that are asked only at the end."""

_BOM = b"\xef\xbb\xbf"
_FIELD = re.compile(rb"\s*(?:data|event|id|retry|)\s*:")
_ERROR_DATA = re.compile(rb'\s*(?:event: ?error\b|data: ?\{\s*"error"\s*:)')


class PassedStream(ABC):
    """A `Stream` whose events pass. A dialect says which blocks hold something special, and what becomes of the events
    in them.

    Comments and `event:` lines pass. `id:` lines do not: beside a comment they break a widespread client, and an
    answer cannot be resumed by them.
    """

    __slots__ = ("_giant", "_held", "_numbered", "_opened", "_steady", "begun", "complete", "target", "unsent", "usage")

    def __init__(self, target: Target) -> None:
        self.usage: Usage | None = None
        self.complete = False
        self.begun = False
        self.target = target
        self.unsent = b""  # what was to pass before the error that `feed` raised
        self._held = bytearray()
        self._giant = b""  # the last bytes of the event that goes through in pieces; empty when there is none
        self._opened = False
        self._numbered = False
        self._steady = False  # opened, between two events, and nothing special: the case that must be quick

    @abstractmethod
    def is_special(self, block: bytes) -> bool:
        """Whether an event of a block must be looked at by `judge`. Asked of every block: it only searches."""

    @abstractmethod
    def tally(self, block: bytes) -> None:
        """Count what a block that passes has brought."""

    @abstractmethod
    def judge(self, event: bytes) -> bytes:
        """What the client gets of one event. Sets `complete` at the last one; raises where it tells of an error."""

    @abstractmethod
    def judge_first(self, event: bytes, payload: bytes) -> None:
        """Look at the first event with data. Raises where the answer is an error, or something else."""

    @abstractmethod
    def end(self) -> bytes:
        """The body is over without the dialect's own end: what stands for it. Raises `broken_off` where the answer
        is not over."""

    @abstractmethod
    def produced(self) -> int:
        """An estimate of the completion tokens seen so far."""

    @abstractmethod
    def giant_begins(self, piece: bytes) -> None:
        """A piece of an event that is too long to hold is about to pass."""

    @abstractmethod
    def giant_goes_on(self, piece: bytes, window: bytes, *, over: bool) -> None:
        """Another piece of it passes, `window` with the last bytes before it; `over` where it is the last. Sets
        `complete` where the event was the last one."""

    def feed(self, chunk: bytes) -> bytes:
        if self._steady and chunk.endswith(sse.ENDS):
            return self._read(chunk)
        return self._assemble(chunk)

    def finish(self) -> bytes:
        if self.complete:
            return b""
        rest = bytes(self._held)
        self._held.clear()
        if not self._opened and rest.strip() and not _FIELD.match(rest.removeprefix(_BOM)):
            raise self._not_a_stream(rest)
        last = b"" if self._giant else self._last_event(rest)
        if self.complete:
            return last
        if self._giant:
            raise self.broken_off()
        end = self.end()
        self.complete = True
        return last + end

    def broken_off(self) -> GatewayError:
        """The error of an answer that was cut."""
        return upstream_error(f"The provider '{self.target.upstream.name}' broke off its answer.")

    @property
    def inside_an_event(self) -> bool:
        """Whether the client was given a part of an event and not its end."""
        return bool(self._giant)

    def raise_reported(self, event: bytes, payload: bytes) -> None:
        """An error that the upstream tells of inside the stream: a true `error` member, or an event of that name."""
        named = b"error" in event and sse.kind(event) == b"error"
        if not named and b'"error"' not in payload:
            return
        try:
            members = raw_members(payload)
            told = named or is_error(members)
            document = decode(payload) if told else None
        except DecodeError as error:
            if named:
                raise unreadable(self.target) from error
            return
        if told:
            raise reported_error(document, self.target)

    def _read(self, block: bytes) -> bytes:
        """Whole events, on their way to the client."""
        if self.is_special(block):
            return self._examine(block)
        self.tally(block)
        return block

    def _assemble(self, chunk: bytes) -> bytes:
        """Hold what has no end yet, read what has."""
        if self.complete:
            return b""
        passed = b""
        if self._giant:
            passed, chunk = self._pass_giant(chunk)
            if not chunk or self.complete:
                self._settle()
                return passed
        held = self._held
        unsearched = max(0, len(held) - 2)
        held += chunk
        end = sse.whole(held, unsearched)
        if end and (self._opened or self._open(bytes(held[:end]))):
            block = bytes(held[:end])
            del held[:end]
            try:
                passed += self._read(sse.without_ids(block) if self._numbered else block)
            except GatewayError:
                self.unsent = passed + self.unsent
                raise
        if len(held) > HOLD and not self.complete:
            passed += self._begin_giant()
        self._settle()
        return passed

    def _settle(self) -> None:
        self._steady = self._opened and not (self._held or self._giant or self._numbered or self.complete)

    def _open(self, block: bytes) -> bool:
        """Judge the first event, before anything reaches the client. False while there are only comments."""
        for event in sse.events(block.removeprefix(_BOM)):
            if event.strip() and not _FIELD.match(event):
                raise self._not_a_stream(bytes(self._held))
            payload = sse.data(event)
            if payload is not None:
                self.judge_first(event, payload)
                self._numbered = sse.has_id(event)
                self._opened = True
                return True
        return False

    def _begin_giant(self) -> bytes:
        """Too much is held. Let go of it: of an endless prelude of comments, else of an event without an end."""
        comments = sse.whole(self._held)
        if comments > HOLD // 2:
            piece = bytes(self._held[:comments])
            del self._held[:comments]
            return piece
        piece = bytes(self._held)
        event = piece[comments:].removeprefix(_BOM)
        if not self._opened and not _FIELD.match(event):
            raise self._not_a_stream(b"")
        if _ERROR_DATA.match(event):
            raise unreadable(self.target)
        self._held.clear()
        self._opened = True
        self._giant = piece[-2:]
        self.giant_begins(event)
        return piece

    def _pass_giant(self, chunk: bytes) -> tuple[bytes, bytes]:
        """What of the chunk belongs to the giant event, and the rest."""
        window = self._giant + chunk
        end = sse.first_end(window)
        cut = end - len(self._giant) if end else len(chunk)
        piece = chunk[:cut]
        self._giant = b"" if end else window[-2:]
        self.giant_goes_on(piece, window[:end] if end else window, over=bool(end))
        return piece, chunk[cut:]

    def _examine(self, block: bytes) -> bytes:
        kept = []
        try:
            for event in sse.events(block):
                kept.append(self.judge(event))
                if self.complete:
                    self._held.clear()
                    self._steady = False
                    break
        except GatewayError:
            self.unsent = b"".join(kept)
            raise
        return b"".join(kept)

    def _last_event(self, rest: bytes) -> bytes:
        """An event that the body's end ended: as good as any other if it is whole, and nothing if it is not."""
        payload = sse.data(rest)
        if payload is None:
            return b""
        if payload.strip() != b"[DONE]":
            try:
                decode(payload)
            except DecodeError:
                return b""
        event = rest + (b"\n" if rest.endswith((b"\n", b"\r")) else b"\n\n")
        if not self._opened:
            self._open(event)
        return self._examine(sse.without_ids(event) if self._numbered else event)

    def _not_a_stream(self, body: bytes) -> GatewayError:
        """A streamed call that was answered with something else."""
        try:
            members = raw_members(body)
            if is_error(members):
                return reported_error(decode(body), self.target)
        except DecodeError:
            pass
        return unreadable(self.target)


def is_error(members: Mapping[str, bytes]) -> bool:
    """Whether a JSON object's members say that it is an error, whatever its status."""
    if bytes(members.get("error", b"null")) not in (b"null", b"false", b'""', b"{}", b"[]", b"0"):
        return True
    return bytes(members.get("object", b"")) == b'"error"'

"""Reads the streamed answer of an upstream that speaks OpenAI.

Bytes go through as they came. What must be understood is found by searching bytes, which is safe because a quote
inside a JSON string is always escaped: `"usage"` and `"error"` in the raw bytes are JSON's own. Only an event that
holds one of these is taken apart. An unfinished event is held until its end arrives, so that the client always stands
between two events when something goes wrong, and so that a usage report is hidden whole or not at all.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

from gateway.core import sse
from gateway.core.body import DecodeError, decode, encode, raw_members
from gateway.core.errors import GatewayError, upstream_error
from providers._errors import reported_error, unreadable
from providers._usage import BYTES_PER_TOKEN, read_usage, text_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.core.deployment import Target
    from gateway.core.usage import Usage

HOLD = 65_536
"""The most bytes of an unfinished event that are held. A longer event goes through in pieces, unread."""

TAIL = 16_384
"""How much of a block is remembered for the questions that are asked only at the end."""

DONE = b"data: [DONE]\n\n"

_BOM = b"\xef\xbb\xbf"
# Compiled patterns find their literal beginning faster than `in` finds a short needle.
_usage_object = re.compile(rb'"usage"\s*:\s*\{').search
_error_word = re.compile(rb"error").search
_done_word = re.compile(rb"\[DONE\]").search
_seen = re.compile(
    rb'"(?:content|reasoning|reasoning_content|refusal|arguments|name|text|data|transcript)"\s*:\s*(?:"[^"]|\[\s*\{)'
).search
"""What a reader sees of a choice: a member of these with something in it."""
_FINISH = re.compile(rb'"finish_reason"\s*:\s*"')
_FIELD = re.compile(rb"\s*(?:data|event|id|retry|)\s*:")
_ERROR_DATA = re.compile(rb'\s*(?:event: ?error\b|data: ?\{\s*"error"\s*:)')


class OpenAIStream:
    """A `Stream`. `keep_usage` says whether the client asked for usage; `choices` how many it asked for.

    Comments and `event:` lines pass. `id:` lines do not: beside a comment they break a widespread client, and an
    answer cannot be resumed by them. Vendors' own usage below other members, such as `x_groq`, is read and stays.
    """

    __slots__ = (
        "_choices",
        "_events",
        "_giant",
        "_giant_bytes",
        "_held",
        "_keep_usage",
        "_numbered",
        "_opened",
        "_recent",
        "_steady",
        "_target",
        "begun",
        "complete",
        "usage",
    )

    def __init__(self, target: Target, *, keep_usage: bool, choices: int = 1) -> None:
        self.usage: Usage | None = None
        self.complete = False
        self.begun = False
        self._target = target
        self._keep_usage = keep_usage
        self._choices = choices
        self._held = bytearray()
        self._recent: deque[bytes] = deque(maxlen=4)
        self._events = 0
        self._giant_bytes = 0
        self._giant = b""  # the last bytes of the event that goes through in pieces; empty when there is none
        self._opened = False
        self._numbered = False
        self._steady = False  # opened, between two events, and nothing special: the case that must be quick

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
        if self._giant or not self._ended():
            raise upstream_error(f"The provider '{self._target.upstream.name}' broke off its answer.")
        self.complete = True
        return last + DONE

    def produced(self) -> int:
        """Events times the tokens an event seems to carry: one, or a quarter of its text's bytes where that is more.

        Exact within two or three for upstreams that send an event per token, within about a fifth for those that
        send several tokens at a time. The text per event is sampled from the last events only.
        """
        sizes = [text_bytes(choices) for choices in self._recent_choices()]
        texts = [size for size in sizes if size]
        giants = self._giant_bytes // BYTES_PER_TOKEN
        if not texts:
            return giants
        per_event = max(1.0, sum(texts) / len(texts) / BYTES_PER_TOKEN)
        return giants + round((self._events - len(sizes) + len(texts)) * per_event)

    def _read(self, block: bytes) -> bytes:
        """Whole events, on their way to the client. The searches are all that most of them cost."""
        if _usage_object(block) or _error_word(block) or _done_word(block):
            return self._examine(block)
        self._tally(block)
        return block

    def _tally(self, block: bytes) -> None:
        count = block.count(b"data:")
        if count:
            self.begun = self.begun or _seen(block) is not None
            self._events += count
            self._recent.append(block if len(block) <= TAIL else block[-TAIL:])

    def _assemble(self, chunk: bytes) -> bytes:
        """Hold what has no end yet, read what has."""
        if self.complete:
            return b""
        passed = b""
        if self._giant:
            passed, chunk = self._pass_giant(chunk)
            if not chunk:
                self._settle()
                return passed
        held = self._held
        unsearched = max(0, len(held) - 2)
        held += chunk
        end = sse.whole(held, unsearched)
        if end and (self._opened or self._open(bytes(held[:end]))):
            block = bytes(held[:end])
            del held[:end]
            passed += self._read(sse.without_ids(block) if self._numbered else block)
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
                self._judge_first(event, payload)
                self._numbered = sse.has_id(event)
                self._opened = True
                return True
        return False

    def _judge_first(self, event: bytes, payload: bytes) -> None:
        if payload.strip() == b"[DONE]":
            return
        self._raise_reported(event, payload)
        try:
            members = raw_members(payload)
        except DecodeError as error:
            raise unreadable(self._target) from error
        if "choices" not in members and ("message" in members or "detail" in members):
            raise reported_error(decode(payload), self._target)

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
            raise unreadable(self._target)
        self._held.clear()
        self._opened = self.begun = True
        self._giant_bytes += len(piece)
        self._giant = piece[-2:]
        return piece

    def _pass_giant(self, chunk: bytes) -> tuple[bytes, bytes]:
        """What of the chunk belongs to the giant event, and the rest."""
        window = self._giant + chunk
        end = sse.first_end(window)
        cut = end - len(self._giant) if end else len(chunk)
        piece = chunk[:cut]
        self._giant_bytes += len(piece)
        self._recent.append(window[-TAIL:] if not end else window[max(0, end - TAIL) : end])
        self._giant = b"" if end else window[-2:]
        return piece, chunk[cut:]

    def _examine(self, block: bytes) -> bytes:
        kept = []
        for event in sse.events(block):
            kept.append(self._judge(event))
            if self.complete:
                self._held.clear()
                self._steady = False
                break
        return b"".join(kept)

    def _judge(self, event: bytes) -> bytes:
        """What the client gets of one event. Raises when the event is an error."""
        payload = sse.data(event)
        if payload is None:
            return event
        if payload.strip() == b"[DONE]":
            self.complete = True
            return event
        self._raise_reported(event, payload)
        kept = self._take_usage(event, payload) if _usage_object(payload) else event
        if kept:
            self._tally(kept)
        return kept

    def _raise_reported(self, event: bytes, payload: bytes) -> None:
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
                raise unreadable(self._target) from error
            return
        if told:
            raise reported_error(document, self._target)

    def _take_usage(self, event: bytes, payload: bytes) -> bytes:
        """Note the usage an event reports; give what the client gets of the event."""
        try:
            members = raw_members(payload)
            usage = _usage_in(members)
        except DecodeError:
            return event
        self.usage = usage or self.usage
        if self._keep_usage or not bytes(members.get("usage", b"")).startswith(b"{"):
            return event
        if bytes(members.get("choices", b"")).strip(b"[] \t\r\n") in (b"", b"null"):
            return b""
        del members["usage"]
        return sse.with_data(event, encode(members))

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

    def _ended(self) -> bool:
        """Whether the last events say that every choice has come to its end."""
        return len(_FINISH.findall(b"".join(self._recent))) >= max(1, self._choices)

    def _recent_choices(self) -> list[object]:
        found: list[object] = []
        for block in self._recent:
            for event in sse.events(block):
                try:
                    choices = raw_members(sse.data(event) or b"").get("choices")
                    if choices is not None:
                        found.append(decode(choices))
                except DecodeError:
                    continue  # the start of a block that was remembered only in part
        return found

    def _not_a_stream(self, body: bytes) -> GatewayError:
        """A streamed call that was answered with something else."""
        try:
            members = raw_members(body)
            if is_error(members):
                return reported_error(decode(body), self._target)
        except DecodeError:
            pass
        return unreadable(self._target)


def is_error(members: Mapping[str, bytes]) -> bool:
    """Whether a JSON object's members say that it is an error, whatever its status."""
    if bytes(members.get("error", b"null")) not in (b"null", b"false", b'""', b"{}", b"[]", b"0"):
        return True
    return bytes(members.get("object", b"")) == b'"error"'


def _usage_in(members: Mapping[str, bytes]) -> Usage | None:
    """The usage an event reports: its own, else Groq's, else that of its first choice (Moonshot)."""
    if "usage" in members:
        usage = read_usage(decode(members["usage"]))
        if usage is not None:
            return usage
    if "x_groq" in members:
        extra = decode(members["x_groq"])
        return read_usage(extra.get("usage")) if isinstance(extra, dict) else None
    choices = decode(members["choices"]) if "choices" in members else None
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return read_usage(choices[0].get("usage"))
    return None

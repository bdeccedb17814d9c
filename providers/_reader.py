"""Reads the streamed answer of an upstream that speaks OpenAI's chat completions."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

from gateway.core import sse
from gateway.core.body import DecodeError, decode, encode, raw_members
from providers._errors import reported_error, unreadable
from providers._passing import TAIL, PassedStream
from providers._usage import BYTES_PER_TOKEN, read_usage, text_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.core.deployment import Target
    from gateway.core.usage import Usage

DONE = b"data: [DONE]\n\n"

# Compiled patterns find their literal beginning faster than `in` finds a short needle.
_usage_object = re.compile(rb'"usage"\s*:\s*\{').search
_error_word = re.compile(rb"error").search
_done_word = re.compile(rb"\[DONE\]").search
_seen = re.compile(
    rb'"(?:content|reasoning|reasoning_content|refusal|arguments|name|text|data|transcript)"\s*:\s*(?:"[^"]|\[\s*\{)'
).search
"""What a reader sees of a choice: a member of these with something in it."""
_FINISH = re.compile(rb'"finish_reason"\s*:\s*"')


class OpenAIStream(PassedStream):
    """A `Stream`. `keep_usage` says whether the client asked for usage; `choices` how many it asked for.

    Vendors' own usage below other members, such as `x_groq`, is read and stays.
    """

    __slots__ = ("_choices", "_events", "_giant_bytes", "_keep_usage", "_recent")

    def __init__(self, target: Target, *, keep_usage: bool, choices: int = 1) -> None:
        super().__init__(target)
        self._keep_usage = keep_usage
        self._choices = choices
        self._recent: deque[bytes] = deque(maxlen=4)
        self._events = 0
        self._giant_bytes = 0

    def is_special(self, block: bytes) -> bool:
        return bool(_usage_object(block) or _error_word(block) or _done_word(block))

    def tally(self, block: bytes) -> None:
        count = block.count(b"data:")
        if count:
            self.begun = self.begun or _seen(block) is not None
            self._events += count
            self._recent.append(block if len(block) <= TAIL else block[-TAIL:])

    def judge_first(self, event: bytes, payload: bytes) -> None:
        if payload.strip() == b"[DONE]":
            return
        self.raise_reported(event, payload)
        try:
            members = raw_members(payload)
        except DecodeError as error:
            raise unreadable(self.target) from error
        if "choices" not in members and ("message" in members or "detail" in members):
            raise reported_error(decode(payload), self.target)

    def judge(self, event: bytes) -> bytes:
        payload = sse.data(event)
        if payload is None:
            return event
        if payload.strip() == b"[DONE]":
            self.complete = True
            return event
        self.raise_reported(event, payload)
        kept = self._take_usage(event, payload) if _usage_object(payload) else event
        if kept:
            self.tally(kept)
        return kept

    def giant_begins(self, piece: bytes) -> None:
        self.begun = True
        self._giant_bytes += len(piece)

    def giant_goes_on(self, piece: bytes, window: bytes, *, over: bool) -> None:
        self._giant_bytes += len(piece)
        self._recent.append(window[-TAIL:])

    def end(self) -> bytes:
        if not self._ended():
            raise self.broken_off()
        return DONE

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

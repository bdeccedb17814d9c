"""Answers of OpenAI's endpoints for images, sound and reranking: what they used, and those that are no JSON."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from gateway.core import sse
from gateway.core.body import DecodeError, decode, raw_items, raw_members
from gateway.core.errors import upstream_error
from gateway.core.headers import first
from gateway.core.metering import metered
from gateway.core.usage import Usage
from providers._errors import reported_error, unreadable
from providers._passing import is_error
from providers._usage import BYTES_PER_TOKEN, count, read_usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.core.call import Call
    from gateway.core.deployment import Target
    from gateway.core.errors import GatewayError
    from gateway.core.headers import Headers
    from gateway.core.ports import Stream

_TOKENS_PER_CHARACTER = 1.4
"""Of sound: what a minute's speech of about 900 characters comes to."""

_MOST_EVENT_BYTES = 64 * 2**20
"""An event may hold a whole image."""

_END = re.compile(rb'"type"\s*:\s*"[a-z_.]+\.(?:done|completed)"').search
_ERROR = re.compile(rb'"error"\s*:\s*[{"]|"type"\s*:\s*"error"').search


class MediaAnswer:
    """An `Answer` in JSON, its bytes as they came."""

    content_type = b"application/json"

    def __init__(self, body: bytes, usage: Usage) -> None:
        self.body = body
        self.usage: Usage | None = usage

    def produced(self) -> int:
        """The usage says it all."""
        return 0


def read_media(call: Call, target: Target, body: bytes) -> MediaAnswer:
    """A whole JSON answer. Raises `GatewayError` where it is an error or cannot be read."""
    try:
        members = raw_members(body)
        if is_error(members):
            raise reported_error(decode(body), target)
        report = decode(members["usage"]) if "usage" in members else None
        units = _units_in(call, members, report)
        text = len(bytes(members.get("text", b"")))
    except DecodeError as error:
        raise unreadable(target) from error
    return MediaAnswer(body, _metered(call, target, tokens_in(report), units, _produced(call, text)))


def passing(call: Call, target: Target, headers: Headers) -> Stream | None:
    """A reader for what is no JSON."""
    kind = (first(headers, b"content-type") or b"").partition(b";")[0].strip().lower()
    if kind == b"text/event-stream":
        return MediaEvents(call, target)
    if kind == b"application/json":
        return None
    return Passed(call, target)


class Passed:
    """A `Stream` of bytes that nobody looks at: sound, or a transcript that is plain text."""

    def __init__(self, call: Call, target: Target) -> None:
        self.usage: Usage | None = None
        self.complete = False
        self.begun = False
        self._call = call
        self._target = target
        self._size = 0

    def feed(self, chunk: bytes) -> bytes:
        self.begun = True
        self._size += len(chunk)
        return chunk

    def finish(self) -> bytes:
        self.complete = True
        self.usage = _metered(self._call, self._target, None, None, self.produced())
        return b""

    def produced(self) -> int:
        return _produced(self._call, self._size) if self.begun else 0

    def failure(self, error: GatewayError, request_id: str) -> bytes:
        """There are no words for it inside a sound: the connection is cut."""
        return b""


class MediaEvents:
    """A `Stream` of events: images as they become clearer, text or sound in pieces. Those that end something wait for
    what follows them, so that the books are closed before a client can know that it has everything."""

    def __init__(self, call: Call, target: Target) -> None:
        self.usage: Usage | None = None
        self.complete = False
        self.begun = False
        self._call = call
        self._target = target
        self._held = bytearray()
        self._last = b""
        self._tokens: Usage | None = None
        self._seconds: int | None = None
        self._ends = 0
        self._text = 0

    def feed(self, chunk: bytes) -> bytes:
        held = self._held
        unsearched = max(0, len(held) - 2)
        held += chunk
        end = sse.whole(held, unsearched)
        if not end:
            if len(held) > _MOST_EVENT_BYTES:
                raise unreadable(self._target)
            return b""
        block = bytes(held[:end])
        del held[:end]
        return self._read(block)

    def finish(self) -> bytes:
        rest, self._held = bytes(self._held), bytearray()
        passed = self._read(rest + b"\n\n") if sse.data(rest) is not None else b""
        if not self._ends:
            raise upstream_error(f"The provider '{self._target.upstream.name}' broke off its answer.")
        if not self.complete:
            self._complete()
        return passed + self._last

    def produced(self) -> int:
        """Of an answer that broke off."""
        return _produced(self._call, self._text) if self.begun else 0

    def _read(self, block: bytes) -> bytes:
        passed = []
        for event in sse.events(block):
            payload = sse.data(event)
            if payload is None:
                passed.append(event)
                continue
            if _ERROR(payload) or sse.kind(event) == b"error":
                self._raise_reported(event, payload)
            passed.append(self._last)
            self._last = b""
            if payload.strip() == b"[DONE]":
                self._complete()
                self._last = event
            elif _END(payload):
                self._end(payload)
                self._last = event
            else:
                self.begun = True
                self._text += len(payload)
                passed.append(event)
        if self.complete:
            passed.append(self._last)
            self._last = b""
        return b"".join(passed)

    def _end(self, payload: bytes) -> None:
        """One image, or all of a text or a sound: what it used."""
        try:
            members = raw_members(payload)
            report = decode(members["usage"]) if "usage" in members else None
        except DecodeError as error:
            raise unreadable(self._target) from error
        self.begun = True
        self._ends += 1
        self._tokens = _added(self._tokens, tokens_in(report))
        self._seconds = _seconds_in(members, report)

    def _complete(self) -> None:
        self.complete = True
        units = self._ends if self._call.demand.unit == "image" else self._seconds
        self.usage = _metered(self._call, self._target, self._tokens, units, self.produced())

    def _raise_reported(self, event: bytes, payload: bytes) -> None:
        try:
            members = raw_members(payload)
            if is_error(members) or b'"error"' in bytes(members.get("type", b"")) or sse.kind(event) == b"error":
                raise reported_error(decode(payload), self._target)
        except DecodeError as error:
            raise unreadable(self._target) from error


def tokens_in(report: object) -> Usage | None:
    """Tokens as these endpoints report them: by either pair of names, or, where nothing is generated, in one sum."""
    if not isinstance(report, dict) or report.get("type") == "duration":
        return None
    prompt, completion = count(report.get("input_tokens")), count(report.get("output_tokens"))
    if prompt is not None and completion is not None:
        return Usage(prompt, completion)
    total = count(report.get("total_tokens"))
    if "prompt_tokens" not in report and total is not None:
        return Usage(total, 0)
    return read_usage(report)


def _units_in(call: Call, members: Mapping[str, bytes], report: object) -> int | None:
    """The units that an answer tells of, None where it does not."""
    match call.demand.unit:
        case "image":
            return len(raw_items(members["data"])) if "data" in members else None
        case "second":
            return _seconds_in(members, report)
        case "search":
            return _searches_in(members)
    return None


def _seconds_in(members: Mapping[str, bytes], report: object) -> int | None:
    """Begun seconds count whole."""
    told = report if isinstance(report, dict) else {}
    duration = decode(members["duration"]) if "duration" in members else None
    return next(
        (whole for value in (told.get("seconds"), told.get("prompt_audio_seconds"), duration) if (whole := _up(value))),
        None,
    )


def _searches_in(members: Mapping[str, bytes]) -> int | None:
    meta: Any = decode(members["meta"]) if "meta" in members else None
    billed = meta.get("billed_units") if isinstance(meta, dict) else None
    return _up(billed.get("search_units")) if isinstance(billed, dict) else None


def _up(value: object) -> int | None:
    """A number rounded up, None for what cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**31:
        return None
    return math.ceil(value)


def _added(known: Usage | None, more: Usage | None) -> Usage | None:
    if known is None or more is None:
        return known or more
    return Usage(known.prompt + more.prompt, known.completion + more.completion)


def _produced(call: Call, size: int) -> int:
    """The tokens of an answer of so many bytes, as far as that can be guessed."""
    match call.demand.unit:
        case "character":
            return math.ceil(call.demand.likely_units * _TOKENS_PER_CHARACTER)
        case "second":
            return -(-size // BYTES_PER_TOKEN)
    return 0


def _metered(call: Call, target: Target, tokens: Usage | None, units: int | None, produced: int) -> Usage:
    price = target.model.prices.at(call.demand.priced_at)
    return metered(call.demand, price, tokens=tokens, units=units, produced=produced)

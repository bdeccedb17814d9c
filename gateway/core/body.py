"""A JSON request body whose members stay as the client wrote them. The data plane's JSON lives here.

Only the top level is taken apart. Each member keeps its own bytes, so numbers, key order and escapes below it reach
the upstream unchanged, and replacing one member copies the others instead of re-encoding them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.core.errors import invalid_request

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_ENCODER = msgspec.json.Encoder()

_HALF_PAIR = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
).search
"""Such as programs write that cut a text in the middle of an emoji."""

encode = _ENCODER.encode
"""Any JSON-able value as compact UTF-8 JSON."""

decode = msgspec.json.Decoder().decode
"""JSON bytes as Python values. Raises `DecodeError`."""

DecodeError = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""What decoding foreign bytes can raise; deep nesting is a RecursionError."""

MOST_MEMBERS = 1_000
"""No API has a tenth of it."""

_MOST_SHOWN = 64
"""Characters of a name in an error."""

_BEFORE = re.compile(rb'[{,]\s*("[^"\\]*(?:\\.[^"\\]*)*")\s*:\s*')
_AFTER = re.compile(rb"\s*(?=[,}])")
"""What stands before and after a value, in what is known to be JSON."""


class Body:
    """A JSON object, one level deep. Raises a 400 `GatewayError` for anything else, and for a member that is there
    twice: readers disagree on which of the two counts, and the upstream must not read another request than we did."""

    __slots__ = ("members", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        try:
            if not raw.isascii():
                raw.decode()  # skipped members are not checked by the decoder
            self.members: dict[str, msgspec.Raw] = _MEMBERS.decode(raw)
        except DecodeError as error:
            reason = "it holds half of a surrogate pair" if _HALF_PAIR(raw) else _reason(error)
            raise invalid_request(f"The request body is not a JSON object: {reason}.") from error
        if len(self.members) > MOST_MEMBERS:
            raise invalid_request(f"The request body has more than {MOST_MEMBERS} members.")
        twice = self._told_twice()
        if twice is not None:
            shown = twice[:_MOST_SHOWN]
            raise invalid_request(f"'{shown}' is in the request body more than once.", param=shown)

    def _told_twice(self) -> str | None:
        """A member that is there more than once.

        Without one, whoever goes through the body meets each of the decoded members in turn, and then its end.
        """
        raw, members = self.raw, self.members
        values = sum([len(memoryview(value)) for value in members.values()])
        if len(raw) == 1 + 4 * len(members) + sum(map(len, members)) + values:
            return None  # it is as short as it can be with each of them in it once
        at, expected = raw.index(b"{"), iter(members)
        while begin := _BEFORE.match(raw, at):
            name = _TEXT.decode(begin[1])
            if name != next(expected, None):
                return name
            value = bytes(members[name])
            end = _AFTER.match(raw, begin.end() + len(value))
            if end is None or not raw.startswith(value, begin.end()):
                return name
            at = end.end()
        return None

    def __contains__(self, name: str) -> bool:
        """Whether the member is there and not null."""
        raw = self.members.get(name)
        return raw is not None and not _is_null(raw)

    def size(self, name: str) -> int:
        """Bytes the member's value takes; 0 when it is absent."""
        raw = self.members.get(name)
        return 0 if raw is None else len(memoryview(raw))

    def is_filled_array(self, name: str) -> bool:
        """Whether the member is an array with something in it."""
        raw = self.members.get(name)
        if raw is None:
            return False
        start = bytes(memoryview(raw)[:64])
        return start.startswith(b"[") and start[1:].lstrip() != b"]"

    def value(self, name: str) -> Any:
        """The member decoded whole, None when absent or null."""
        raw = self.members.get(name)
        if raw is None:
            return None
        try:
            return decode(raw)
        except DecodeError as error:
            raise invalid_request(f"'{name}' cannot be read: {_reason(error)}.", param=name) from error

    def text(self, name: str) -> str | None:
        raw = self.members.get(name)
        if raw is None or _is_null(raw):
            return None
        try:
            return _TEXT.decode(raw)
        except DecodeError as error:
            raise invalid_request(f"'{name}' must be a string.", param=name) from error

    def flag(self, name: str) -> bool:
        """The member as a boolean; absent and null are false."""
        raw = self.members.get(name)
        if raw is None:
            return False
        match bytes(raw):
            case b"true":
                return True
            case b"false" | b"null":
                return False
        raise invalid_request(f"'{name}' must be true or false.", param=name)

    def count(self, name: str, *, least: int = 0, most: int = 2**31) -> int | None:
        """The member as an integer within bounds, None when absent or null."""
        if name not in self.members:
            return None
        value = self.value(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise invalid_request(f"'{name}' must be an integer from {least} to {most}.", param=name)
        return value

    def changed(self, changes: Mapping[str, Any]) -> Body:
        """The body with some members set, whatever it came as."""
        return Body(self.with_members(changes))

    def with_members(self, changes: Mapping[str, Any]) -> bytes:
        """The body as bytes with some members set; a change to None removes the member."""
        members: dict[str, Any] = dict(self.members)
        for name, value in changes.items():
            if value is None:
                members.pop(name, None)
            else:
                members[name] = value
        return _ENCODER.encode(members)


def raw_members(document: bytes) -> dict[str, msgspec.Raw]:
    """A JSON object's members, each as its own bytes. Raises `DecodeError`."""
    return _MEMBERS.decode(document)


def raw_items(document: bytes) -> list[msgspec.Raw]:
    """A JSON array's items, each as its own bytes. Raises `DecodeError`."""
    return _ITEMS.decode(document)


def _is_null(raw: msgspec.Raw) -> bool:
    return len(memoryview(raw)) == 4 and bytes(raw) == b"null"


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not valid UTF-8"
    return str(error).removesuffix(".")

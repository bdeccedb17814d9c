"""Server-sent events as bytes: where they end, what they carry. No I/O.

Lines end in LF, CRLF or CR and nothing else; text is never decoded, so an event may be cut or hold anything. The end of
an event belongs to it: joining the events of a block gives the block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

ENDS = (b"\n\n", b"\n\r\n", b"\r\r")
"""How an event ends. The CR before `\\n\\r\\n` belongs to the line before, so CRLF streams are covered too."""

_END = re.compile(rb"\n\r?\n|\r\r")
_ID = re.compile(rb"(?:\A|(?<=[\r\n]))id(?::[^\r\n]*)?(?:\r\n|\r|\n)")


def whole(buffer: bytes | bytearray, start: int = 0) -> int:
    """How many leading bytes are whole events; 0 when no event ends at or after `start`."""
    last = 0
    for end in ENDS:
        at = buffer.rfind(end, start)
        if at >= 0:
            last = max(last, at + len(end))
    return last


def first_end(buffer: bytes) -> int:
    """Where the first event ends; 0 when it does not."""
    found = _END.search(buffer)
    return found.end() if found else 0


def events(block: bytes) -> Iterator[bytes]:
    """The events of a block; what follows the last end comes last, as it is."""
    start = 0
    for found in _END.finditer(block):
        yield block[start : found.end()]
        start = found.end()
    if start < len(block):
        yield block[start:]


def data(event: bytes) -> bytes | None:
    """An event's data lines joined by LF, None when it has none: a comment, or a blank line."""
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def kind(event: bytes) -> bytes:
    """What its `event:` line says, empty without one."""
    for line in event.splitlines():
        if line.startswith(b"event:"):
            return line[6:].strip()
    return b""


def with_data(event: bytes, payload: bytes) -> bytes:
    """The event with other data, of one line; every other line stays."""
    lines: list[bytes] = []
    written = False
    for line in event.splitlines(keepends=True):
        if not line.startswith(b"data:"):
            lines.append(line)
        elif not written:
            lines.append(b"data: " + payload + line[len(line.rstrip(b"\r\n")) :])
            written = True
    return b"".join(lines)


def has_id(event: bytes) -> bool:
    """Whether one of its lines is an `id:` line."""
    return _ID.search(event) is not None


def without_ids(block: bytes) -> bytes:
    """The block less its `id:` lines."""
    return _ID.sub(b"", block)


class Splitter:
    """Whole events out of bytes cut anywhere. `most` bounds what an unfinished event may hold."""

    __slots__ = ("_held", "_most")

    def __init__(self, most: int = 16 * 2**20) -> None:
        self._held = bytearray()
        self._most = most

    def feed(self, chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The events that are whole now: each one's name (empty without one) and data. Comments are left out. Raises
        `ValueError` where an event is longer than may be."""
        held = self._held
        unsearched = max(0, len(held) - 2)
        held += chunk
        end = whole(held, unsearched)
        if not end:
            if len(held) > self._most:
                raise ValueError("an event has no end")
            return iter(())
        block = bytes(held[:end])
        del held[:end]
        return _told(block)

    def finish(self) -> Iterator[tuple[bytes, bytes]]:
        """What is left when the body has ended: an event that only the end has ended."""
        rest = bytes(self._held)
        self._held.clear()
        return _told(rest)


def _told(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    for event in events(block.removeprefix(b"\xef\xbb\xbf")):
        payload = data(event)
        if payload is not None:
            yield kind(event), payload


def event(payload: bytes, name: bytes = b"") -> bytes:
    """An event of one line of data, under a name where it has one."""
    return b"event: " + name + b"\ndata: " + payload + b"\n\n" if name else b"data: " + payload + b"\n\n"

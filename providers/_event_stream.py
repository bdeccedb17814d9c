"""Amazon's event stream: binary frames with headers, a payload and two checksums."""

from __future__ import annotations

import struct
from binascii import crc32
from collections.abc import Iterator
from typing import NamedTuple

MOST_BYTES = 24 * 2**20
"""What AWS itself gives as the largest frame."""

_PRELUDE = 12
_CHECKSUM = 4
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type; types 6 and 7, bytes and text, say their own length."""
_TEXT = 7


class Frame(NamedTuple):
    """Headers that are text, by name, and the payload."""

    headers: dict[str, str]
    payload: bytes


class Frames:
    """Whole frames out of bytes cut anywhere."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """The frames that are whole now. Raises `ValueError` for what is none."""
        held = self._held
        held += chunk
        while len(held) >= _PRELUDE:
            total, headers, checksum = struct.unpack_from(">III", held)
            if crc32(held[:8]) != checksum or not _PRELUDE + _CHECKSUM + headers <= total <= MOST_BYTES:
                raise ValueError("not a frame")
            if len(held) < total:
                return
            frame = bytes(held[:total])
            del held[:total]
            if crc32(frame[:-_CHECKSUM]) != struct.unpack_from(">I", frame, total - _CHECKSUM)[0]:
                raise ValueError("a damaged frame")
            end = _PRELUDE + headers
            yield Frame(_read_headers(frame[_PRELUDE:end]), frame[end:-_CHECKSUM])


def _read_headers(block: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    at = 0
    try:
        while at < len(block):
            name = block[at + 1 : at + 1 + block[at]].decode()
            at += 1 + block[at]
            kind = block[at]
            at += 1
            size = _SIZES.get(kind)
            if size is None:
                (size,) = struct.unpack_from(">H", block, at)
                at += 2
            if kind == _TEXT:
                headers[name] = block[at : at + size].decode()
            at += size
    except (IndexError, struct.error) as error:
        raise ValueError("headers that cannot be read") from error
    return headers

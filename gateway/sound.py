"""How long a sound file is, where its head tells for certain: WAV without compression."""

from __future__ import annotations

import struct

HEAD_BYTES = 4096
"""How much of a file's beginning is looked at."""

_PLAIN = (1, 3, 0xFFFE)
"""Formats whose samples are numbers of a fixed size: integers, floats, and either of them described at length."""


def wav_seconds(head: bytes, size: int) -> int | None:
    """The seconds of a WAV file of `size` bytes that begins with `head`, begun ones counted whole; None for any other
    file, and for one whose head contradicts itself.

    All that follows the head counts as sound, whatever length it states: a reader may take it for that.
    """
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    rate = 0
    at = 12
    while at + 8 <= len(head):
        name, length = struct.unpack_from("<4sI", head, at)
        at += 8
        if name == b"data":
            return -(-(size - at) // rate) if rate and size >= at else None
        if name == b"fmt ":
            rate = _bytes_per_second(head[at : at + 16])
        at += length + length % 2
    return None


def _bytes_per_second(fmt: bytes) -> int:
    """0 where the format is none whose length its size tells."""
    if len(fmt) < 16:
        return 0
    kind, channels, samples, per_second, block, bits = struct.unpack("<HHIIHH", fmt)
    honest = block == channels * bits // 8 and per_second == samples * block
    return per_second if kind in _PLAIN and honest and bits % 8 == 0 else 0

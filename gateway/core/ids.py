"""Request ids: UUIDv7, so that they sort by time and need no coordination. They are names, not secrets."""

from __future__ import annotations

import time
from random import getrandbits

_LOW = (1 << 62) - 1


def new_request_id() -> str:
    """A fresh id, 36 characters."""
    noise = getrandbits(74)
    value = (int(time.time() * 1000) << 80) | (7 << 76) | (noise >> 62 << 64) | (2 << 62) | (noise & _LOW)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

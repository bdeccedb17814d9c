"""Request ids: UUIDv7, so that they sort by time and need no coordination."""

from __future__ import annotations

import os
import time


def new_request_id() -> str:
    """A fresh id, 36 characters."""
    millis = int(time.time() * 1000) & 0xFFFF_FFFF_FFFF
    noise = int.from_bytes(os.urandom(10))
    value = f"{millis:012x}7{noise >> 68:03x}{0x8 | (noise >> 66 & 0x3):x}{noise & ((1 << 60) - 1):015x}"
    return f"{value[:8]}-{value[8:12]}-{value[12:16]}-{value[16:20]}-{value[20:]}"

"""API keys as text: made, recognised, and turned into the digest that stands for them.

    sk-aidock-  XXXXXXXXXXXX  YYYY…YYYY  ZZZZZZ
    prefix      public id 12  secret 43  checksum 6

Everything after the prefix is a letter or a digit, so a double click selects it. The public id may be shown and
logged; the secret has 256 random bits, for which one fast keyed hash is enough; the checksum turns away typing
errors and junk before they cost anything, and lets scanners recognise a leaked key.
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
import zlib
from typing import NamedTuple

from gateway.core.secret import Secret
from gateway.identity.pepper import Pepper

PREFIX = "sk-aidock-"
PUBLIC_ID_LENGTH = 12
KEY_LENGTH = len(PREFIX) + PUBLIC_ID_LENGTH + 43 + 6

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SHAPE = re.compile(rb"sk-aidock-([0-9A-Za-z]{12})[0-9A-Za-z]{43}([0-9A-Za-z]{6})")
_CHECKED = KEY_LENGTH - 6


class NewKey(NamedTuple):
    """A key that nobody has seen yet."""

    text: Secret
    public_id: str


def new_key() -> NewKey:
    """A fresh key from the system's randomness."""
    public_id = "".join(secrets.choice(_DIGITS) for _ in range(PUBLIC_ID_LENGTH))
    text = PREFIX + public_id + _base62(secrets.randbits(256), 43)
    return NewKey(Secret(text + _checksum(text.encode())), public_id)


def parse(credential: bytes) -> str | None:
    """The public id of a well-formed key, None for anything else. Says nothing about whether the key exists."""
    shape = _SHAPE.fullmatch(credential)
    if shape is None or _checksum(credential[:_CHECKED]).encode() != shape[2]:
        return None
    return shape[1].decode()


def digest(pepper: Pepper, credential: bytes) -> bytes:
    """The 32 bytes under which a key is stored and found. Worth nothing without the pepper."""
    return hmac.digest(pepper.key, credential, "sha256")


def masked(public_id: str) -> str:
    """A key as it may be shown."""
    return f"{PREFIX}{public_id}…"


def _checksum(text: bytes) -> str:
    return _base62(zlib.crc32(text), 6)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))

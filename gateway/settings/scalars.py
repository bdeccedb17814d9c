"""How unquoted text is read: by the rules of JSON and YAML 1.2, so that one document means the same in both formats.

Only `true`, `false`, `null` and decimal numbers are anything but text. What YAML 1.1 would turn into something else
(`on`, `yes`, `1_000`, `010`, `1:30`, dates) stays text, and is refused by name where a switch or a number is wanted.
"""

from __future__ import annotations

import re
from decimal import Decimal

Scalar = str | int | bool | Decimal | None

_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_FRACTION = re.compile(r"[-+]?(?:[0-9]{1,18}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][-+]?[0-9]{1,2})?", re.ASCII)
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]")


class Expanded(str):
    """Text that came from the environment or a secret file. Where a number or a switch is wanted it is read as one,
    and messages never show it."""

    __slots__ = ()


def resolve(text: str) -> Scalar:
    """Unquoted text as a value. Fractions are exact decimals; numbers of absurd length stay text."""
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text):
        return int(text)
    if _FRACTION.fullmatch(text) and not _LEADING_ZERO.match(text):
        return Decimal(text)
    return text

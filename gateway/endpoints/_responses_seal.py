"""What a provider needs back with its next turn, in a reasoning item's `encrypted_content`.

Clients that keep the conversation themselves hand this member back unread. Here it holds the signed thoughts of a
turn and what a provider hung on its tool calls, as chat has them. It hides nothing: what is in it was its client's
already.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gateway.core.body import DecodeError, decode, encode

_MARK = "aidock1."


class Sealed(NamedTuple):
    """`thinking` is `thinking_blocks`; `extras` maps a call's id to its `extra_content`."""

    thinking: Sequence[Mapping[str, Any]] = ()
    extras: Mapping[str, Mapping[str, Any]] = {}


def seal(sealed: Sealed) -> str | None:
    """As text; None where there is nothing."""
    if not sealed.thinking and not sealed.extras:
        return None
    return _MARK + base64.urlsafe_b64encode(encode([sealed.thinking, sealed.extras])).decode("ascii")


def unseal(text: object) -> Sealed:
    """What `seal` made text; nothing for what somebody else wrote."""
    if not isinstance(text, str) or not text.startswith(_MARK):
        return Sealed()
    try:
        read = decode(base64.urlsafe_b64decode(text[len(_MARK) :]))
    except (binascii.Error, ValueError, *DecodeError):
        return Sealed()
    match read:
        case [list(thinking), dict(extras)]:
            return Sealed(
                [block for block in thinking if isinstance(block, dict)],
                {str(name): extra for name, extra in extras.items() if isinstance(extra, dict)},
            )
    return Sealed()

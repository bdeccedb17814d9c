"""Thought signatures of tool calls: handed out with each call, taken back with it, and remembered for clients that drop
what they do not know."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.core.call import Call

UNSIGNED = "skip_thought_signature_validator"
"""What Google documents as the signature of a call that its models have not made."""

_MOST_SIGNATURES = 20_000
_MOST_BYTES = 32 * 2**20
_LONGEST = 2**20


def handed_out(signature: str) -> dict[str, Any]:
    """A signature as `extra_content`, where Google's own OpenAI-like endpoint puts it."""
    return {"google": {"thought_signature": signature}}


def taken_back(extra: Mapping[str, Any]) -> str:
    """The signature in an `extra_content`, empty where there is none."""
    google = extra.get("google")
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else ""


class Signatures:
    """The signatures of the latest tool calls by caller and id, as many as fit. One object per process."""

    def __init__(self, most: int = _MOST_SIGNATURES, most_bytes: int = _MOST_BYTES) -> None:
        self._known: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0

    def remember(self, call: Call, identity: str, signature: str) -> None:
        """Keep the signature of a call to a tool; the oldest make room."""
        key = (call.principal.key_id, identity)
        self._drop(key)
        if len(signature) > _LONGEST:
            return
        self._known[key] = signature
        self._bytes += _size(key, signature)
        while len(self._known) > self._most or self._bytes > self._most_bytes:
            self._drop(next(iter(self._known)))

    def recall(self, call: Call, identity: str) -> str:
        """The signature that the caller's call of that id had, empty where it is not known."""
        key = (call.principal.key_id, identity)
        signature = self._known.get(key, "")
        if signature:
            self._known.move_to_end(key)
        return signature

    def _drop(self, key: tuple[str, str]) -> None:
        signature = self._known.pop(key, None)
        if signature is not None:
            self._bytes -= _size(key, signature)


def _size(key: tuple[str, str], signature: str) -> int:
    return len(key[0]) + len(key[1]) + len(signature)

"""Feeds a recorded stream as a network may deliver it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from gateway.core import sse
from gateway.core.ports import Stream


def fed(stream: Stream, *pieces: bytes) -> bytes:
    """What the client gets, the end of the body included."""
    out = b""
    for piece in pieces:
        if piece and not stream.complete:
            out += stream.feed(piece)
    return out if stream.complete else out + stream.finish()


def deliveries(recorded: bytes) -> Iterator[tuple[bytes, ...]]:
    """The same bytes cut in two at every place, and one at a time."""
    for at in range(len(recorded) + 1):
        yield recorded[:at], recorded[at:]
    yield tuple(bytes([byte]) for byte in recorded)


def the_same_however_cut(make: Callable[[], Stream], recorded: bytes) -> bytes:
    """What the client gets of a recorded stream, the same for every delivery."""
    whole = make()
    told = fed(whole, recorded)
    for pieces in deliveries(recorded):
        stream = make()
        assert fed(stream, *pieces) == told
        assert stream.usage == whole.usage
    return told


def chunks(told: bytes) -> list[Any]:
    """The documents of a chat stream's events, its end mark left out."""
    payloads = [sse.data(event) for event in sse.events(told)]
    assert payloads[-1] == b"[DONE]"
    return [json.loads(payload) for payload in payloads[:-1] if payload is not None]


def deltas(told: bytes) -> list[Any]:
    """The deltas of its first choice, and at last the reason it finished."""
    choices = [choice for chunk in chunks(told) for choice in chunk["choices"]]
    return [choice["finish_reason"] or choice["delta"] for choice in choices]

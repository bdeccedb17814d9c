"""The journal's format: how a record becomes a frame, and how frames are found again in damaged bytes.

A frame is a 16-byte head (magic, kind, payload length, sequence number), the CRC-32 of head and payload, and the
payload, a record as a MessagePack array. The CRC starts from a seed of the journal's own, so bytes that a record
merely quotes are never taken for a frame when a reader has to look for the next one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar
from zlib import crc32

import msgspec

from gateway.core.money import MAX_AMOUNT
from gateway.core.records import Decision, IntentRecord, OutcomeRecord

INTENT: Final = 1
OUTCOME: Final = 2

MAX_PAYLOAD = 16 * 1024
"""Bytes; a record with longer texts is shortened to fit."""

MAX_FRAME = MAX_PAYLOAD + 20

_MAGIC = 0x0CAD
_MAGIC_BYTES = _MAGIC.to_bytes(2, "little")
_HEAD = struct.Struct("<HBxIQ")
_CHECK = struct.Struct("<I")
_HEADER = struct.Struct("<HBxIQI")
_HEAD_BYTES = _HEAD.size
_HEADER_BYTES = _HEADER.size
_DECISION_FIELDS = len(Decision._fields)
_MAX_TEXT = 512
"""Bytes; a dozen texts of it leave room in a frame."""

_pack_head = _HEAD.pack
_pack_check = _CHECK.pack
_unpack_header = _HEADER.unpack_from
_encode = msgspec.msgpack.Encoder().encode
_decode_fields = msgspec.msgpack.Decoder(list).decode
_decode_intent = msgspec.msgpack.Decoder(IntentRecord).decode
_decode_outcome = msgspec.msgpack.Decoder(OutcomeRecord).decode

_Record = TypeVar("_Record", IntentRecord, OutcomeRecord)


class UnreadableRecord(Exception):
    """A whole frame whose payload is not a record that this release knows."""


Frame = tuple[int, int, bytes]
"""Kind, sequence number and payload of a frame whose CRC was right."""


class Scan(NamedTuple):
    """What a stretch of a segment held: `consumed` bytes from its start are done with, the `damaged` ones among them
    from a place to before another."""

    frames: list[Frame]
    consumed: int
    damaged: list[tuple[int, int]]

    @property
    def skipped(self) -> int:
        return sum(end - start for start, end in self.damaged)


def encode_record(record: IntentRecord | OutcomeRecord) -> bytes:
    """The record as a payload. Values that cannot be written are bent until they can: nothing is refused."""
    try:
        payload = _encode(record)
    except (UnicodeEncodeError, OverflowError):
        payload = _encode(_storable(record))
    return payload if len(payload) <= MAX_PAYLOAD else _shortened(record)


def decode_intent(payload: bytes) -> IntentRecord:
    """Raises `UnreadableRecord`."""
    try:
        return _decode_intent(payload)
    except msgspec.DecodeError:
        return _decode_loosely(IntentRecord, payload)


def decode_outcome(payload: bytes) -> OutcomeRecord:
    """Raises `UnreadableRecord`."""
    try:
        return _decode_outcome(payload)
    except msgspec.DecodeError:
        return _decode_loosely(OutcomeRecord, payload)


def seal(kind: int, sequence: int, payload: bytes, seed: int) -> bytes:
    """A frame around a payload."""
    head = _pack_head(_MAGIC, kind, len(payload), sequence)
    return head + _pack_check(crc32(payload, crc32(head, seed))) + payload


def scan(data: bytes, seed: int, *, whole: bool, most: int) -> Scan:
    """The frames at the start of `data`, up to and with the `most`-th outcome.

    `whole` says that the segment ends where `data` does; otherwise a frame that is cut there is left for later.
    Damage is skipped up to the next good frame.
    """
    frames: list[Frame] = []
    damaged: list[tuple[int, int]] = []
    size = len(data)
    at = outcomes = 0
    while outcomes < most and at + _HEADER_BYTES <= size:
        magic, kind, length, sequence, check = _unpack_header(data, at)
        start = at + _HEADER_BYTES
        end = start + length
        if magic == _MAGIC and length <= MAX_PAYLOAD:
            if end <= size:
                payload = data[start:end]
                if crc32(payload, crc32(data[at : at + _HEAD_BYTES], seed)) == check:
                    frames.append((kind, sequence, payload))
                    outcomes += kind == OUTCOME
                    at = end
                    continue
            elif not whole:
                break
        found = _next_candidate(data, at + 1, whole=whole)
        _mark(damaged, at, found)
        at = found
    if whole and outcomes < most:
        _mark(damaged, at, size)
        at = size
    return Scan(frames, at, damaged)


def is_torn(rest: bytes, sequence: int) -> bool:
    """Whether these last bytes of a segment are the beginning of the frame so numbered (0: of any): its writer was
    stopped in the middle of it, so nobody has relied on it."""
    if len(rest) < _HEADER_BYTES:
        return _MAGIC_BYTES.startswith(rest[:2])
    magic, _, length, number, _ = _unpack_header(rest)
    return magic == _MAGIC and sequence in (0, number) and len(rest) - _HEADER_BYTES < length <= MAX_PAYLOAD


def count_heads(damaged: bytes) -> int:
    """How many frames these bytes look to have been: one at least."""
    at = found = 0
    while at + _HEADER_BYTES <= len(damaged):
        magic, _, length, _, _ = _unpack_header(damaged, at)
        if magic != _MAGIC or length > MAX_PAYLOAD:
            break
        at += _HEADER_BYTES + length
        found += 1
    return max(1, found)


def _mark(damaged: list[tuple[int, int]], start: int, end: int) -> None:
    if damaged and damaged[-1][1] == start:
        start, _ = damaged.pop()
    if start < end:
        damaged.append((start, end))


def _next_candidate(data: bytes, start: int, *, whole: bool) -> int:
    found = data.find(_MAGIC_BYTES, start)
    if found >= 0:
        return found
    return len(data) if whole else max(start, len(data) - 1)


def _decode_loosely(shape: type[_Record], payload: bytes) -> _Record:
    """Read what another release wrote: fields added since are dropped, new words for a kind or outcome are kept."""
    try:
        fields = _decode_fields(payload)
        record = shape(*fields[: len(shape._fields)])
        if isinstance(record, OutcomeRecord):
            decided: Iterable[Sequence[Any]] = record.decisions
            return record._replace(decisions=tuple(Decision(*each[:_DECISION_FIELDS]) for each in decided))
        return record
    except (msgspec.DecodeError, TypeError) as error:
        raise UnreadableRecord(str(error)) from error


def _shortened(record: IntentRecord | OutcomeRecord) -> bytes:
    """With shorter texts and, where that is not enough, without what its policies decided."""
    fields = _storable(record)
    payload = _encode(fields)
    if len(payload) <= MAX_PAYLOAD:
        return payload
    return _encode(tuple(() if isinstance(value, tuple) else value for value in fields))


def _storable(values: Iterable[object]) -> tuple[object, ...]:
    return tuple(map(_bent, values))


def _bent(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace")[:_MAX_TEXT].decode("utf-8", "ignore")
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-MAX_AMOUNT, min(MAX_AMOUNT, value))
    return _storable(value) if isinstance(value, tuple) else value

from __future__ import annotations

import random

import msgspec
import pytest

from gateway.core.money import MAX_AMOUNT
from gateway.core.records import Decision, IntentRecord, OutcomeRecord
from gateway.ledger.frames import (
    INTENT,
    MAX_PAYLOAD,
    OUTCOME,
    UnreadableRecord,
    decode_intent,
    decode_outcome,
    encode_record,
    scan,
    seal,
)
from tests.ledger.support import intent, outcome

SEED = 7
DECISION = Decision("quota", "department", "research", "tokens", "month", "deny", 10**6, 10**5, 10**3)


def frames(count: int) -> list[bytes]:
    return [seal(OUTCOME, n, encode_record(outcome(f"r{n}")), SEED) for n in range(1, count + 1)]


def test_records_come_back_as_they_went_in() -> None:
    assert decode_intent(encode_record(intent("r1"))) == intent("r1")
    assert decode_outcome(encode_record(outcome("r1"))) == outcome("r1")


def test_a_record_of_an_older_release_gets_the_defaults_of_the_fields_it_lacks() -> None:
    old = msgspec.msgpack.encode(tuple(outcome("r1"))[:-1])
    assert decode_outcome(old) == outcome("r1", attempts=1)


def test_a_record_of_a_newer_release_is_read_without_its_new_fields_and_with_its_new_words() -> None:
    new = msgspec.msgpack.encode((*outcome("r1", kind="writeoff", attempts=3), "a new field", 5))
    assert decode_outcome(new) == outcome("r1", kind="writeoff", attempts=3)


@pytest.mark.parametrize("payload", [b"", b"\xc1", msgspec.msgpack.encode({"a": 1}), msgspec.msgpack.encode([1, 2])])
def test_a_payload_that_is_no_record_is_named_unreadable(payload: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        decode_outcome(payload)


@pytest.mark.parametrize(
    "hostile",
    [
        {"user": "lone \ud800 surrogate"},
        {"prompt_tokens": 10**30, "cost_microusd": 10**40},
        {"model_id": "m" * 100_000},
        {"upstream_model": "\ud800" * 100_000},
    ],
)
def test_a_record_that_cannot_be_written_is_bent_until_it_can(hostile: dict[str, object]) -> None:
    payload = encode_record(outcome("r1", **hostile))
    record = decode_outcome(payload)
    assert len(payload) <= MAX_PAYLOAD
    assert record.request_id == "r1"
    assert (record.prompt_tokens or 0) <= MAX_AMOUNT
    assert type(record.streamed) is bool


def test_what_policies_decided_is_kept_and_goes_first_where_it_would_not_fit() -> None:
    few, many = (DECISION,) * 20, (DECISION._replace(subject="s" * 5000),) * 300
    assert decode_outcome(encode_record(outcome("r1", decisions=few))) == outcome("r1", decisions=few)
    payload = encode_record(outcome("r1", decisions=many))
    assert len(payload) <= MAX_PAYLOAD
    assert decode_outcome(payload) == outcome("r1", decisions=())
    bent = decode_outcome(encode_record(outcome("r1", decisions=(DECISION._replace(subject="\ud800", used=2**70),))))
    assert bent.decisions == (DECISION._replace(subject="?", used=MAX_AMOUNT),)


@pytest.mark.parametrize("record", [outcome("r1"), intent("r1")])
def test_no_record_is_longer_than_a_frame_may_be_whatever_its_texts(record: IntentRecord | OutcomeRecord) -> None:
    texts = {name: "\N{GRINNING FACE}" * 10_000 for name, value in record._asdict().items() if type(value) is str}
    assert len(texts) > 8
    assert len(encode_record(record._replace(**texts))) <= MAX_PAYLOAD


def test_decisions_of_a_newer_release_are_read_without_what_is_new_in_them() -> None:
    newer = outcome("r1")._replace(decisions=((*DECISION, "a new field"),))  # type: ignore[arg-type]
    assert decode_outcome(msgspec.msgpack.encode((*newer, "another"))) == outcome("r1", decisions=(DECISION,))


def test_a_scan_stops_after_the_outcomes_it_was_asked_for() -> None:
    written = [seal(INTENT, 1, encode_record(intent("r1")), SEED), *frames(5)]
    found = scan(b"".join(written), SEED, whole=True, most=2)
    assert [kind for kind, _, _ in found.frames] == [INTENT, OUTCOME, OUTCOME]
    assert (found.consumed, found.skipped) == (len(b"".join(written[:3])), 0)


def test_a_frame_cut_by_the_end_of_the_chunk_is_left_for_the_next_one() -> None:
    one, two = frames(2)
    for cut in range(len(two)):
        found = scan(one + two[:cut], SEED, whole=False, most=10)
        assert [sequence for _, sequence, _ in found.frames] == [1]
        assert (found.consumed, found.skipped) == (len(one), 0)


def test_a_frame_cut_by_the_end_of_the_segment_is_counted_as_damage() -> None:
    one, two = frames(2)
    for cut in range(1, len(two)):
        found = scan(one + two[:cut], SEED, whole=True, most=10)
        assert [sequence for _, sequence, _ in found.frames] == [1]
        assert (found.consumed, found.skipped) == (len(one) + cut, cut)


def test_reading_goes_on_after_a_damaged_frame() -> None:
    one, two, three = frames(3)
    for at in range(len(two)):
        damaged = bytearray(two)
        damaged[at] ^= 0x40
        found = scan(one + bytes(damaged) + three, SEED, whole=True, most=10)
        assert [sequence for _, sequence, _ in found.frames] == [1, 3]
        assert found.skipped == len(two)


def test_a_frame_quoted_in_a_record_is_not_taken_for_one() -> None:
    quoted = seal(OUTCOME, 9, encode_record(outcome("forged")), 0)
    damaged = bytearray(seal(OUTCOME, 1, b"\xc4" + quoted, SEED))
    damaged[-1] ^= 1
    assert scan(bytes(damaged), SEED, whole=True, most=10).frames == []


def test_noise_holds_no_frames_and_is_read_to_its_end() -> None:
    noise = random.Random(1).randbytes(200_000) + b"\xad\x0c" * 1000
    found = scan(noise, SEED, whole=True, most=10)
    assert (found.frames, found.consumed, found.skipped) == ([], len(noise), len(noise))

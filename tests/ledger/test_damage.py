"""Records that a disk has not given back: what becomes of their calls, who hears of it, and for how long."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from gateway.ledger.damage import FILE_NAME, DamageFile
from gateway.ledger.directory import create
from gateway.ledger.frames import OUTCOME, decode_intent, decode_outcome, scan, seal
from gateway.ledger.inspection import inspect_all
from gateway.ledger.journal import FileJournal
from gateway.ledger.orphans import orphan
from gateway.ledger.reader import Replay
from gateway.ledger.recovery import Adopter
from gateway.ledger.writer import LedgerWriter
from tests.ledger.support import ListSink, abandon, intent, names, outcome, serve
from tests.support.until import until

INTENT_OF, OUTCOME_OF = 1, 2


def flip(journal: FileJournal, request_id: str, *kinds: int) -> None:
    """Damage the records of a call: a byte in the middle of each."""
    for segment in journal.home.segments():
        path = journal.home.segment_path(segment)
        data = bytearray(path.read_bytes())
        at = 0
        for kind, _, payload in scan(bytes(data), journal.home.seed, whole=True, most=10**6).frames:
            at = data.index(payload, at)
            named = decode_outcome(payload) if kind == OUTCOME else decode_intent(payload)
            if kind in kinds and named.request_id == request_id:
                data[at + len(payload) // 2] ^= 0xFF
            at += len(payload)
        path.write_bytes(data)


async def adopted(root: Path) -> tuple[ListSink, Adopter]:
    sink = ListSink()
    adopter = Adopter(root, sink)
    await adopter.adopt()
    return sink, adopter


def lines(root: Path) -> list[dict[str, Any]]:
    path = root / FILE_NAME
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def journal(tmp_path: Path) -> FileJournal:
    return FileJournal(create(tmp_path), segment_bytes=4096)


async def test_a_dead_process_call_whose_end_is_damaged_is_an_orphan(journal: FileJournal, tmp_path: Path) -> None:
    serve(journal, 40)
    flip(journal, "r00007", OUTCOME_OF)
    await abandon(journal)
    sink, adopter = await adopted(tmp_path)
    assert sink.stored["r00007", "orphan"] == orphan(intent("r00007"))
    assert len(sink.of_kind("charge")) == 39
    assert (adopter.recovered.missing, adopter.recovered.orphans) == (1, 1)


async def test_a_call_whose_beginning_is_damaged_has_its_whole_row(journal: FileJournal, tmp_path: Path) -> None:
    serve(journal, 40)
    flip(journal, "r00007", INTENT_OF)
    await abandon(journal)
    sink, adopter = await adopted(tmp_path)
    assert sink.stored["r00007", "charge"] == outcome("r00007")
    assert (len(sink.stored), adopter.recovered.missing) == (40, 1)


@pytest.mark.parametrize("victim", ["r00007", "r00039"])
async def test_a_call_of_which_nothing_is_left_is_told_of_by_number(
    journal: FileJournal, tmp_path: Path, victim: str
) -> None:
    serve(journal, 40)
    before = {path.name: path.read_bytes() for path in journal.path.glob("*.seg")}
    flip(journal, victim, INTENT_OF, OUTCOME_OF)
    after = {path.name: path.read_bytes() for path in journal.path.glob("*.seg")}
    (changed,) = (name for name in before if before[name] != after[name])
    await abandon(journal)
    sink, _ = await adopted(tmp_path)
    assert len(sink.stored) == 39
    (line,) = lines(tmp_path)
    first = 2 * int(victim[1:]) + 1
    assert (line["journal"], line["acknowledged_at"]) == (journal.path.name, None)
    assert line["records"] == [[first, first + 1]]
    (piece,) = line["pieces"]
    kept = base64.b64decode(piece["base64"])
    assert after[changed][piece["offset"] :][: len(kept)] == kept
    assert victim.encode() in kept


async def test_a_frame_that_was_being_written_when_its_process_died_is_no_lost_record(
    journal: FileJournal, tmp_path: Path
) -> None:
    serve(journal, 3)
    frame = seal(OUTCOME, 7, b"x" * 300, crc32(journal.path.name.encode()))
    await abandon(journal)
    path = journal.home.segment_path(1)
    whole = path.read_bytes()
    for cut in (1, 2, 19, 20, 150, len(frame) - 1):
        path.write_bytes(whole + frame[:cut])
        (found,) = inspect_all(tmp_path)
        assert (found.missing, found.damaged_bytes) == (set(), cut)
    for rest in (b"\0" * 64, frame[20:200], frame[:-1] + b"y"):
        path.write_bytes(whole + rest)
        (found,) = inspect_all(tmp_path)
        assert found.missing == {7}
    await adopted(tmp_path)
    assert [line["records"] for line in lines(tmp_path)] == [[[7, 7]]]


async def test_a_living_process_makes_up_for_what_its_disk_has_lost(journal: FileJournal, tmp_path: Path) -> None:
    told: list[int] = []
    sink = ListSink()
    writer = LedgerWriter(journal, sink, linger=0.001, batch=10)
    writer.on_lost = lambda: told.append(len(sink.stored))
    journal.intent(intent("runs on"))
    serve(journal, 60)
    flip(journal, "r00005", OUTCOME_OF)
    flip(journal, "r00020", INTENT_OF)
    flip(journal, "r00040", INTENT_OF, OUTCOME_OF)
    flip(journal, "r00059", OUTCOME_OF)  # nothing follows it
    await writer.start()
    await writer.flush()
    assert sink.of_kind("orphan") == {"r00005", "r00059"}
    assert len(sink.of_kind("charge")) == 57
    assert told, "whoever counts must hear of it"
    assert sorted(
        number for line in lines(tmp_path) for first, last in line["records"] for number in {first, last}
    ) == [
        13,
        42,
        82,
        83,
        121,
    ]
    journal.outcome(outcome("runs on"))
    serve(journal, 5, start=60)
    await writer.flush()
    assert ("runs on", "charge") in sink.stored
    assert len(sink.of_kind("orphan")) == 2
    assert (writer.orphans, journal.open_intents, journal.depth) == (2, 0, 0)
    await writer.close()
    await journal.close()
    assert names(tmp_path) == {FILE_NAME}


async def test_losses_are_made_up_for_once_although_the_database_was_away(journal: FileJournal, tmp_path: Path) -> None:
    sink = ListSink()
    sink.down = True
    writer = LedgerWriter(journal, sink, linger=0.001, max_backoff=0.01)
    serve(journal, 20)
    flip(journal, "r00003", OUTCOME_OF)
    await writer.start()
    await until(lambda: sink.attempts > 3)
    sink.down = False
    await writer.flush()
    assert (sink.of_kind("orphan"), writer.orphans, writer.gaps) == ({"r00003"}, 1, 1)
    assert len(lines(tmp_path)) == 1
    await writer.close()
    await abandon(journal)
    _, adopter = await adopted(tmp_path)
    assert adopter.recovered.missing == 0, "its own writer has told of it"
    assert len(lines(tmp_path)) == 1


async def test_damage_is_told_until_it_is_acknowledged_and_kept_afterwards(
    journal: FileJournal, tmp_path: Path
) -> None:
    serve(journal, 20)
    flip(journal, "r00003", OUTCOME_OF)
    replay = Replay(journal.home, torn_end=False)
    list(replay.read(journal.end, 100))
    file = DamageFile(tmp_path)
    assert file.acknowledge() == []
    assert file.note(journal.home, replay) == {8}
    assert file.note(journal.home, replay) == set()
    with (tmp_path / FILE_NAME).open("ab") as foreign:
        foreign.write(b"half a line\n")
    assert [entry.count for entry in file.acknowledge()] == [1, 0]
    assert file.acknowledge() == []
    assert file.noted()[journal.path.name] == {8}
    assert [entry.acknowledged_at is None for entry in file.entries()] == [False, False]
    assert base64.b64decode(lines(tmp_path)[1]["pieces"][0]["base64"]) == b"half a line"
    await abandon(journal)

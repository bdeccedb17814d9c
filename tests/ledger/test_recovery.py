"""Journals of dead processes, whole and damaged."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
from pathlib import Path
from zlib import crc32

import pytest

from gateway.core.records import OutcomeRecord
from gateway.ledger.delivery import SinkUnavailable
from gateway.ledger.directory import create
from gateway.ledger.frames import OUTCOME, scan
from gateway.ledger.journal import FileJournal, open_journal
from gateway.ledger.orphans import orphan
from gateway.ledger.recovery import Adopter
from gateway.ledger.writer import LedgerWriter
from tests.ledger.support import ListSink, abandon, intent, names, outcome, serve
from tests.support.until import until

SMALL = 4096


async def dead(root: Path, calls: int, *, open_calls: int = 0, segment_bytes: int = SMALL) -> Path:
    journal = FileJournal(create(root), segment_bytes=segment_bytes)
    serve(journal, calls)
    for n in range(open_calls):
        journal.intent(intent(f"open{n}"))
    await abandon(journal)
    return journal.path


async def adopt(root: Path, sink: ListSink) -> Adopter:
    adopter = Adopter(root, sink)
    await adopter.adopt()
    return adopter


def segments_of(journal: Path) -> list[Path]:
    return sorted(journal.glob("*.seg"))


async def test_a_dead_process_journal_is_delivered_and_removed(tmp_path: Path) -> None:
    await dead(tmp_path, 100, open_calls=3)
    sink = ListSink()
    adopter = await adopt(tmp_path, sink)
    assert len(sink.of_kind("charge")) == 100
    assert sink.of_kind("orphan") == {"open0", "open1", "open2"}
    assert (adopter.recovered.journals, adopter.recovered.orphans, adopter.rows) == (1, 3, 103)
    assert (adopter.recovered.missing, adopter.recovered.damaged_bytes) == (0, 0)
    assert names(tmp_path) == set()


def test_an_orphan_claims_nothing_it_does_not_know() -> None:
    row = orphan(intent("r1", user="bob", streamed=False))
    known = {name: getattr(row, name) for name in set(row._fields) & set(intent("r1")._fields)}
    assert known == {name: getattr(intent("r1", user="bob", streamed=False), name) for name in known}
    assert (row.kind, row.outcome, row.status) == ("orphan", "upstream_error", 0)
    assert (row.prompt_tokens, row.completion_tokens, row.cached_tokens, row.reasoning_tokens) == (None,) * 4
    assert (row.usage_source, row.cost_microusd, row.latency_ms, row.first_token_ms) == (None, 0, 0, None)


@pytest.mark.parametrize("kind", ["refund", "adjust", "charge"])
async def test_a_call_with_any_outcome_is_no_orphan(tmp_path: Path, kind: str) -> None:
    journal = open_journal(tmp_path)
    journal.intent(intent("r1"))
    journal.outcome(outcome("r1", kind=kind))
    await abandon(journal)
    sink = ListSink()
    await adopt(tmp_path, sink)
    assert list(sink.stored) == [("r1", kind)]


async def test_what_was_delivered_before_the_end_is_not_delivered_again(tmp_path: Path) -> None:
    journal = FileJournal(create(tmp_path), segment_bytes=SMALL)
    sink = ListSink()
    writer = LedgerWriter(journal, sink, linger=0.001)
    await writer.start()
    journal.intent(intent("long"))
    ids = serve(journal, 50)
    await writer.flush()
    sink.down = True
    ids += serve(journal, 50, start=50)
    await writer.close()
    await abandon(journal)
    sink.down = False
    sink.batches.clear()
    adopter = await adopt(tmp_path, sink)
    assert sink.ids == [*ids, "long"]
    assert sum(sink.batches) == 51
    assert adopter.recovered.missing == 0


@pytest.mark.parametrize("ack", [b"", b"torn", b"\xff" * 28, b"\x00" * 28])
async def test_a_torn_or_foreign_position_means_a_second_delivery_and_no_second_row(tmp_path: Path, ack: bytes) -> None:
    journal = FileJournal(create(tmp_path), segment_bytes=SMALL)
    sink = ListSink()
    writer = LedgerWriter(journal, sink, linger=0.001)
    await writer.start()
    journal.intent(intent("long"))
    ids = serve(journal, 100)
    await writer.flush()
    await writer.close()
    ids += serve(journal, 10, start=100)
    await abandon(journal)
    (journal.path / "ack").write_bytes(ack)
    adopter = await adopt(tmp_path, sink)
    assert sorted(sink.stored) == sorted([*((request_id, "charge") for request_id in ids), ("long", "orphan")])
    assert (adopter.rows, adopter.recovered.missing) == (11, 0)


async def test_a_database_that_is_away_leaves_the_journal_for_the_next_pass(tmp_path: Path) -> None:
    path = await dead(tmp_path, 100, open_calls=1)
    sink = ListSink()
    sink.down = True
    adopter = Adopter(tmp_path, sink, interval=0.01)
    await adopter.start()
    await until(lambda: sink.attempts >= 3)
    assert path.exists()
    sink.down = False
    await until(lambda: not path.exists())
    await adopter.close()
    assert len(sink.ids) == 101


async def test_whoever_counts_is_told_of_an_adopted_journal_and_of_nothing_else(tmp_path: Path) -> None:
    told: list[int] = []
    sink = ListSink()
    adopter = Adopter(tmp_path, sink)
    adopter.on_adopted = lambda: told.append(len(sink.ids))
    await adopter.adopt()
    create(tmp_path)  # died before its first call
    living = open_journal(tmp_path)
    serve(living, 1)
    await adopter.adopt()
    assert told == []
    path = await dead(tmp_path, 5, open_calls=1)
    sink.down = True
    with pytest.raises(SinkUnavailable):
        await adopter.adopt()
    assert told == []
    sink.down = False
    await adopter.adopt()
    assert told == [6]  # once, and when the rows were there
    assert not path.exists()
    await living.close()


async def test_losses_in_an_adopted_journal_are_an_error_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aidock.ledger")
    await dead(tmp_path, 100)
    await adopt(tmp_path, ListSink())
    path = await dead(tmp_path, 100)
    segments_of(path)[2].unlink()
    await adopt(tmp_path, ListSink())
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR"]
    assert caplog.records[1].__dict__["missing"] > 0


async def test_a_living_sibling_is_left_alone_and_adopted_when_it_dies(tmp_path: Path) -> None:
    own, sibling = open_journal(tmp_path), open_journal(tmp_path)
    serve(own, 5)
    serve(sibling, 5, start=5)
    sink = ListSink()
    adopter = Adopter(tmp_path, sink, own=own.path, interval=0.01)
    await adopter.start()
    await asyncio.sleep(0.05)
    assert sink.attempts == 0
    await abandon(sibling)
    await until(lambda: not sibling.path.exists())
    await adopter.close()
    assert sink.ids == [f"r{n:05d}" for n in range(5, 10)]
    assert own.path.exists()
    await own.close()


async def test_strange_things_beside_a_journal_disturb_nothing(tmp_path: Path) -> None:
    path = await dead(tmp_path, 3)
    (path / "lock").unlink()
    (path / "notes.txt").write_text("foreign")
    (path / "x.seg").write_text("foreign")
    create(tmp_path)  # died before it had even a lock
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "quarantine.jsonl").write_text("{}\n")
    sink = ListSink()
    await adopt(tmp_path, sink)
    await adopt(tmp_path, sink)
    assert len(sink.ids) == 3
    assert names(tmp_path) == {path.name, "lost+found", "quarantine.jsonl"}
    assert names(path) == {"notes.txt", "x.seg"}


async def test_no_journals_at_all_is_fine(tmp_path: Path) -> None:
    assert (await adopt(tmp_path / "absent", ListSink())).recovered.journals == 0


async def test_a_journal_that_cannot_be_read_does_not_hold_up_the_others(tmp_path: Path) -> None:
    broken = await dead(tmp_path, 3)
    segments_of(broken)[0].unlink()
    (broken / "00000001.seg").mkdir()
    other = create(tmp_path)
    journal = FileJournal(other)
    serve(journal, 2)
    await abandon(journal)
    sink = ListSink()
    await adopt(tmp_path, sink)
    assert len(sink.ids) == 2
    assert (broken.exists(), other.exists()) == (True, False)


async def test_a_poison_row_in_a_dead_journal_is_quarantined(tmp_path: Path) -> None:
    await dead(tmp_path, 10)
    sink = ListSink()
    sink.poison = {"r00004"}
    adopter = await adopt(tmp_path, sink)
    assert len(sink.ids) == 9
    assert adopter.quarantined == 1
    assert names(tmp_path) == {"quarantine.jsonl"}


async def test_a_missing_file_is_counted_as_missing_records(tmp_path: Path) -> None:
    path = await dead(tmp_path, 100)
    gone = segments_of(path)[2]
    written = scan(gone.read_bytes(), crc32(path.name.encode()), whole=True, most=10_000).frames
    gone.unlink()
    sink = ListSink()
    adopter = await adopt(tmp_path, sink)
    assert adopter.recovered.missing == len(written) > 0
    assert len(sink.of_kind("charge")) == 100 - sum(kind == OUTCOME for kind, _, _ in written)


async def test_a_tail_torn_at_any_byte_costs_only_the_torn_records(tmp_path: Path) -> None:
    whole = await dead(tmp_path / "whole", 6)
    last = segments_of(whole)[-1]
    data = last.read_bytes()
    size_of_pair = len(data) // 6
    for cut in range(len(data) - size_of_pair, len(data)):
        root = tmp_path / "cut"
        shutil.copytree(whole, root / whole.name)
        (root / whole.name / last.name).write_bytes(data[:cut])
        sink = ListSink()
        await adopt(root, sink)
        assert sink.of_kind("charge") == {f"r{n:05d}" for n in range(5)}
        assert sink.of_kind("orphan") <= {"r00005"}
        assert not (root / whole.name).exists()


async def test_one_flipped_bit_never_crashes_and_never_makes_a_wrong_row(tmp_path: Path) -> None:
    whole = await dead(tmp_path / "whole", 60, open_calls=2)
    truth: dict[tuple[str, str], OutcomeRecord] = {}
    for n in range(60):
        truth[f"r{n:05d}", "charge"] = outcome(f"r{n:05d}")
        truth[f"r{n:05d}", "orphan"] = orphan(intent(f"r{n:05d}"))
    for n in range(2):
        truth[f"open{n}", "orphan"] = orphan(intent(f"open{n}"))
    rng = random.Random(20)
    for _ in range(1000):
        root = tmp_path / "flipped"
        shutil.copytree(whole, root / whole.name)
        victim = rng.choice(segments_of(root / whole.name))
        data = bytearray(victim.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        victim.write_bytes(data)
        sink = ListSink()
        adopter = await adopt(root, sink)
        assert all(truth[key] == row for key, row in sink.stored.items())
        assert len(sink.of_kind("charge")) >= 59
        assert adopter.recovered.damaged_bytes > 0
        assert names(root) <= {"damage.jsonl"}


async def test_a_segment_of_noise_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    path = await dead(tmp_path, 100)
    victim = segments_of(path)[1]
    noise = random.Random(3).randbytes(victim.stat().st_size)
    victim.write_bytes(noise)
    sink = ListSink()
    adopter = await adopt(tmp_path, sink)
    assert adopter.recovered.damaged_bytes == len(noise)
    assert len(sink.of_kind("charge")) >= 80
    assert "r00099" in sink.of_kind("charge")

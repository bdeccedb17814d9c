"""Journals read from outside: without touching them, while they are written, and when they are damaged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gateway.ledger.directory import create
from gateway.ledger.frames import OUTCOME
from gateway.ledger.inspection import Inspection, inspect_all
from gateway.ledger.journal import FileJournal
from gateway.ledger.writer import LedgerWriter
from tests.ledger.support import ListSink, abandon, intent, names, outcome, serve
from tests.support.until import until

SMALL = 4096


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[FileJournal]:
    journal = FileJournal(create(tmp_path), segment_bytes=SMALL)
    yield journal
    if journal.home.is_owned():  # nobody has abandoned it
        await journal.close()


def only(root: Path) -> Inspection:
    (found,) = inspect_all(root)
    return found


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


async def test_a_journal_without_records_is_not_spoken_of(journal: FileJournal, tmp_path: Path) -> None:
    assert list(inspect_all(tmp_path)) == []
    assert list(inspect_all(tmp_path / "absent")) == []


async def test_what_a_living_process_has_under_way_delivered_and_on_its_way(
    journal: FileJournal, tmp_path: Path
) -> None:
    journal.intent(intent("open"))
    delivered = serve(journal, 3)
    journal.outcome(outcome("r00000", kind="adjust", number=2))
    journal.acknowledge(journal.end, 4)
    serve(journal, 2, start=3)
    found = only(tmp_path)
    assert (found.name, found.alive, found.whole, found.records) == (journal.path.name, True, True, 12)
    assert (found.delivered, found.adjusted) == (set(delivered), {("r00000", 2)})
    assert (found.waiting, found.open) == (2, {"open"})


async def test_reading_takes_nothing_from_the_owner_and_leaves_nothing(journal: FileJournal, tmp_path: Path) -> None:
    serve(journal, 3)
    before = names(journal.path)
    only(tmp_path)
    assert names(journal.path) == before
    serve(journal, 1, start=3)
    assert only(tmp_path).waiting == 4


async def test_a_dead_journal_is_told_from_a_living_one(journal: FileJournal, tmp_path: Path) -> None:
    serve(journal, 3)
    journal.intent(intent("open"))
    await abandon(journal)
    found = only(tmp_path)
    assert (found.alive, found.waiting, found.open) == (False, 3, {"open"})


async def test_a_journal_whose_first_segments_are_gone_has_no_gap(journal: FileJournal, tmp_path: Path) -> None:
    serve(journal, 100)
    journal.acknowledge(journal.end, 100)
    serve(journal, 100, start=100)
    assert not journal.home.segment_path(1).exists()
    found = only(tmp_path)
    assert (found.whole, found.waiting) == (True, 100)


async def test_a_record_cut_out_of_a_journal_is_missed(journal: FileJournal, tmp_path: Path) -> None:
    serve(journal, 5)
    path = journal.home.segment_path(1)
    data = path.read_bytes()
    frame = len(data) // 10
    await abandon(journal)
    head = data.index(b"\xad\x0c", frame * 4)
    end = data.index(b"\xad\x0c", head + 2)
    path.write_bytes(data[:head] + data[end:])
    found = only(tmp_path)
    assert (len(found.missing), found.damaged_bytes, found.records) == (1, 0, 9)


async def test_every_flipped_byte_is_found(journal: FileJournal, tmp_path: Path) -> None:
    serve(journal, 2)
    await abandon(journal)
    path = journal.home.segment_path(1)
    for at in range(path.stat().st_size):
        flip(path, at)
        assert not only(tmp_path).whole, at
        flip(path, at)
    assert only(tmp_path).whole


async def test_a_segment_that_is_gone_is_missed(journal: FileJournal, tmp_path: Path) -> None:
    serve(journal, 100)
    await abandon(journal)
    journal.home.segment_path(2).unlink()
    assert len(only(tmp_path).missing) > 5


async def test_a_record_that_nobody_understands_is_counted(journal: FileJournal, tmp_path: Path) -> None:
    journal._log.append(OUTCOME, msgspec.msgpack.encode([1, 2]))
    serve(journal, 1)
    assert len(only(tmp_path).unreadable) == 1
    await abandon(journal)
    assert (len(only(tmp_path).unreadable), only(tmp_path).whole) == (1, False)


async def test_a_torn_position_means_only_that_less_is_known(journal: FileJournal, tmp_path: Path) -> None:
    serve(journal, 3)
    journal.acknowledge(journal.end, 3)
    (journal.path / "ack").write_bytes(b"torn")
    found = only(tmp_path)
    assert (found.whole, found.delivered, found.waiting) == (True, set(), 3)


async def test_a_journal_that_cannot_be_read_says_why(journal: FileJournal, tmp_path: Path) -> None:
    serve(journal, 1)
    await abandon(journal)
    path = journal.home.segment_path(1)
    path.unlink()
    path.mkdir()
    assert "directory" in only(tmp_path).trouble.lower()


async def test_a_journal_in_full_use_looks_whole_at_any_moment(tmp_path: Path) -> None:
    journal = FileJournal(create(tmp_path), segment_bytes=SMALL)
    sink = ListSink()
    writer = LedgerWriter(journal, sink, linger=0.001)
    await writer.start()
    done = asyncio.Event()

    async def work() -> None:
        served = 0
        while not done.is_set():
            served += len(serve(journal, 20, start=served))
            await asyncio.sleep(0.005)

    working = asyncio.create_task(work())
    await until(lambda: journal.end.segment > 10)
    for _ in range(20):
        found = await asyncio.to_thread(lambda: list(inspect_all(tmp_path)))
        assert all(each.alive and each.whole for each in found)
        assert all(each.delivered <= set(sink.ids) for each in found)
    done.set()
    await working
    await writer.flush()
    await writer.close()
    await journal.close()

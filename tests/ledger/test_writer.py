from __future__ import annotations

import asyncio
import json
import logging
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.ledger.directory import create
from gateway.ledger.frames import OUTCOME
from gateway.ledger.journal import FileJournal
from gateway.ledger.quarantine import Quarantine
from gateway.ledger.writer import LedgerWriter
from tests.ledger.support import ListSink, outcome, serve
from tests.support.until import until

SMALL = 4096


@pytest.fixture
def sink() -> ListSink:
    return ListSink()


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[FileJournal]:
    journal = FileJournal(create(tmp_path), segment_bytes=SMALL)
    yield journal
    await journal.close()


@pytest.fixture
async def writer(journal: FileJournal, sink: ListSink) -> AsyncIterator[LedgerWriter]:
    writer = LedgerWriter(journal, sink, batch=50, linger=0.02, max_backoff=0.02)
    await writer.start()
    yield writer
    await writer.close()


async def flushed(writer: LedgerWriter) -> None:
    async with asyncio.timeout(20):
        await writer.flush()


async def test_outcomes_reach_the_ledger_in_order_and_in_batches(
    journal: FileJournal, writer: LedgerWriter, sink: ListSink
) -> None:
    ids = serve(journal, 320)
    await flushed(writer)
    assert sink.ids == ids
    assert max(sink.batches) == 50
    assert len(sink.batches) == 7
    assert (writer.rows, writer.gaps, journal.depth) == (320, 0, 0)


async def test_a_row_is_in_the_ledger_soon_without_being_asked_for(
    journal: FileJournal, writer: LedgerWriter, sink: ListSink
) -> None:
    serve(journal, 1)
    await until(lambda: journal.depth == 0)
    assert sink.ids == ["r00000"]


async def test_steady_traffic_is_gathered_into_batches(tmp_path: Path, sink: ListSink) -> None:
    journal = FileJournal(create(tmp_path))
    writer = LedgerWriter(journal, sink, linger=0.2)
    await writer.start()
    for n in range(100):
        serve(journal, 1, start=n)
        await asyncio.sleep(0.002)
    await flushed(writer)
    assert len(sink.batches) < 50
    await writer.close()
    await journal.close()


async def test_an_idle_writer_asks_the_database_nothing(writer: LedgerWriter, sink: ListSink) -> None:
    await asyncio.sleep(0.1)
    await flushed(writer)
    assert sink.attempts == 0


async def test_a_row_carries_every_field(journal: FileJournal, writer: LedgerWriter, sink: ListSink) -> None:
    row = outcome("r1", kind="refund", status=0, outcome="client_gone", first_token_ms=None, attempts=3)
    journal.outcome(row)
    await flushed(writer)
    assert sink.stored[("r1", "refund")] == row


async def test_a_database_that_is_away_for_a_while_costs_nothing(
    journal: FileJournal, writer: LedgerWriter, sink: ListSink, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aidock.ledger")
    sink.down = True
    ids = serve(journal, 120)
    await until(lambda: sink.attempts >= 5)
    assert (journal.depth, writer.sink_available) == (120, False)
    ids += serve(journal, 80, start=120)
    sink.down = False
    await flushed(writer)
    assert sink.ids == ids
    assert (journal.depth, writer.sink_available) == (0, True)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]  # once per outage, both ways


async def test_a_lost_reply_to_a_commit_makes_no_second_row(
    journal: FileJournal, writer: LedgerWriter, sink: ListSink
) -> None:
    sink.lose_replies = 3
    ids = serve(journal, 120)
    await flushed(writer)
    assert sink.ids == ids
    assert sum(sink.batches) > 120  # they were offered again, and stored once


async def test_a_defect_in_the_sink_stops_nothing_for_good(
    journal: FileJournal, writer: LedgerWriter, sink: ListSink
) -> None:
    sink.defect = TypeError("not foreseen")
    ids = serve(journal, 10)
    await until(lambda: sink.attempts >= 3)
    sink.defect = None
    await flushed(writer)
    assert sink.ids == ids


async def test_a_row_that_cannot_be_stored_goes_to_quarantine_and_the_queue_moves_on(
    journal: FileJournal, writer: LedgerWriter, sink: ListSink
) -> None:
    sink.poison = {"r00007", "r00077"}
    ids = serve(journal, 120)
    await flushed(writer)
    assert sink.ids == [request_id for request_id in ids if request_id not in sink.poison]
    assert (writer.quarantined, writer.rows, journal.depth) == (2, 118, 0)
    quarantine = journal.path.parent / "quarantine.jsonl"
    assert [entry.row for entry in Quarantine(quarantine).entries()] == [outcome("r00007"), outcome("r00077")]
    assert json.loads(quarantine.read_text().splitlines()[0])["row"]["request_id"] == "r00007"
    assert stat.S_IMODE(quarantine.stat().st_mode) == 0o600


async def test_a_row_that_was_refused_in_passing_is_stored_after_all(
    journal: FileJournal, writer: LedgerWriter, sink: ListSink
) -> None:
    sink.poison = {"r00000"}
    serve(journal, 1)
    await until(lambda: sink.attempts >= 1)
    sink.poison = set()
    await flushed(writer)
    assert (sink.ids, writer.quarantined) == (["r00000"], 0)


async def test_flush_waits_for_what_was_noted_before_it_and_no_longer(
    journal: FileJournal, writer: LedgerWriter, sink: ListSink
) -> None:
    sink.down = True
    serve(journal, 10)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await writer.flush()
    sink.down = False
    await flushed(writer)
    assert len(sink.ids) == 10


async def test_a_backlog_is_not_held_in_memory(tmp_path: Path, sink: ListSink) -> None:
    journal = FileJournal(create(tmp_path))
    sink.down = True
    writer = LedgerWriter(journal, sink, batch=500, linger=0.001, max_backoff=0.01)
    await writer.start()
    ids = serve(journal, 12_000)
    await until(lambda: sink.attempts >= 2)
    sink.down = False
    await flushed(writer)
    assert sink.ids == ids
    assert max(sink.batches) == 500
    await writer.close()
    await journal.close()


async def test_a_writer_stopped_in_the_middle_begins_again_where_the_ledger_ends(
    journal: FileJournal, writer: LedgerWriter, sink: ListSink
) -> None:
    ids = serve(journal, 60)
    await flushed(writer)
    sink.down = True
    ids += serve(journal, 60, start=60)
    await until(lambda: not writer.sink_available)
    await writer.close()
    sink.down = False
    successor = LedgerWriter(journal, sink, linger=0.001)
    await successor.start()
    await flushed(successor)
    await successor.close()
    assert sink.ids == ids
    assert sum(sink.batches) == 120


async def test_damage_on_the_disk_is_counted_and_a_call_whose_end_it_took_is_an_orphan(
    tmp_path: Path, sink: ListSink
) -> None:
    journal = FileJournal(create(tmp_path))
    ids = serve(journal, 10)
    path = journal.home.segment_path(1)
    data = bytearray(path.read_bytes())
    data[data.index(b"r00004", data.index(b"r00004") + 1)] ^= 1  # inside the outcome of r00004
    path.write_bytes(data)
    writer = LedgerWriter(journal, sink, linger=0.001)
    await writer.start()
    await flushed(writer)
    assert sink.of_kind("charge") == set(ids) - {"r00004"}
    assert sink.of_kind("orphan") == {"r00004"}
    assert (writer.gaps, writer.orphans, journal.depth) == (1, 1, 0)
    await writer.close()
    await journal.close()


async def test_a_record_nobody_understands_is_counted_and_passed(tmp_path: Path, sink: ListSink) -> None:
    journal = FileJournal(create(tmp_path))
    journal._log.append(OUTCOME, b"\x93\x01\x02\x03")
    serve(journal, 1)
    writer = LedgerWriter(journal, sink, linger=0.001)
    await writer.start()
    await flushed(writer)
    assert (sink.ids, writer.unreadable) == (["r00000"], 1)
    await writer.close()
    await journal.close()

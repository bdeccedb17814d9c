from __future__ import annotations

import asyncio
import fcntl
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.ports import JournalUnavailable
from gateway.core.records import Decision
from gateway.ledger.directory import JournalOwned, create
from gateway.ledger.journal import FileJournal, open_journal
from gateway.ledger.writer import LedgerWriter
from tests.ledger.support import ListSink, intent, names, outcome, serve
from tests.support.until import until

SMALL = 4096
DECISIONS = (Decision("quota", "department", "research", "tokens", "month", "deny", 10**6, 10**5, 10**3),) * 6
DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[FileJournal]:
    journal = FileJournal(create(tmp_path / "journal"), segment_bytes=SMALL)
    yield journal
    await journal.close()


def accept_until_refused(journal: FileJournal) -> tuple[list[str], str]:
    """Begin calls until the journal takes no more; the ids it took, and why it refused."""
    accepted: list[str] = []
    while len(accepted) < 1000:
        try:
            journal.intent(intent(f"r{len(accepted)}"))
        except JournalUnavailable as refusal:
            return accepted, str(refusal)
        accepted.append(f"r{len(accepted)}")
    pytest.fail("the journal has no bound")


def segments(journal: FileJournal) -> list[int]:
    return journal.home.segments()


async def test_files_are_for_the_owner_only(journal: FileJournal) -> None:
    serve(journal, 1)
    journal.acknowledge(journal.end, 1)
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(journal.path.parent.stat().st_mode) == 0o700
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in journal.path.iterdir()}
    assert modes == {"lock": 0o600, "ack": 0o600, "00000001.seg": 0o600}


async def test_a_second_journal_on_the_same_directory_is_refused(journal: FileJournal) -> None:
    with pytest.raises(JournalOwned, match="in use"):
        FileJournal(journal.path)
    journal.intent(intent("r1"))  # the owner is not disturbed


async def test_what_a_dead_process_left_is_not_continued(tmp_path: Path) -> None:
    first = open_journal(tmp_path)
    first.intent(intent("r1"))
    await first.close()
    with pytest.raises(JournalOwned, match="adopted"):
        FileJournal(first.path)


async def test_a_lock_that_an_adopter_removes_while_it_is_being_taken_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def after_the_adopter(descriptor: int, operation: int) -> None:
        (path / "lock").unlink()
        lock(descriptor, operation)

    path = create(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", after_the_adopter)
        with pytest.raises(JournalOwned, match="adopted"):
            FileJournal(path)
    journal = FileJournal(path)
    await journal.close()


async def test_a_journal_with_nothing_left_in_it_goes(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    serve(journal, 3)
    journal.acknowledge(journal.end, 3)
    await journal.close()
    assert names(tmp_path) == set()


async def test_depth_is_what_sql_does_not_have(journal: FileJournal) -> None:
    serve(journal, 5)
    assert (journal.depth, journal.open_intents) == (5, 0)
    journal.acknowledge(journal.end._replace(offset=1), 2)
    assert journal.depth == 3
    journal.acknowledge(journal.end, 3)
    assert journal.depth == 0


async def test_nothing_is_scheduled_while_nothing_is_written(tmp_path: Path) -> None:
    synced: list[int] = []
    journal = FileJournal(create(tmp_path), sync=synced.append, sync_every=0.001)
    await asyncio.sleep(0.03)
    assert synced == []
    serve(journal, 10)
    await until(lambda: bool(synced))
    calls = len(synced)
    await asyncio.sleep(0.03)
    assert len(synced) == calls  # ten calls in one group, and then quiet
    assert calls <= 2  # the file, and once the directory
    await journal.close()


async def test_segments_are_deleted_when_their_calls_are_in_sql(journal: FileJournal) -> None:
    serve(journal, 100)
    assert len(segments(journal)) > 5
    journal.acknowledge(journal.end, 100)
    assert segments(journal) == [journal.end.segment]
    assert journal.fullness < 0.01


async def test_a_segment_is_kept_until_what_follows_an_intent_is_acknowledged(journal: FileJournal) -> None:
    journal.intent(intent("long"))
    serve(journal, 20)
    before = journal.end
    journal.outcome(outcome("long"))
    journal.acknowledge(before, 20)
    assert 1 in segments(journal)  # its intent is there, its outcome not yet in SQL
    journal.acknowledge(journal.end, 1)
    assert segments(journal) == [journal.end.segment]


async def test_a_call_under_way_keeps_its_segment(journal: FileJournal) -> None:
    journal.intent(intent("long"))
    serve(journal, 20)
    assert journal.end.segment > 1
    journal.acknowledge(journal.end, 20)
    assert 1 in segments(journal)
    journal.outcome(outcome("long"))
    journal.acknowledge(journal.end, 1)
    assert 1 not in segments(journal)


async def test_a_call_that_takes_hours_does_not_keep_all_that_happens_meanwhile(tmp_path: Path) -> None:
    journal = FileJournal(create(tmp_path), segment_bytes=SMALL)
    sink = ListSink()
    writer = LedgerWriter(journal, sink, linger=0.001)
    await writer.start()
    journal.intent(intent("long"))
    for n in range(30):
        serve(journal, 20, start=n * 20)
        await writer.flush()
    assert len(segments(journal)) < 15
    assert b"long" in b"".join(journal.home.segment_path(n).read_bytes() for n in segments(journal))
    journal.outcome(outcome("long"))
    await writer.flush()
    await writer.close()
    await journal.close()
    assert len(sink.ids) == 601
    assert not journal.path.exists()


async def test_a_full_journal_refuses_intents_and_takes_outcomes(tmp_path: Path) -> None:
    journal = FileJournal(create(tmp_path), max_bytes=40_000, segment_bytes=SMALL)
    accepted, reason = accept_until_refused(journal)
    assert "full" in reason
    for request_id in accepted:
        journal.outcome(outcome(request_id, decisions=DECISIONS))
    assert sum(entry.stat().st_size for entry in journal.path.glob("*.seg")) <= 40_000
    assert (journal.depth, journal.healthy) == (len(accepted), True)
    assert 0.3 < journal.fullness <= 1.0
    journal.acknowledge(journal.end, len(accepted))
    journal.intent(intent("room again"))
    await journal.close()


async def test_a_small_journal_that_was_full_is_nearly_empty_once_its_records_are_delivered(tmp_path: Path) -> None:
    journal = FileJournal(create(tmp_path), max_bytes=100_000)
    accepted, _ = accept_until_refused(journal)
    for request_id in accepted:
        journal.outcome(outcome(request_id, decisions=DECISIONS))
    journal.acknowledge(journal.end, len(accepted))
    assert journal.fullness < 0.1
    await journal.close()


async def test_the_outcome_of_every_accepted_intent_has_room_whatever_the_bound(tmp_path: Path) -> None:
    taken = 0
    for bound in range(1000, 4000, 50):
        journal = FileJournal(create(tmp_path), max_bytes=bound)
        accepted, _ = accept_until_refused(journal)
        for request_id in accepted:
            journal.outcome(outcome(request_id, decisions=DECISIONS))
        assert sum(path.stat().st_size for path in journal.path.glob("*.seg")) <= bound
        taken += len(accepted)
        await journal.close()
    assert taken > 20


async def test_calls_under_way_are_bounded(tmp_path: Path) -> None:
    journal = FileJournal(create(tmp_path), max_open=3)
    for n in range(3):
        journal.intent(intent(f"r{n}"))
    assert journal.fullness == 1.0
    with pytest.raises(JournalUnavailable, match="under way"):
        journal.intent(intent("one more"))
    journal.outcome(outcome("r0"))
    journal.intent(intent("one more"))
    await journal.close()


async def test_an_intent_noted_twice_counts_once(journal: FileJournal) -> None:
    journal.intent(intent("r1"))
    journal.intent(intent("r1"))
    assert journal.open_intents == 1
    journal.outcome(outcome("r1"))
    assert (journal.open_intents, journal.depth) == (0, 1)


async def test_a_disk_that_does_not_keep_up_is_not_asked_for_more(tmp_path: Path) -> None:
    journal = FileJournal(create(tmp_path), max_unsynced=2000, sync_every=60)
    _, reason = accept_until_refused(journal)
    assert "keep up" in reason
    journal.outcome(outcome("r0"))
    assert journal.depth == 1
    await journal.close()


async def test_descriptors_are_given_back(tmp_path: Path) -> None:
    before = len(names(DESCRIPTORS))
    journal = FileJournal(create(tmp_path), segment_bytes=SMALL, sync_every=0.001)
    serve(journal, 100)
    await until(lambda: len(names(DESCRIPTORS)) <= before + 4)  # lock, directory, newest segment, one to spare
    await journal.close()
    assert len(names(DESCRIPTORS)) == before

"""Disks that fail: what was accepted is in the ledger all the same."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.ports import JournalUnavailable
from gateway.ledger.directory import create
from gateway.ledger.journal import FileJournal, open_journal
from gateway.ledger.recovery import Adopter
from gateway.ledger.writer import LedgerWriter
from tests.ledger.support import ListSink, abandon, intent, outcome, serve
from tests.support.until import until

ROOT = Path(__file__).parents[2]


class FailingSync:
    """`fdatasync` that reports an I/O error a number of times, and remembers which files it was asked for."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.failed: list[Path] = []
        self.asked: list[Path] = []

    def __call__(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        self.asked.append(path)
        if self.failures:
            self.failures -= 1
            self.failed.append(path)
            raise OSError(errno.EIO, "input/output error")


async def recovered(root: Path) -> tuple[ListSink, Adopter]:
    sink = ListSink()
    adopter = Adopter(root, sink)
    await adopter.adopt()
    return sink, adopter


@pytest.mark.parametrize("failures", [1, 2, 5])
async def test_records_that_a_failed_sync_left_in_doubt_are_written_to_a_new_file(
    tmp_path: Path, failures: int
) -> None:
    sync = FailingSync(failures)
    journal = FileJournal(create(tmp_path), sync=sync, sync_every=0.001)
    journal.intent(intent("under way"))
    serve(journal, 50)
    await until(lambda: not sync.failures and journal.healthy and not journal._log.unsynced_bytes)
    assert journal.sync_failures == failures
    assert len(set(sync.failed)) == failures  # no file was asked again after it had failed
    for path in sync.failed:
        path.write_bytes(b"")  # what the kernel may do with pages it could not write
    await abandon(journal)
    sink, adopter = await recovered(tmp_path)
    assert len(sink.of_kind("charge")) == 50
    assert sink.of_kind("orphan") == {"under way"}
    assert adopter.recovered.missing == 0


async def test_a_disk_that_cannot_sync_at_all_is_not_given_new_calls(tmp_path: Path) -> None:
    sync = FailingSync(10**9)
    journal = FileJournal(create(tmp_path), sync=sync, sync_every=0.001)
    journal.intent(intent("r1"))
    await until(lambda: not journal.healthy)
    with pytest.raises(JournalUnavailable, match="does not work"):
        journal.intent(intent("r2"))
    journal.outcome(outcome("r1"))
    sync.failures = 0
    await until(lambda: journal.healthy)
    journal.intent(intent("r2"))
    await journal.close()


async def test_rewritten_records_make_no_second_row(tmp_path: Path) -> None:
    journal = FileJournal(create(tmp_path), sync=FailingSync(1), sync_every=0.001)
    sink = ListSink()
    writer = LedgerWriter(journal, sink, linger=0.001)
    await writer.start()
    ids = serve(journal, 30)
    await until(lambda: journal.sync_failures == 1)
    await writer.flush()
    assert sink.ids == ids
    assert (writer.gaps, journal.depth) == (0, 0)
    await writer.close()
    await journal.close()
    assert not journal.path.exists()


async def test_a_stalled_sync_does_not_stall_the_loop(tmp_path: Path) -> None:
    gate = threading.Event()
    journal = FileJournal(create(tmp_path), sync=lambda descriptor: gate.wait(10) and None, sync_every=0.001)
    ids = serve(journal, 10)
    sink = ListSink()
    writer = LedgerWriter(journal, sink, linger=0.001)
    await writer.start()
    await until(lambda: sink.ids == ids)
    gate.set()
    await writer.close()
    await journal.close()


def takes(journal: FileJournal, request_id: str) -> bool:
    try:
        journal.intent(intent(request_id))
    except JournalUnavailable:
        return False
    return True


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "aidock-test", str(place)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system of its own")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_full_disk_refuses_calls_loses_none_and_takes_them_again_when_there_is_room(small_disk: Path) -> None:
    journal = open_journal(small_disk / "journal")
    sink = ListSink()
    writer = LedgerWriter(journal, sink, linger=0.001)
    await writer.start()
    running = [f"running{n}" for n in range(30)]
    for request_id in running:
        journal.intent(intent(request_id))
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    while takes(journal, f"late{len(running)}"):  # the page that the journal had begun has room for a few more
        running.append(f"late{len(running)}")
    assert len(running) < 80
    for request_id in running:
        journal.outcome(outcome(request_id))
    await writer.flush()  # from memory, past the disk
    assert sorted(sink.ids) == sorted(running)
    assert not journal.healthy
    ballast.unlink()
    await until(lambda: journal.healthy)
    ids = serve(journal, 5)
    await writer.flush()
    assert sink.ids[-5:] == ids
    await writer.close()
    await journal.close()
    assert not journal.path.exists()


def run_limited(script: str, root: Path) -> str:
    """Run a script in a process whose files may not grow beyond what it says itself; its stdout."""
    prelude = """
        import asyncio, resource, sys
        from pathlib import Path
        from gateway.core.ports import JournalUnavailable
        from gateway.ledger.journal import open_journal
        from gateway.ledger.writer import LedgerWriter
        from tests.ledger.support import ListSink, intent, outcome, serve
        from tests.support.until import until

        def limit(size):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

        def refused(journal, request_id):
            try:
                journal.intent(intent(request_id))
            except JournalUnavailable:
                return True
            return False

        root = Path(sys.argv[1])
    """
    program = textwrap.dedent(prelude) + textwrap.dedent(script) + "\nasyncio.run(main())\n"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(root)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


async def test_a_file_that_can_take_only_half_a_record_is_left_for_a_new_one(tmp_path: Path) -> None:
    script = """
        async def main():
            limit(10_007)
            journal = open_journal(root)
            serve(journal, 500)
            journal.intent(intent("under way"))
            print(journal.end.segment, journal.write_failures)
            sys.stdout.flush()
            import os
            os._exit(0)
    """
    last, failures = map(int, run_limited(script, tmp_path).split())
    assert last > 10
    assert failures == 0
    sink, adopter = await recovered(tmp_path)
    assert len(sink.of_kind("charge")) == 500
    assert sink.of_kind("orphan") == {"under way"}
    assert (adopter.recovered.missing, adopter.recovered.damaged_bytes) == (0, 0)  # cut back to the last good frame


async def test_outcomes_wait_in_memory_while_the_disk_takes_nothing(tmp_path: Path) -> None:
    script = """
        async def main():
            journal = open_journal(root)
            for n in range(20):
                journal.intent(intent(f"r{n:05d}"))
            limit(0)
            assert refused(journal, "refused")
            for n in range(20):
                journal.outcome(outcome(f"r{n:05d}"))
            assert (journal.depth, journal.open_intents, journal.healthy) == (20, 20, False)
            await asyncio.sleep(0.1)
            assert refused(journal, "refused too")
            limit(resource.RLIM_INFINITY)
            await until(lambda: journal.healthy)
            assert (journal.depth, journal.open_intents, journal.stranded) == (20, 0, 0)
            assert not refused(journal, "welcome")
            print(journal.write_failures)
            sys.stdout.flush()
            import os
            os._exit(0)
    """
    assert int(run_limited(script, tmp_path)) > 2
    sink, _ = await recovered(tmp_path)
    assert len(sink.of_kind("charge")) == 20
    assert sink.of_kind("orphan") == {"welcome"}


def test_outcomes_that_the_disk_refuses_reach_the_ledger_from_memory(tmp_path: Path) -> None:
    script = """
        async def main():
            journal = open_journal(root)
            sink = ListSink()
            writer = LedgerWriter(journal, sink, batch=7, linger=0.001)
            await writer.start()
            ids = serve(journal, 20)
            for n in range(20, 40):
                journal.intent(intent(f"r{n:05d}"))
                ids.append(f"r{n:05d}")
            limit(0)
            for n in range(20, 40):
                journal.outcome(outcome(f"r{n:05d}"))
            await asyncio.wait_for(writer.flush(), 20)
            assert sorted(sink.ids) == ids, sink.ids
            assert (journal.depth, journal.stranded, journal.healthy) == (0, 0, False)
            await writer.close()
            await journal.close()
            assert list(root.iterdir()) == []  # nothing is left to be taken for orphans
    """
    run_limited(script, tmp_path)

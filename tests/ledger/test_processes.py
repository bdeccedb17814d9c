"""Real processes, really killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from threading import Thread

import pytest

from gateway.ledger.directory import JournalOwned, siblings
from gateway.ledger.journal import FileJournal
from gateway.ledger.recovery import Adopter
from tests.ledger.support import ListSink, SqliteSink

ROOT = Path(__file__).parents[2]


def spawn(module: str, *arguments: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"tests.ledger.{module}", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def kill_after(process: subprocess.Popen[bytes], lines: int) -> list[str]:
    """Read its stdout, kill it with SIGKILL when it has said so many lines, and return every line it got out."""
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(lines)]
    reader = Thread(target=lambda: said.extend(process.stdout or []))
    reader.start()  # goes on reading while the signal is on its way
    process.send_signal(signal.SIGKILL)
    process.wait()
    reader.join()
    process.stdout.close()
    if process.stdin is not None:
        process.stdin.close()
    return [line.decode().strip() for line in said if line.endswith(b"\n")]


@pytest.mark.parametrize("lines", [1, 500, 3000, 30_000])
async def test_kill_9_loses_no_outcome_that_was_taken(tmp_path: Path, lines: int) -> None:
    taken = kill_after(spawn("writing_process", tmp_path), lines)
    sink = ListSink()
    adopter = Adopter(tmp_path, sink)
    await adopter.adopt()
    charged = sink.of_kind("charge")
    assert len(taken) >= lines
    assert set(taken) <= charged
    assert len(charged) <= len(taken) + 1  # at most one was written and not yet told
    assert not charged & sink.of_kind("orphan")
    assert (adopter.recovered.missing, siblings(tmp_path)) == (0, [])


async def test_kill_9_of_processes_that_also_deliver_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    root, database = tmp_path / "journal", tmp_path / "ledger.db"
    sink = SqliteSink(database)
    taken: list[str] = []
    for lines in (2000, 6000, 12_000):
        taken += kill_after(spawn("writing_process", root, database), lines)
        await Adopter(root, sink).adopt()
    keys = sink.keys()
    sink.close()
    assert {request_id for request_id, kind in keys if kind == "charge"} >= set(taken)
    assert max(Counter(request_id for request_id, _ in keys).values()) == 1  # no call is both charge and orphan
    assert len(keys) <= len(taken) + 3 * 1


async def test_processes_that_adopt_at_once_share_the_work(tmp_path: Path) -> None:
    root, database = tmp_path / "journal", tmp_path / "ledger.db"
    SqliteSink(database).close()
    taken: list[str] = []
    for _ in range(4):
        taken += kill_after(spawn("writing_process", root), 400)
    adopters = [spawn("adopting_process", root, database) for _ in range(2)]
    for process in adopters:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    finished = [int(process.communicate(timeout=60)[0]) for process in adopters]
    assert [process.returncode for process in adopters] == [0, 0]
    sink = SqliteSink(database)
    keys = sink.keys()
    sink.close()
    assert sum(finished) == 4
    assert siblings(root) == []
    assert {request_id for request_id, kind in keys if kind == "charge"} >= set(taken)
    assert len(keys) == len({request_id for request_id, _ in keys})


async def test_the_journal_of_a_living_process_can_be_neither_opened_nor_adopted(tmp_path: Path) -> None:
    process = spawn("writing_process", tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    (path,) = siblings(tmp_path)
    with pytest.raises(JournalOwned, match="in use by another process"):
        FileJournal(path)
    sink = ListSink()
    await Adopter(tmp_path, sink).adopt()
    assert sink.attempts == 0
    kill_after(process, 0)
    await Adopter(tmp_path, sink).adopt()
    assert sink.ids

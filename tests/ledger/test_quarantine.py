"""Rows that the ledger would not take: kept, listed, offered again."""

from __future__ import annotations

import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.core.records import Decision
from gateway.ledger.delivery import PoisonRow, SinkUnavailable, offer_again
from gateway.ledger.quarantine import Quarantine
from tests.ledger.support import ListSink, outcome

ROOT = Path(__file__).parents[2]
REFUSED = PoisonRow("a value that cannot be stored")
DECISION = Decision("quota", "user", "ada@example.com", "tokens", "month", "deny", 1000, 10, 5)


@pytest.fixture
def quarantine(tmp_path: Path) -> Quarantine:
    return Quarantine(tmp_path / "quarantine.jsonl")


def test_a_row_comes_out_as_it_went_in(quarantine: Quarantine) -> None:
    row = outcome("r1", decisions=(DECISION,), number=2, kind="adjust", prompt_tokens=None)
    quarantine.add(row, REFUSED)
    (entry,) = quarantine.entries()
    assert (entry.row, entry.reason) == (row, "PoisonRow: a value that cannot be stored")
    assert entry.quarantined_at > 1_700_000_000
    assert stat.S_IMODE(quarantine.path.stat().st_mode) == 0o600


def test_no_file_is_an_empty_quarantine(quarantine: Quarantine) -> None:
    assert quarantine.entries() == []
    quarantine.remove([b"nothing"])
    assert not quarantine.path.exists()


def test_a_row_that_no_text_can_hold_is_bent_until_it_can(quarantine: Quarantine) -> None:
    quarantine.add(outcome("r1", user="lone \ud800 surrogate", cost_microusd=10**40), REFUSED)
    (entry,) = quarantine.entries()
    assert entry.row is not None
    assert entry.row.user == "lone ? surrogate"


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"row": {}}', b'{"row": {"request_id": 1}, "reason": ""}', b"\xff"])
async def test_a_line_that_cannot_be_read_stays_and_disturbs_no_other(quarantine: Quarantine, line: bytes) -> None:
    quarantine.add(outcome("r1"), REFUSED)
    with quarantine.path.open("ab") as file:
        file.write(line + b"\n\n")
    quarantine.add(outcome("r2"), REFUSED)
    assert [entry.row and entry.row.request_id for entry in quarantine.entries()] == ["r1", None, "r2"]
    sink = ListSink()
    assert await offer_again(quarantine, sink) == (2, 1)
    assert sink.ids == ["r1", "r2"]
    assert quarantine.path.read_bytes() == line + b"\n"


async def test_rows_offered_again_leave_when_the_ledger_has_them_and_stay_when_it_refuses(
    quarantine: Quarantine,
) -> None:
    for n in range(4):
        quarantine.add(outcome(f"r{n}"), REFUSED)
    sink = ListSink()
    await sink.insert([outcome("r0")])
    sink.poison = {"r2"}
    assert await offer_again(quarantine, sink) == (3, 1)
    assert sink.ids == ["r0", "r1", "r3"]
    assert [entry.row for entry in quarantine.entries()] == [outcome("r2")]
    sink.poison = set()
    assert await offer_again(quarantine, sink) == (1, 0)
    assert not quarantine.path.exists()


async def test_a_database_that_is_away_takes_nothing_out(quarantine: Quarantine) -> None:
    quarantine.add(outcome("r1"), REFUSED)
    sink = ListSink()
    sink.down = True
    with pytest.raises(SinkUnavailable):
        await offer_again(quarantine, sink)
    assert len(quarantine.entries()) == 1


def test_rows_added_while_others_are_taken_out_are_not_lost(quarantine: Quarantine) -> None:
    def add(n: int) -> None:
        quarantine.add(outcome(f"r{n:03d}"), REFUSED)

    taken: list[bytes] = []

    def take() -> None:
        lines = [entry.line for entry in quarantine.entries() if entry.row is not None]
        quarantine.remove(lines)
        taken.extend(lines)

    with ThreadPoolExecutor(4) as pool:
        adding = [pool.submit(add, n) for n in range(100)]
        while not all(each.done() for each in adding):
            take()
    for each in adding:
        each.result()
    take()
    assert not quarantine.path.exists()
    assert len(taken) == len(set(taken)) == 100


def test_a_disk_that_takes_half_a_line_keeps_none_of_it(tmp_path: Path) -> None:
    program = """
import resource, signal, sys
from pathlib import Path
from gateway.ledger.delivery import PoisonRow
from gateway.ledger.quarantine import Quarantine
from tests.ledger.support import outcome

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
quarantine = Quarantine(Path(sys.argv[1]))
quarantine.add(outcome("r1"), PoisonRow("x"))
size = quarantine.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, resource.RLIM_INFINITY))
try:
    quarantine.add(outcome("r2"), PoisonRow("x"))
except OSError:
    assert quarantine.path.stat().st_size == size
else:
    sys.exit("half a line was taken for one")
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "q.jsonl")], cwd=ROOT, check=True, timeout=60)
    assert [entry.row for entry in Quarantine(tmp_path / "q.jsonl").entries()] == [outcome("r1")]

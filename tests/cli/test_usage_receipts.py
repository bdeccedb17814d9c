"""`aidock usage --request` and `aidock quotas shadow`: from the database alone, whether or not a gateway runs."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gateway.core.money import Price
from gateway.core.records import Decision
from gateway.storage import ledger, shadow
from gateway.storage.engine import Database
from gateway.storage.shadow import Refused, Tally
from tests.cli.command import Shell
from tests.ledger.support import outcome

UTC = ZoneInfo("UTC")
ROW = outcome(
    "r-1",
    prompt_tokens=1_000_000,
    completion_tokens=10,
    cost_microusd=150_006,
    price_version="v1",
    reserved_tokens=2_000_000,
    decisions=(Decision("quota", "department", "research", "cost", "month", "deny", 5_000_000, 300_000, 200_000),),
)


def fill(shell: Shell, *rows: Any, tallies: dict[Refused, Tally] | None = None) -> None:
    async def work() -> None:
        database = Database.open(f"sqlite:///{shell.data / 'aidock.db'}", shell.data)
        async with database.write() as session:
            await ledger.remember_prices(session, [Price(150_000, 600_000, None, "v1")], time.time())
            await ledger.insert_rows(session, rows, UTC)
            await shadow.add(session, tallies or {})
        await database.close()

    asyncio.run(work())


def test_a_receipt_tells_what_an_answer_from_the_cache_has_saved(shell: Shell) -> None:
    nothing = {"prompt_tokens": 0, "completion_tokens": 0, "cost_microusd": 0}
    fill(shell, ROW._replace(provider="cache", saved_microusd=150_006, **nothing), ROW._replace(request_id="r-2"))
    assert "Saved by an answer from the cache: $0.150006" in shell.ok("usage", "--request", "r-1").out
    assert "Saved" not in shell.ok("usage", "--request", "r-2").out


def test_a_receipt_is_printed_for_programs_and_for_people(shell: Shell) -> None:
    fill(
        shell, ROW, ROW._replace(kind="adjust", number=1, prompt_tokens=None, completion_tokens=None, cost_microusd=-6)
    )
    found = shell.ok("usage", "--request", "r-1", "--json").json
    assert (found["request_id"], found["cost_usd"], found["total"]["cost_usd"]) == ("r-1", 0.150006, 0.15)
    assert found["decisions"][0]["limit"] == 5.0
    assert shell.ok("usage", "--request", "r-1", "--format", "json").json == found
    shown = shell.ok("usage", "--request", "r-1").out
    for words in (
        "price_version   v1",
        "prompt      1000000  0.15",
        "reserved   2000000",
        "quota",
        "$0.150000",
    ):
        assert words in shown, words
    assert "2026-09-21T" in shown


def test_a_call_that_has_no_receipt_is_a_no(shell: Shell) -> None:
    missing = shell.aidock("usage", "--request", "r-2")
    assert (missing.code, missing.out, missing.traceback) == (1, "", False)
    assert "no receipt for 'r-2'" in missing.err


def test_who_would_have_been_refused_is_listed_by_any_grouping(shell: Shell) -> None:
    limit = ("quota", "department", "research", "tokens", "month", "research")
    fill(
        shell,
        tallies={
            Refused("2026-11-01", *limit, "ada@example.com", "k1", "m"): Tally(2, 1_793_491_200.0),
            Refused("2026-11-02", *limit, "eve@example.com", "k2", "m"): Tally(5, 1_793_577_600.0),
        },
    )
    rows = shell.ok("quotas", "shadow", "--json").json
    assert [(row["user"], row["policy"], row["refused"]) for row in rows] == [
        ("eve@example.com", "quota", 5),
        ("ada@example.com", "quota", 2),
    ]
    (row,) = shell.ok("quotas", "shadow", "--by", "policy", "--json").json
    assert row == {"policy": "quota", "refused": 7, "last_at": "2026-11-02T00:00:00Z"}
    assert shell.ok("quotas", "shadow", "--to", "2026-11-01", "--by", "day").out.splitlines()[1].split()[:2] == [
        "2026-11-01",
        "2",
    ]
    assert shell.ok("quotas", "shadow", "--from", "2026-12-01", "--json").json == []


@pytest.mark.parametrize(
    "words", [("quotas", "shadow", "--by", "colour"), ("quotas", "shadow", "--from", "today")], ids=["grouping", "day"]
)
def test_a_report_that_makes_no_sense_is_refused_with_what_there_is(shell: Shell, words: tuple[str, ...]) -> None:
    refused = shell.aidock(*words)
    assert refused.code in (1, 2)
    assert "choose from day, policy" in refused.err or "--from" in refused.err

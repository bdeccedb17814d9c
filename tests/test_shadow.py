"""The report of who would have been refused: counted in memory, bounded, and written every few seconds."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gateway import shadow as shadow_module
from gateway.core.call import Call
from gateway.core.principal import Principal
from gateway.core.records import Decision
from gateway.shadow import OTHERS, ShadowLog
from gateway.storage import shadow
from gateway.storage.engine import Database
from gateway.storage.errors import Invalid
from tests.support.calls import a_call
from tests.support.database import ready_database
from tests.support.until import until

UTC = ZoneInfo("UTC")
TOKYO = ZoneInfo("Asia/Tokyo")
EVENING = 1_790_000_000.0  # 2026-09-21 14:13 UTC, 23:13 in Tokyo
HOUR = 3600.0


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = await ready_database(tmp_path)
    yield made
    await made.close()


def told(policy: str = "quota", *, used: int = 11, action: str = "shadow", subject: str = "research") -> Decision:
    return Decision(policy, "department", subject, "tokens", "month", action, 10, used, 5)


def a_noted(*decisions: Decision, user: str = "ada@example.com", at: float = EVENING, shadowed: Any = ()) -> Call:
    call = a_call(principal=Principal("k1", user, "research"))
    return replace(call, created_at=at, decisions=decisions, shadowed=shadowed)


async def rows(database: Database, *by: str, first: str | None = None, last: str | None = None) -> list[dict[str, Any]]:
    async with database.read() as session:
        return await shadow.report(session, by, first, last)


async def test_calls_are_counted_by_who_called_what_and_by_the_limit_that_objects(database: Database) -> None:
    log = ShadowLog(database, UTC)
    for at in (EVENING, EVENING + 5):
        log.note(a_noted(told(), at=at))
    log.note(a_noted(told("rate_limit"), user="eve@example.com"))
    await log.flush()
    assert await rows(database, *shadow.GROUPINGS) == [
        {
            "day": "2026-09-21",
            "policy": "quota",
            "scope": "department",
            "subject": "research",
            "metric": "tokens",
            "window": "month",
            "department": "research",
            "user": "ada@example.com",
            "key": "k1",
            "model": "m",
            "refused": 2,
            "last_at": EVENING + 5,
        },
        {
            "day": "2026-09-21",
            "policy": "rate_limit",
            "scope": "department",
            "subject": "research",
            "metric": "tokens",
            "window": "month",
            "department": "research",
            "user": "eve@example.com",
            "key": "k1",
            "model": "m",
            "refused": 1,
            "last_at": EVENING,
        },
    ]


async def test_what_was_written_before_is_added_to(database: Database) -> None:
    first, second = ShadowLog(database, UTC), ShadowLog(database, UTC)
    first.note(a_noted(told(), at=EVENING + 9))
    second.note(a_noted(told()))
    for log in (first, second):
        await log.flush()
        await log.flush()  # there is nothing left to write
    (row,) = await rows(database, "policy")
    assert row == {"policy": "quota", "refused": 2, "last_at": EVENING + 9}


async def test_a_call_counts_once_for_each_policy_under_the_first_limit_without_room(database: Database) -> None:
    log = ShadowLog(database, UTC)
    fits, refuses = told(used=10, subject="fits"), told(action="deny", used=99, subject="real")
    log.note(a_noted(fits, refuses, told(subject="first"), told(subject="second"), told("rate_limit", action="warn")))
    log.note(a_noted(told(), shadowed=("quota", "model_access")))
    await log.flush()
    found = {(row["policy"], row["subject"]): row["refused"] for row in await rows(database, "policy", "subject")}
    assert found == {("quota", "first"): 1, ("rate_limit", "research"): 1, ("quota", ""): 1, ("model_access", ""): 1}


async def test_days_are_the_organisations(database: Database) -> None:
    log = ShadowLog(database, TOKYO)
    for hours in (0, 1):
        log.note(a_noted(told(), at=EVENING + hours * HOUR))
    await log.flush()
    assert [row["day"] for row in await rows(database, "day")] == ["2026-09-21", "2026-09-22"]
    assert len(await rows(database, "day", first="2026-09-22")) == 1
    assert len(await rows(database, "day", last="2026-09-21")) == 1
    assert await rows(database, "day", first="2026-09-23") == []


async def test_the_most_refused_come_first_and_an_unknown_grouping_is_named(database: Database) -> None:
    log = ShadowLog(database, UTC)
    for number, user in enumerate(("a@example.com", "b@example.com", "c@example.com")):
        for _ in range(number + 1):
            log.note(a_noted(told(), user=user))
    await log.flush()
    assert [row["user"][0] for row in await rows(database, "user")] == ["c", "b", "a"]
    with pytest.raises(Invalid, match=r"cannot be grouped by 'colour'; choose from day, policy"):
        await rows(database, "colour")


async def test_callers_beyond_the_bound_are_counted_together(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_module, "MOST", 20)
    log = ShadowLog(database, UTC)
    for number in range(100):
        log.note(a_noted(told(), user=f"user{number}@example.com"))
    assert len(log._tallies) == 21
    await log.flush()
    found = {row["user"]: row["refused"] for row in await rows(database, "user")}
    assert (len(found), found[OTHERS], sum(found.values())) == (21, 80, 100)


async def test_it_writes_by_itself_and_once_more_when_it_ends(database: Database) -> None:
    log = ShadowLog(database, UTC, flush_s=0.02)
    await log.start()
    log.note(a_noted(told()))

    async def written(count: int) -> bool:
        return [row["refused"] for row in await rows(database, "policy")] == [count]

    await until(lambda: written(1))
    slow = ShadowLog(database, UTC, flush_s=3600)
    await slow.start()
    slow.note(a_noted(told()))
    await slow.close()
    await log.close()
    assert await written(2)


async def test_a_database_that_is_away_loses_no_count(
    tmp_path: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    impatient = Database.open(database.url, tmp_path, busy_timeout=0.1)
    log = ShadowLog(impatient, UTC, flush_s=0.01)
    with caplog.at_level(logging.WARNING, "aidock.shadow"):
        async with locked(tmp_path / "aidock.db"):
            await log.start()
            log.note(a_noted(told()))
            await until(lambda: bool(caplog.records), 30)
            log.note(a_noted(told()))

        async def written() -> bool:
            return [row["refused"] for row in await rows(database, "policy")] == [2]

        await until(written, 30)
        await log.close()
    await impatient.close()
    assert len(caplog.records) == 1, "it says so once"


@asynccontextmanager
async def locked(file: Path) -> AsyncIterator[None]:
    """Another process's write transaction, which does not end by itself."""
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); sys.stdin.read()"
    )
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(file), stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield
    finally:
        process.stdin.close()
        await process.wait()

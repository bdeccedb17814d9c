"""The counters of a process, asked over its socket; and where commands find counters at all."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import uvloop

from gateway import plugins
from gateway.core.limits import Actual, Claim, Count, Level, Limit
from gateway.core.ports import StoreUnavailable
from gateway.health import Health
from gateway.itinerary import Reported
from gateway.local import MAX_LINE, LedgerCounters, LocalCounters, LocalServer, counters_of, health_in
from gateway.local_socket import LOCK_NAME, SOCKET_NAME, LocalInUse
from gateway.quotas.memory import MemoryStore
from gateway.quotas.windows import Calendar
from gateway.routing import Standing
from gateway.settings.compile import compile_document
from gateway.settings.load import load
from gateway.storage import ledger
from gateway.storage.engine import Database
from tests.ledger.support import outcome
from tests.support.calls import a_target
from tests.support.database import ready_database
from tests.support.until import until

UTC = ZoneInfo("UTC")
LIMIT = Limit("department", "research", "tokens", "month", 1000)
PARALLEL = Limit("global", "", "parallel", "none", 5)
ROOT = Path(__file__).parents[1]


class Books:
    """A process that counts: its store, the calls that it runs, and how often it was told to count anew."""

    def __init__(self, directory: Path) -> None:
        self.store = MemoryStore(Calendar(UTC))
        self.running: list[str] = []
        self.recounts = 0
        self.failure: Exception | None = None
        self.facts: list[dict[str, Any]] = []
        self.server = LocalServer(
            directory, self.store, running=lambda: self.running, recount=self.recount, health=lambda: self.facts
        )

    async def recount(self) -> None:
        if self.failure is not None:
            raise self.failure
        await asyncio.sleep(0.01)
        self.recounts += 1


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    books = Books(tmp_path)
    await books.server.start()
    yield books
    await books.server.close()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await ready_database(tmp_path)
    yield database
    await database.close()


async def say(directory: Path, data: bytes) -> dict[str, object]:
    reader, writer = await asyncio.open_unix_connection(str(directory / SOCKET_NAME))
    writer.write(data)
    writer.write_eof()
    try:
        answer = await reader.read()
    finally:
        writer.close()
    told: dict[str, object] = json.loads(answer)
    assert answer.endswith(b"\n")
    return told


async def test_counters_come_through_the_socket_as_they_are(books: Books, tmp_path: Path) -> None:
    at = books.store.now()
    await books.store.reserve("r1", [Claim(LIMIT, 100), Claim(PARALLEL, 1)], 60, at)
    await books.store.reserve("r2", [Claim(LIMIT, 50)], 60, at)
    books.store.settle("r2", [Claim(LIMIT, 50)], at, Actual(1, 30, 0))
    client = LocalCounters(tmp_path)
    assert await client.peek([LIMIT, PARALLEL]) == await books.store.peek([LIMIT, PARALLEL])
    (count,) = await client.audit([LIMIT, PARALLEL])
    assert isinstance(count, Count)
    assert (count.limit, count.settled, count.reserved) == (LIMIT, 30, 100)
    assert [count] == await books.store.audit([LIMIT])


async def test_what_runs_and_a_recount_that_is_done_when_it_answers(books: Books, tmp_path: Path) -> None:
    client = LocalCounters(tmp_path)
    assert await client.running() == []
    books.running = ["r1", "r2"]
    assert await client.running() == ["r1", "r2"]
    await client.recount([LIMIT])
    assert books.recounts == 1


async def test_how_deployments_fare_is_told_where_a_gateway_listens(books: Books, tmp_path: Path) -> None:
    target = a_target()
    health = Health()
    health.failed(target, "credential")
    books.facts = [health.facts(target)]
    told = Reported(await health_in(tmp_path))
    assert told.asked
    assert told.standing(target) is Standing.RESTING
    assert 299 < told.wait(target) <= 330
    assert told.standing(a_target(key=1)) is Standing.READY
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert await health_in(elsewhere) is None


async def test_thousands_of_limits_are_asked_in_pieces(books: Books, tmp_path: Path) -> None:
    limits = [Limit("user", f"{'x' * 200}{n}@example.com", "tokens", "day", 10**15) for n in range(3500)]
    levels = await LocalCounters(tmp_path).peek(limits)
    assert [level.limit for level in levels] == limits


async def test_the_socket_is_for_its_owner_only_and_goes_with_the_server(tmp_path: Path) -> None:
    books = Books(tmp_path)
    await books.server.start()
    assert stat.S_IMODE((tmp_path / SOCKET_NAME).stat().st_mode) == 0o600
    await books.server.close()
    await books.server.close()
    assert not (tmp_path / SOCKET_NAME).exists()
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await LocalCounters(tmp_path).running()


async def test_a_second_gateway_does_not_take_the_socket_away(books: Books, tmp_path: Path) -> None:
    second = Books(tmp_path)
    with pytest.raises(LocalInUse):
        await second.server.start()
    await second.server.close()
    assert await LocalCounters(tmp_path).running() == []


async def test_the_socket_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    program = (
        "import fcntl, os, socket, sys\n"
        "lock = os.open(sys.argv[1] + '/control.lock', os.O_CREAT | os.O_RDWR)\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "sock = socket.socket(socket.AF_UNIX)\n"
        "sock.bind(sys.argv[1] + '/control.sock')\n"
        "os._exit(9)\n"
    )
    dead = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(tmp_path))
    assert await dead.wait() == 9
    assert (tmp_path / SOCKET_NAME).exists()
    books = Books(tmp_path)
    await books.server.start()
    assert await LocalCounters(tmp_path).running() == []
    await books.server.close()


async def test_a_directory_too_deep_for_a_socket_address_works_all_the_same(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a directory with a long name"] * 6)
    deep.mkdir(parents=True)
    assert len(str(deep / SOCKET_NAME)) > 150
    books = Books(deep)
    await books.server.start()
    assert stat.S_ISSOCK((deep / SOCKET_NAME).stat().st_mode)
    assert await LocalCounters(deep).running() == []
    await books.server.close()
    assert [path.name for path in deep.iterdir()] == [LOCK_NAME]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"{\n", "cannot be understood"),
        (b"\n", "cannot be understood"),
        (b"", "cannot be understood"),
        (b'{"verb": "audit"', "cannot be understood"),
        (b"\xff\xfe\n", "cannot be understood"),
        (b'{"verb": "drop"}\n', "no verb 'drop'"),
        (b'{"verb": "peek", "limits": [{"scope": "planet"}]}\n', "cannot be understood"),
        (b'{"verb": "' + b"x" * (2 * MAX_LINE) + b'"}\n', "at most"),
    ],
)
async def test_a_question_that_makes_no_sense_is_answered_in_words(
    books: Books, tmp_path: Path, line: bytes, error: str
) -> None:
    assert error in str((await say(tmp_path, line))["error"])
    assert await LocalCounters(tmp_path).running() == []


async def test_a_failure_inside_is_told_to_whoever_asked(books: Books, tmp_path: Path) -> None:
    books.failure = StoreUnavailable("the ledger database is away")
    with pytest.raises(StoreUnavailable, match="the ledger database is away"):
        await LocalCounters(tmp_path).recount([])


async def test_too_many_at_once_are_turned_away_and_the_others_served(books: Books, tmp_path: Path) -> None:
    client = LocalCounters(tmp_path)

    async def has_room() -> bool:
        try:
            return await client.running() == []
        except StoreUnavailable:
            return False

    silent = [await asyncio.open_unix_connection(str(tmp_path / SOCKET_NAME)) for _ in range(16)]
    assert not await has_room()
    for _, writer in silent:
        writer.close()
    await until(has_room)


async def test_a_client_that_never_asks_does_not_keep_the_server_from_closing(tmp_path: Path) -> None:
    books = Books(tmp_path)
    await books.server.start()
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET_NAME))
    await asyncio.sleep(0.01)
    await asyncio.wait_for(books.server.close(), 5)
    assert await reader.read() == b""
    writer.close()


async def test_a_gateway_that_hangs_is_an_error_and_not_an_absent_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.local.DEADLINE_S", 0.1)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / SOCKET_NAME))
        sock.listen()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await LocalCounters(tmp_path).running()


def test_it_serves_on_the_loop_that_the_gateway_runs_on(tmp_path: Path) -> None:
    async def story() -> Sequence[str] | None:
        books = Books(tmp_path)
        books.running = ["r1"]
        await books.server.start()
        try:
            return await LocalCounters(tmp_path).running()
        finally:
            await books.server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(story()) == ["r1"]
    assert not (tmp_path / SOCKET_NAME).exists()


async def test_without_a_gateway_the_ledger_says_where_limits_stand(database: Database) -> None:
    counters = LedgerCounters(database, UTC)
    now = MemoryStore(Calendar(UTC)).now()
    rows = [outcome("r1", created_at=now), outcome("r2", created_at=now, kind="refund", prompt_tokens=None)]
    async with database.write() as session:
        await ledger.insert_rows(session, rows, UTC)
    requests = Limit("global", "", "requests", "total", 5)
    levels = await counters.peek([LIMIT, requests])
    assert [level.used for level in levels] == [46 + 34, 1]
    assert isinstance(levels[0], Level)
    assert (levels[0].resets_in or 0) > 0
    assert (await counters.audit([LIMIT]), await counters.running()) == ([], [])


async def test_counters_in_memory_are_those_of_the_gateway_that_runs_or_the_ledgers(
    tmp_path: Path, database: Database
) -> None:
    document = load(None, {"AIDOCK_DATA": str(tmp_path)}, {})
    known = plugins.names("policies")
    snapshot = compile_document(document, version=1, known_policies=known, known_dialects={"demo"})
    async with counters_of(document, snapshot, database) as counters:
        assert isinstance(counters, LedgerCounters)
    books = Books(tmp_path)
    await books.server.start()
    async with counters_of(document, snapshot, database) as counters:
        assert isinstance(counters, LocalCounters)
        assert await counters.running() == []
    await books.server.close()

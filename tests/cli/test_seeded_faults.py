"""A hundred faults put into the books one by one, every one of them found, and the books equal again without it.

The books: a ledger of two hundred calls, its daily sums, counters that were counted up from it, and the journal that
the calls went through. The clock stands still, so that every call is in every window that is now open.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis

from gateway.cli._reconciliation import Reconciliation
from gateway.core.limits import Base, Count, Level, Limit
from gateway.core.money import Price
from gateway.core.records import IntentRecord, OutcomeRecord
from gateway.ledger.directory import siblings
from gateway.ledger.journal import open_journal
from gateway.ledger.reconcile import Check
from gateway.ledger.table import LedgerTable
from gateway.ledger.writer import LedgerWriter
from gateway.local import Counters, SharedCounters
from gateway.quotas.memory import MemoryStore
from gateway.quotas.redis import RedisStore
from gateway.quotas.windows import Calendar
from gateway.recount import Recount
from gateway.settings.compile import Snapshot, compile_document
from gateway.settings.load import load
from gateway.storage import ledger
from gateway.storage.audit import Period
from gateway.storage.engine import Database
from tests.ledger.support import abandon, intent, outcome
from tests.support.database import database_url, ready_database
from tests.support.redis_server import redis_server

UTC = ZoneInfo("UTC")
NOON = 1_790_078_400.0 + 12 * 3600 + 1800
"""Half past twelve: hours away from the day's ends, and half an hour from the hour's."""
CALLS = 200
PRICE = Price(150_000, 600_000, 75_000, "2026-01")
LIMITS = [
    Limit("global", "", "requests", "hour", 10**6),
    Limit("global", "", "cost", "total", 10**9),
    Limit("department", "research", "tokens", "hour", 10**9),
    Limit("department", "sales", "tokens", "hour", 10**9),
    Limit("user", "ada@example.com", "cost", "day", 10**9),
    Limit("model", "gpt-4o-mini", "requests", "month", 10**6),
]

Fault = Callable[[], None]
Alter = Callable[[Limit, int], Awaitable[None]]


class MemoryCounters:
    """The counters of a store in this process, as a command sees them over the socket."""

    def __init__(self, store: MemoryStore, recount: Recount) -> None:
        self._store = store
        self._recount = recount

    async def peek(self, limits: Any) -> list[Level]:
        return list(await self._store.peek(limits))

    async def audit(self, limits: Any) -> list[Count]:
        return list(await self._store.audit(limits))

    async def recount(self, limits: Any) -> None:
        await self._recount.recount()

    async def running(self) -> list[str]:
        return []


class Books:
    def __init__(self, directory: Path, database: Database, snapshot: Snapshot, counters: Counters) -> None:
        self.journal = directory / "journal"
        self._file = directory / "aidock.db"
        self.reconciliation = Reconciliation(database, counters, snapshot, LIMITS, Period(), 0.0, lambda _: None)

    async def differing(self) -> set[str]:
        return {check.name for check in await self.checks() if check.differences}

    async def checks(self) -> list[Check]:
        return await self.reconciliation.checks()

    def sql(self, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(self._file, timeout=10)) as connection, connection:
            assert connection.execute(statement, values).rowcount == 1, statement

    @contextmanager
    def restored(self) -> Iterator[None]:
        """What happens to the tables within is undone."""
        with closing(sqlite3.connect(":memory:")) as copy:
            with closing(sqlite3.connect(self._file)) as source:
                source.backup(copy)
            yield
            with closing(sqlite3.connect(self._file)) as target:
                copy.backup(target)


def calls() -> list[tuple[IntentRecord, OutcomeRecord]]:
    dice = random.Random(5)
    made = []
    for n in range(CALLS):
        who = {
            "department": dice.choice(["research", "sales"]),
            "user": dice.choice(["ada@example.com", "bob@example.com"]),
        }
        at = NOON - dice.random() * 1500
        prompt, completion, cached = dice.randrange(1, 5000), dice.randrange(1, 2000), dice.randrange(500)
        used = {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": cached}
        cost = PRICE.cost(prompt, completion, cached)
        end = outcome(f"r{n:03d}", created_at=round(at, 3), **who, **used, cost_microusd=cost)
        made.append((intent(f"r{n:03d}", created_at=end.created_at, **who), end))
    return made


async def keep_books(directory: Path, database: Database) -> None:
    """The calls, from the journal of a process to the ledger; then the process dies, with nothing left to do."""
    async with database.write() as session:
        await ledger.remember_prices(session, [PRICE], NOON)
    journal = open_journal(directory / "journal")
    writer = LedgerWriter(journal, LedgerTable(database, UTC), linger=0.001)
    await writer.start()
    for begun, ended in calls():
        journal.intent(begun)
        journal.outcome(ended)
    await writer.flush()
    await writer.close()
    await abandon(journal)


async def counting_up(store: Any, database: Database) -> Recount:
    async def nothing() -> None:
        return

    recount = Recount(store, database, UTC, running=list, flush=nothing, alone=True)
    await recount.prepare("test", LIMITS)
    await recount.recount()
    return recount


@asynccontextmanager
async def memory(database: Database) -> AsyncIterator[tuple[Counters, Alter]]:
    store = MemoryStore(Calendar(UTC), clock=lambda: NOON)

    async def alter(limit: Limit, by: int) -> None:
        (count,) = await store.audit([limit])
        await store.rebase([Base(count, count.settled + by)], [], await store.turn())

    yield MemoryCounters(store, await counting_up(store, database)), alter


@asynccontextmanager
async def in_redis(database: Database) -> AsyncIterator[tuple[Counters, Alter]]:
    with redis_server() as server, redis.Redis.from_url(server.url) as direct:
        store = RedisStore(server.url, Calendar(UTC))
        await store.start("test")
        assert await store.begin_rebuild()
        await counting_up(store, database)
        assert await store.end_rebuild()

        async def alter(limit: Limit, by: int) -> None:
            (key,) = direct.keys(f"*:{limit.scope}:{limit.metric}:{limit.window}:*:{limit.subject}")
            direct.hincrby(key, "u", by)

        yield SharedCounters(store, database, UTC), alter
        await store.close()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await ready_database(tmp_path)
    yield database
    await database.close()


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    document = load(None, {"AIDOCK_DATA": str(tmp_path), "DATABASE_URL": database_url(tmp_path)}, {})
    return compile_document(
        document,
        version=1,
        known_policies={"quota", "rate_limit", "model_access", "concurrency"},
        known_dialects={"demo"},
    )


def row_faults(books: Books, dice: random.Random) -> list[tuple[str, Fault]]:
    def change(column: str, value: str, where: str = "") -> Fault:
        request_id = f"r{dice.randrange(CALLS):03d}"
        return lambda: books.sql(f"UPDATE ledger SET {column} = {value} WHERE request_id = ? {where}", request_id)

    def delete() -> Fault:
        request_id = f"r{dice.randrange(CALLS):03d}"
        return lambda: books.sql("DELETE FROM ledger WHERE request_id = ?", request_id)

    def day(column: str) -> Fault:
        group = "department = ? AND user = ?"
        who = (dice.choice(["research", "sales"]), dice.choice(["ada@example.com", "bob@example.com"]))
        by = dice.choice([-1, 1, 1000])
        return lambda: books.sql(f"UPDATE usage_daily SET {column} = {column} + ({by}) WHERE {group}", *who)

    tokens = ("prompt_tokens", "completion_tokens", "cached_tokens")
    sums = ("requests", "refunds", *tokens, "reasoning_tokens", "cost_microusd")
    hours = [hours for hours in range(-11, 11) if hours]
    return [
        *(("missing row", delete()) for _ in range(12)),
        *(("tokens", change(column, f"{column} + {dice.choice([-1, 1, 999])}")) for column in tokens * 4),
        *(("cost", change("cost_microusd", f"cost_microusd + {dice.choice([-1, 1, 5000])}")) for _ in range(12)),
        *(
            ("another day", change("created_at", f"created_at + {dice.choice([-30, -1, 1, 2]) * 86_400}"))
            for _ in range(8)
        ),
        *(("another hour", change("created_at", f"created_at + {dice.choice(hours) * 3600}")) for _ in range(8)),
        *(("somebody else's", change(column, "'other'")) for column in ("department", "user", "key_id", "model_id")),
        *(("price", change("price_version", "'never heard of'")) for _ in range(2)),
        *(("daily sum", day(column)) for column in sums * 2),
    ]


async def test_every_fault_in_the_tables_is_found(tmp_path: Path, database: Database, snapshot: Snapshot) -> None:
    await keep_books(tmp_path, database)
    async with memory(database) as (counters, _):
        books = Books(tmp_path, database, snapshot, counters)
        assert await books.differing() == set()
        faults = row_faults(books, random.Random(11))
        assert len(faults) == 72
        for name, fault in faults:
            with books.restored():
                fault()
                assert await books.differing(), name
        assert await books.differing() == set()


@pytest.mark.parametrize("counting", [memory, in_redis])
async def test_every_altered_counter_is_found_and_counted_anew(
    tmp_path: Path, database: Database, snapshot: Snapshot, counting: Any
) -> None:
    await keep_books(tmp_path, database)
    dice = random.Random(12)
    async with counting(database) as (counters, alter):
        books = Books(tmp_path, database, snapshot, counters)
        assert await books.differing() == set()
        for n in range(8):
            limit, by = LIMITS[n % len(LIMITS)], dice.choice([-3, 1, 10_000])
            await alter(limit, by)
            assert await books.differing() == {"counters"}, limit
            await alter(limit, -by)
        await alter(LIMITS[0], 7)
        await books.reconciliation.mend(await books.checks())
        assert await books.differing() == set()


async def test_every_fault_in_the_journal_is_found(tmp_path: Path, database: Database, snapshot: Snapshot) -> None:
    await keep_books(tmp_path, database)
    dice = random.Random(13)
    async with memory(database) as (counters, _):
        books = Books(tmp_path, database, snapshot, counters)
        (journal,) = siblings(books.journal)
        (segment,) = journal.glob("*.seg")
        whole = segment.read_bytes()
        starts = [at for at in range(len(whole)) if whole.startswith(b"\xad\x0c", at)]
        for n in range(12):
            flipped = bytearray(whole)
            flipped[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
            first = dice.randrange(1, len(starts) - 1)
            cut = whole[: starts[first]] + whole[starts[first + 1] :]
            segment.write_bytes(flipped if n % 2 else cut)
            assert await books.differing() >= {"journals"}, n
        segment.write_bytes(whole)
        assert await books.differing() == set()

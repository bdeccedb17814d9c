"""The ledger's database away, or its disk: calls go on while the journal can take them, and every row arrives."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path

import pytest

from gateway.ledger.directory import JournalFiles
from gateway.ledger.frames import INTENT, OUTCOME, Frame, decode_intent, decode_outcome, scan, seal
from tests.faults.books import SOAK, Books
from tests.faults.callers import Caller, answered, load
from tests.faults.fleet import caller, configuration, fleet, running
from tests.support.billing_upstream import BillingUpstream, Plan
from tests.support.gateway import Gateway, running_gateway, running_gateways
from tests.support.postgres_server import PostgresServer, postgres_server
from tests.support.redis_server import redis_server
from tests.support.tcp_proxy import fault_proxy
from tests.support.until import until

PLANS = (Plan(chunks=3), Plan(chunks=6, every=5), Plan(chunks=20, every=10), Plan(chunks=4, usage=-1))
AWAY_S = 60.0 if SOAK else 2.0
LOCKED_S = 60.0 if SOAK else 5.5
"""Longer than SQLite waits for a lock."""
BEFORE_S = 0.4
CALLERS = 8
DISK = "8m"


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


@pytest.fixture(scope="module")
def hosts(
    postgres: PostgresServer, shared_upstream: BillingUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Gateway]]:
    """Two gateways, each with a journal of its own, on one Redis and one PostgreSQL."""
    with redis_server() as redis:
        config = configuration(shared_upstream, redis=redis.url, database=postgres.empty_database())
        gateways = fleet(tmp_path_factory.mktemp("hosts"), config)
        with running_gateways(*gateways):
            yield gateways


async def in_the_ledger(gateway: Gateway, who: Caller) -> float:
    """How many seconds it takes until the answer that was given last has its row."""
    began = time.monotonic()
    seen = await who.call(gateway.port, Plan())
    assert seen.whole
    await until(lambda: bool(gateway.rows("request_id = ?", seen.request_id)), 60)
    return time.monotonic() - began


async def test_a_postgres_that_stops_holds_up_no_call(
    hosts: list[Gateway], postgres: PostgresServer, shared_upstream: BillingUpstream
) -> None:
    who = await caller(hosts[0])
    async with load(who, [host.port for host in hosts], PLANS) as seen:
        await asyncio.sleep(BEFORE_S)
        postgres.pause()
        paused = len(seen)
        try:
            await asyncio.sleep(AWAY_S)
        finally:
            during = seen[paused:]
            postgres.resume()
        recovery = await in_the_ledger(hosts[0], who)
    assert len(during) > 8, "calls were to be answered while the database was stopped"
    assert all(each.whole for each in seen)
    await Books(shared_upstream, hosts, [who]).agree("PostgreSQL stopped", recovery_s=recovery)


async def test_a_postgres_that_is_killed_holds_up_no_call(
    hosts: list[Gateway], postgres: PostgresServer, shared_upstream: BillingUpstream
) -> None:
    who = await caller(hosts[0])
    async with load(who, [host.port for host in hosts], PLANS) as seen:
        await asyncio.sleep(BEFORE_S)
        postgres.crash()
        await asyncio.sleep(AWAY_S / 2)
        await asyncio.to_thread(postgres.start)
        recovery = await in_the_ledger(hosts[0], who)
    assert all(each.whole for each in seen)
    await Books(shared_upstream, hosts, [who]).agree("PostgreSQL killed", recovery_s=recovery)


async def test_a_host_that_is_killed_leaves_the_others_calls_alone_and_delivers_when_it_is_back(
    hosts: list[Gateway], shared_upstream: BillingUpstream
) -> None:
    who = await caller(hosts[0])
    living, doomed = hosts
    async with load(who, [host.port for host in hosts], PLANS):
        for _ in range(30 if SOAK else 1):
            await asyncio.sleep(BEFORE_S)
            doomed.kill()
            began = time.monotonic()
            await asyncio.sleep(BEFORE_S)
            assert (await who.call(living.port, Plan())).whole
            await asyncio.to_thread(doomed.start)
    recovery = time.monotonic() - began
    await Books(shared_upstream, hosts, [who]).agree(
        "kill -9 of one of two hosts", recovery_s=recovery, dead_hold=CALLERS
    )


async def test_rows_whose_commit_was_never_confirmed_are_booked_once(
    postgres: PostgresServer, upstream: BillingUpstream, tmp_path: Path
) -> None:
    direct = postgres.empty_database()
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(fault_proxy(postgres.port))
        config = configuration(upstream, database=direct.replace(f":{postgres.port}/", f":{proxy.port}/"))
        (gateway,) = fleet(tmp_path, config, 1)
        await stack.enter_async_context(running(gateway))
        who = await caller(gateway)
        async with load(who, [gateway.port], PLANS, callers=4):
            for _ in range(50 if SOAK else 4):
                proxy.cut_after_marker = b"COMMIT"
                await until(lambda: not proxy.cut_after_marker, 30)
        gateway.database_url = direct
        recovery = await in_the_ledger(gateway, who)
        await Books(upstream, [gateway], [who]).agree("COMMIT reply lost", recovery_s=recovery)


async def test_a_sqlite_that_another_process_locks_holds_up_no_call(upstream: BillingUpstream, tmp_path: Path) -> None:
    with running_gateway(tmp_path, configuration(upstream)) as gateway:
        who = await caller(gateway)
        async with load(who, [gateway.port], PLANS, callers=4) as seen:
            await asyncio.sleep(BEFORE_S)
            with locked(gateway):
                await asyncio.sleep(LOCKED_S)
            recovery = await in_the_ledger(gateway, who)
        assert all(each.whole for each in seen)
        await Books(upstream, [gateway], [who]).agree("SQLite locked", recovery_s=recovery)


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system with next to no room."""
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(path: Path) -> None:
    """Take all the room there is."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


async def test_a_full_disk_refuses_calls_before_an_upstream_hears_of_them(
    upstream: BillingUpstream, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk):
        gateway = Gateway(tmp_path / "gateway", configuration(upstream), data=disk / "data")
        with running_gateways(gateway):
            who = await caller(gateway)
            async with load(who, [gateway.port], PLANS, callers=4) as seen:
                await asyncio.sleep(BEFORE_S)
                fill(disk / "ballast")
                await until(lambda: any(each.error == "accounting_unavailable" for each in seen), 20)
                fill(disk / "ballast.more")
                full = len(seen)
                await asyncio.sleep(1)
                refused = [each for each in seen[full:] if each.error]
                (disk / "ballast").unlink()
                (disk / "ballast.more").unlink()
                recovery = await answered(who, gateway.port) + await in_the_ledger(gateway, who)
            assert refused
            assert {(each.status, each.error) for each in refused} == {(503, "accounting_unavailable")}
            asked = {bill.nonce for bill in upstream.bills}
            assert not asked & {each.nonce for each in seen if each.error == "accounting_unavailable"}
            await Books(upstream, [gateway], [who]).agree("disk full", recovery_s=recovery)


@contextmanager
def locked(gateway: Gateway) -> Iterator[None]:
    """No row gets into its database."""
    with closing(sqlite3.connect(gateway.data / "aidock.db", timeout=10, isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        yield
        lock.execute("ROLLBACK")


async def killed_with_rows_in_the_journal(gateway: Gateway, who: Caller) -> JournalFiles:
    """Kill it while its database is locked; the journal that it leaves."""
    async with load(who, [gateway.port], PLANS, callers=4):
        await asyncio.sleep(BEFORE_S)
        with locked(gateway):
            await asyncio.sleep(1)
            gateway.kill()
    return journal_of(gateway)


def journal_of(gateway: Gateway) -> JournalFiles:
    (path,) = (path for path in (gateway.data / "journal").iterdir() if path.is_dir())
    return JournalFiles(path)


def newest(journal: JournalFiles) -> tuple[Path, list[Frame]]:
    """The file in which its last records stand, and those."""
    path = journal.segment_path(journal.segments()[-1])
    return path, scan(path.read_bytes(), journal.seed, whole=True, most=10**6).frames


def flip(path: Path, payload: bytes) -> None:
    """A byte of a record, in place: its journal may be in use."""
    with path.open("r+b", buffering=0) as file:
        at = path.read_bytes().index(payload) + len(payload) // 2
        file.seek(at)
        file.write(bytes([payload[len(payload) // 2] ^ 0xFF]))


def damage(journal: JournalFiles) -> tuple[str, str, str]:
    """A byte each in the end of a call, the beginning of another, and both of a third, of the last that ended, which no
    writer has read yet: their ids."""
    path, frames = newest(journal)
    begun = {decode_intent(payload).request_id: payload for kind, _, payload in frames if kind == INTENT}
    ended = {decode_outcome(payload).request_id: payload for kind, _, payload in frames if kind == OUTCOME}
    of_end, of_beginning, of_both = [request_id for request_id in begun if request_id in ended][-3:]
    for payload in (ended[of_end], begun[of_beginning], begun[of_both], ended[of_both]):
        flip(path, payload)
    return of_end, of_beginning, of_both


async def told_once_and_acknowledged(gateway: Gateway) -> None:
    """Records that nothing can bring back are a difference until somebody who hears of them says so."""
    for arguments in ((), ("--fix",)):
        found = json.loads(await gateway.cli("reconcile", "--json", *arguments, check=False))
        by_name = {check["check"]: check for check in found["checks"]}
        assert "are lost" in by_name["journals"]["first"][0]["says"]
    assert list((gateway.data / "journal").glob("damage.jsonl"))


def kinds(gateway: Gateway, request_ids: Sequence[str]) -> list[list[str]]:
    return [[row["kind"] for row in gateway.rows("request_id = ?", request_id)] for request_id in request_ids]


async def test_a_frame_that_a_kill_has_torn_costs_nothing_else(upstream: BillingUpstream, tmp_path: Path) -> None:
    with running_gateway(tmp_path, configuration(upstream)) as gateway:
        who = await caller(gateway)
        journal = await killed_with_rows_in_the_journal(gateway, who)
        segment, frames = newest(journal)
        kind, sequence, payload = frames[-1]
        with segment.open("ab") as file:
            file.write(seal(kind, sequence + 1, payload, journal.seed)[:150])
        began = time.monotonic()
        await asyncio.to_thread(gateway.start)
        recovery = await in_the_ledger(gateway, who)
        print(f"{time.monotonic() - began:.1f} s with the start")
        await Books(upstream, [gateway], [who]).agree("torn journal", recovery_s=recovery)


async def test_flipped_bytes_in_a_dead_journal_cost_no_more_than_their_records(
    upstream: BillingUpstream, tmp_path: Path
) -> None:
    with running_gateway(tmp_path, configuration(upstream)) as gateway:
        who = await caller(gateway)
        hurt = damage(await killed_with_rows_in_the_journal(gateway, who))
        await asyncio.to_thread(gateway.start)
        recovery = await in_the_ledger(gateway, who)
        assert kinds(gateway, hurt) == [["orphan"], ["charge"], []]
        adopted = [line for line in gateway.log() if "adopted" in line["message"]]
        assert any(line.get("missing") == 4 for line in adopted), adopted
        assert await gateway.metric("aidock_journal_damage_total", kind="missing") == 4
        await told_once_and_acknowledged(gateway)
        books = Books(upstream, [gateway], [who])
        await books.agree("flipped journal bytes", recovery_s=recovery, damaged=hurt)


async def test_flipped_bytes_in_a_living_journal_cost_no_more_than_their_records(
    upstream: BillingUpstream, tmp_path: Path
) -> None:
    with running_gateway(tmp_path, configuration(upstream)) as gateway:
        who = await caller(gateway)
        async with load(who, [gateway.port], PLANS, callers=4):
            await asyncio.sleep(BEFORE_S)
            with locked(gateway):
                await asyncio.sleep(1)
                hurt = damage(journal_of(gateway))
            recovery = await in_the_ledger(gateway, who)
        assert kinds(gateway, hurt) == [["orphan"], ["charge"], []]
        assert await gateway.metric("aidock_journal_damage_total", kind="missing") == 4
        await told_once_and_acknowledged(gateway)
        books = Books(upstream, [gateway], [who])
        await books.agree("flipped bytes, journal in use", recovery_s=recovery, damaged=hurt)

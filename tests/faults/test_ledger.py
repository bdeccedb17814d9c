"""The ledger's database away, or its disk: calls go on while the journal can take them, and every row arrives."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path

import pytest

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
            with closing(sqlite3.connect(gateway.data / "aidock.db", timeout=10, isolation_level=None)) as lock:
                lock.execute("BEGIN EXCLUSIVE")
                await asyncio.sleep(LOCKED_S)
                lock.execute("ROLLBACK")
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


async def killed_with_rows_in_the_journal(gateway: Gateway, who: Caller) -> Path:
    """Kill it while its database is locked; the file in which what it noted last still stands."""
    async with load(who, [gateway.port], PLANS, callers=4):
        await asyncio.sleep(BEFORE_S)
        with closing(sqlite3.connect(gateway.data / "aidock.db", timeout=10, isolation_level=None)) as lock:
            lock.execute("BEGIN EXCLUSIVE")
            await asyncio.sleep(1)
            gateway.kill()
            lock.execute("ROLLBACK")
    (journal,) = (path for path in (gateway.data / "journal").iterdir() if path.is_dir())
    return max(path for path in journal.iterdir() if path.stat().st_size > 1000)


async def test_a_frame_that_a_kill_has_torn_costs_nothing_else(upstream: BillingUpstream, tmp_path: Path) -> None:
    with running_gateway(tmp_path, configuration(upstream)) as gateway:
        who = await caller(gateway)
        segment = await killed_with_rows_in_the_journal(gateway, who)
        written = segment.read_bytes()
        with segment.open("ab") as file:
            file.write(written[-300:-150])
        began = time.monotonic()
        await asyncio.to_thread(gateway.start)
        recovery = await in_the_ledger(gateway, who)
        print(f"{time.monotonic() - began:.1f} s with the start")
        await Books(upstream, [gateway], [who]).agree("torn journal", recovery_s=recovery)


async def test_a_journal_with_a_flipped_byte_loses_one_record_and_says_so(
    upstream: BillingUpstream, tmp_path: Path
) -> None:
    with running_gateway(tmp_path, configuration(upstream)) as gateway:
        who = await caller(gateway)
        segment = await killed_with_rows_in_the_journal(gateway, who)
        written = bytearray(segment.read_bytes())
        written[-len(written) // 8] ^= 0xFF
        segment.write_bytes(written)
        await asyncio.to_thread(gateway.start)
        await in_the_ledger(gateway, who)
        rows = {row["request_id"]: row for row in gateway.rows()}
        unlike = [seen for seen in who.seen if seen.whole and rows.get(seen.request_id, {}).get("kind") != "charge"]
        assert len(unlike) + len(upstream.book.keys() - rows.keys()) <= 2, "one record was damaged"
        adopted = [line for line in gateway.log() if "adopted" in line["message"]]
        assert any(line.get("damaged_bytes") for line in adopted), adopted

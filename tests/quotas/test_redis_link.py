"""The connection to a server: whom it greets, what it refuses, and what it does when the network does not help."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.core.ports import StoreUnavailable
from gateway.quotas.batcher import Batcher, Command, LinkBroken, Refused, Reply, StoreChanged
from gateway.quotas.link import RedisLink, StoreUnfit, pack
from tests.support.redis_server import RedisServer, needs_tls, redis_server
from tests.support.tcp_proxy import fault_proxy
from tests.support.until import until
from tests.upstream.certificates import Authority

PATIENT_S = 10.0
PASSWORD = "hunter2-hunter2"

_numbers = itertools.count()


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    """For tests that leave the server as it was."""
    with redis_server() as server:
        yield server


@asynccontextmanager
async def link_to(url: str, *, strict: bool = True) -> AsyncIterator[RedisLink]:
    link = RedisLink(url)
    try:
        await link.open(PATIENT_S, strict=strict)
        yield link
    finally:
        await link.close()


def echo(script: str = "return {ARGV[1], 1}") -> Command:
    tag = f"t{next(_numbers)}"
    return Command("peek", tag, (), pack("EVAL", script, 0, tag))


async def exchanged(
    link: RedisLink, within_s: float = PATIENT_S, script: str = "return {ARGV[1], 1}"
) -> Reply | Refused:
    (reply,) = await link.exchange([echo(script)], within_s)
    return reply


async def refusal(url: str, *, strict: bool = True) -> StoreUnavailable:
    """What opening a link raises; the password must not be in it."""
    with pytest.raises(StoreUnavailable) as refused:
        async with link_to(url, strict=strict):
            pass
    assert PASSWORD not in str(refused.value)
    return refused.value


# Greeting


async def test_the_time_at_opening_is_the_servers(shared: RedisServer) -> None:
    link = RedisLink(shared.url)
    assert await link.open(PATIENT_S) == pytest.approx(time.time(), abs=30)
    await link.close()


async def test_what_the_server_is_gets_known_at_opening_and_again_after_its_restart() -> None:
    with redis_server() as server:
        async with link_to(server.url) as link:
            first = link.info
            assert first.run_id
            assert first.role == "primary"
            assert (first.maxmemory, first.eviction_policy, first.evicted_keys) == (0, "noeviction", 0)
            server.crash()
            with pytest.raises(LinkBroken):
                await exchanged(link)
            server.start()
            with pytest.raises(StoreChanged):
                await exchanged(link)
            await exchanged(link)
            assert link.info.run_id not in (first.run_id, "")


async def test_a_refresh_asks_anew_over_the_connection_that_is_there(shared: RedisServer) -> None:
    async with (
        fault_proxy(shared.port) as proxy,
        link_to(f"redis://127.0.0.1:{proxy.port}/0") as link,
        Redis.from_url(shared.url) as other,
    ):
        assert (await link.refresh(PATIENT_S)).maxmemory == 0
        await other.config_set("maxmemory", "100mb")
        try:
            assert (await link.refresh(PATIENT_S)).maxmemory == 100 * 2**20
            assert link.info.maxmemory == 100 * 2**20
        finally:
            await other.config_set("maxmemory", "0")
        assert proxy.accepted == 1
        proxy.reset_all()
        with pytest.raises(LinkBroken):
            await link.refresh(PATIENT_S)
        await link.refresh(PATIENT_S)
        assert proxy.accepted == 2


async def test_a_socket_path_and_a_database_number_lead_there(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with redis_server(options={"unixsocket": str(path)}) as server:
        async with link_to(f"unix://{path}?db=3") as link:
            reply = await exchanged(link, script="redis.call('SET', 'here', '1') return {ARGV[1], 1}")
            assert isinstance(reply, list)
        async with Redis.from_url(server.url.replace("/0", "/3")) as other:
            assert await other.get("here") == b"1"


async def test_a_server_with_known_holes_is_warned_about_once(
    shared: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with link_to(shared.url) as link:
        wanted = [] if link.info.mended_in is None else [("WARNING", link.info.mended_in)]
        await link.close()
        await exchanged(link)
        await link.refresh(PATIENT_S)
    assert [(record.levelname, getattr(record, "mended_in", None)) for record in caplog.records] == wanted


# Replicas and eviction


async def test_a_replica_is_refused_with_a_remedy_and_taken_once_it_is_promoted(shared: RedisServer) -> None:
    with redis_server(replica_of=shared) as replica:
        refused = await refusal(replica.url)
        assert isinstance(refused, StoreUnfit)
        assert "is a replica" in str(refused)
        assert "redis+sentinel" in str(refused) or "sentinels" in str(refused)
        assert b"+OK" in replica.ask("REPLICAOF NO ONE")
        async with link_to(replica.url) as link:
            assert isinstance(await exchanged(link), list)


@pytest.mark.parametrize("script", ["redis.call('SET', 'a', '1') return {ARGV[1], 1}", "return {ARGV[1], 1}"])
async def test_a_server_that_is_demoted_breaks_the_link_and_is_refused_from_then_on(script: str) -> None:
    with redis_server() as server:
        async with link_to(server.url) as link:
            assert isinstance(await exchanged(link, script=script), list)
            assert b"+OK" in server.ask("REPLICAOF 127.0.0.1 1")
            with pytest.raises(LinkBroken, match="is a replica"):
                await exchanged(link, script=script) if "SET" in script else await link.refresh(PATIENT_S)
            with pytest.raises(LinkBroken, match="is a replica, which takes no counts"):
                await exchanged(link)
            assert b"+OK" in server.ask("REPLICAOF NO ONE")
            assert isinstance(await exchanged(link), list)


async def test_a_server_that_evicts_is_refused_at_the_start_with_a_remedy() -> None:
    with redis_server(options={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}) as server:
        refused = await refusal(server.url)
        assert isinstance(refused, StoreUnfit)
        assert "allkeys-lru" in str(refused)
        assert "set it to noeviction" in str(refused)
        server.ask("CONFIG SET maxmemory-policy noeviction")
        async with link_to(server.url):
            pass


async def test_a_server_that_evicts_later_is_an_error_told_once(caplog: pytest.LogCaptureFixture) -> None:
    def errors() -> int:
        return sum(record.levelno == logging.ERROR for record in caplog.records)

    with redis_server() as server:
        async with link_to(server.url) as link:
            server.ask("CONFIG SET maxmemory-policy volatile-lru")
            await link.refresh(PATIENT_S)
            assert errors() == 0
            server.ask("CONFIG SET maxmemory 100mb")
            for _ in range(3):
                await link.refresh(PATIENT_S)
                await link.close()
                await exchanged(link)
            assert errors() == 1
            server.ask("CONFIG SET maxmemory-policy noeviction")
            await link.refresh(PATIENT_S)
            server.ask("CONFIG SET maxmemory-policy volatile-lru")
            await link.refresh(PATIENT_S)
            assert errors() == 2
        async with link_to(server.url, strict=False):
            assert errors() == 3


# Logging in


async def test_a_wrong_or_missing_password_is_told_with_a_remedy_and_without_the_password() -> None:
    with redis_server(options={"requirepass": "right"}) as server:
        for url in (
            f"redis://127.0.0.1:{server.port}/0",
            f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0",
            f"redis://nobody:{PASSWORD}@127.0.0.1:{server.port}/0",
        ):
            refused = await refusal(url)
            assert isinstance(refused, StoreUnfit)
            assert "refuses the login; set username and password in storage.counters (REDIS_URL)" in str(refused)
        async with link_to(f"redis://:right@127.0.0.1:{server.port}/0"):
            pass


async def test_a_password_for_a_server_that_has_none_is_told(shared: RedisServer) -> None:
    assert "refuses the login" in str(await refusal(f"redis://:{PASSWORD}@127.0.0.1:{shared.port}/0"))


async def test_a_user_who_may_do_too_little_is_told_what_is_missing(tmp_path: Path) -> None:
    acl = tmp_path / "users.acl"
    acl.write_text(f"user default off\nuser half on >{PASSWORD} ~* -@all +info +time\nuser none on >{PASSWORD} -@all\n")
    with redis_server(options={"aclfile": str(acl)}) as server:
        for user, missing in (("none", "info"), ("half", "script")):
            refused = await refusal(f"redis://{user}:{PASSWORD}@127.0.0.1:{server.port}/0")
            assert isinstance(refused, StoreUnfit)
            assert missing in str(refused)


async def test_no_server_at_all_is_an_outage_and_no_misfit() -> None:
    with redis_server() as server:
        url = server.url
    refused = await refusal(url)
    assert not isinstance(refused, StoreUnfit)
    assert "cannot be reached" in str(refused)


# TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def secured(authority: Authority) -> Iterator[RedisServer]:
    needs_tls()
    with redis_server(tls=authority) as server:
        yield server


async def test_a_private_authority_is_trusted_when_it_is_named(secured: RedisServer, authority: Authority) -> None:
    async with link_to(secured.url) as link:
        assert isinstance(await exchanged(link), list)
    localhost = f"rediss://localhost:{secured.port}/0?ssl_ca_certs={authority.file}"
    assert "is not trusted" in str(await refusal(localhost))
    async with link_to(f"{localhost}&ssl_check_hostname=false"):
        pass
    async with link_to(f"rediss://localhost:{secured.port}/0?ssl_cert_reqs=none"):
        pass


async def test_an_authority_that_is_not_named_is_told_with_a_remedy(secured: RedisServer) -> None:
    refused = await refusal(f"rediss://127.0.0.1:{secured.port}/0")
    assert isinstance(refused, StoreUnfit)
    assert "name its authority with ssl_ca_certs" in str(refused)


async def test_tls_files_that_are_missing_or_no_certificates_are_told(secured: RedisServer, tmp_path: Path) -> None:
    absent, empty = tmp_path / "absent.pem", tmp_path / "empty.pem"
    empty.write_text("nothing")
    base = f"rediss://127.0.0.1:{secured.port}/0"
    assert f"ssl_ca_certs in storage.counters (REDIS_URL) names a file that is not there: {absent}" in str(
        await refusal(f"{base}?ssl_ca_certs={absent}")
    )
    assert "cannot be used" in str(await refusal(f"{base}?ssl_ca_certs={empty}"))


async def test_plain_and_secured_do_not_mix_and_do_not_hang(secured: RedisServer, shared: RedisServer) -> None:
    for url in (f"redis://127.0.0.1:{secured.port}/0", f"rediss://127.0.0.1:{shared.port}/0"):
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await RedisLink(url).open(0.5)


# A network that does not help


async def test_a_server_too_far_to_be_met_within_a_decision_is_met_while_nobody_waits(shared: RedisServer) -> None:
    async with fault_proxy(shared.port) as proxy, link_to(f"redis://127.0.0.1:{proxy.port}/1") as link:
        batcher = Batcher(link, 0.4)
        batcher.start()
        proxy.latency_s = 0.1
        proxy.reset_all()

        async def answered() -> bool:
            try:
                await batcher.call(echo())
            except StoreUnavailable:
                return False
            return True

        assert not await answered(), "greeting, database and command take three times 0.2 s"
        await until(answered)
        for _ in range(3):
            assert await answered()
        await batcher.close(PATIENT_S)


async def test_a_silent_server_is_given_up_within_the_deadline_and_the_connection_with_it(shared: RedisServer) -> None:
    async with fault_proxy(shared.port) as proxy, link_to(f"redis://127.0.0.1:{proxy.port}/0") as link:
        proxy.blackhole = True
        waiting = echo()
        waiting.reply = asyncio.get_running_loop().create_future()
        began = time.monotonic()
        for _ in range(2):  # on the connection that was there, and on a new one
            with pytest.raises(TimeoutError):
                await link.exchange([waiting], 0.1)
        assert time.monotonic() - began < 2
        proxy.blackhole = False
        assert isinstance(await exchanged(link), list)
        waiting.reply.cancel()


@pytest.mark.parametrize("fault", ["reset", "half a request", "half an answer", "half open"])
async def test_a_broken_connection_is_told_and_replaced(shared: RedisServer, fault: str) -> None:
    async with fault_proxy(shared.port) as proxy, link_to(f"redis://127.0.0.1:{proxy.port}/0") as link:
        match fault:
            case "reset":
                proxy.reset_all()
            case "half a request":
                proxy.cut_request_after = 20
            case "half an answer":
                proxy.cut_answer_after = 3
            case "half open":
                proxy.half_open()
        with pytest.raises((LinkBroken, TimeoutError)):
            await exchanged(link, 0.3)
        assert isinstance(await exchanged(link), list)
        assert proxy.accepted == 2


async def test_of_answers_lost_at_random_none_is_taken_for_another(shared: RedisServer) -> None:
    async def told(link: RedisLink, commands: Sequence[Command]) -> Sequence[Reply | Refused]:
        while True:
            try:
                return await link.exchange(commands, PATIENT_S)
            except LinkBroken:
                continue

    async with fault_proxy(shared.port, seed=3) as proxy, link_to(f"redis://127.0.0.1:{proxy.port}/0") as link:
        proxy.drop_reply = 0.2
        for _ in range(60):
            commands = [echo(), echo(), echo()]
            assert await told(link, commands) == [[command.tag.encode(), 1] for command in commands]
        assert proxy.lost > 5

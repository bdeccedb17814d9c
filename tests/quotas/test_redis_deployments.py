"""Redis as companies run it: watched by sentinels, over TLS, with a user who may do little."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from gateway import paths
from gateway.cli._preflight import CannotStart, check_counters
from gateway.core.limits import Actual, Base, Claim, Denied, Granted, Limit
from gateway.core.ports import StoreUnavailable
from gateway.idempotency.redis import RedisAnswers
from gateway.idempotency.seam import Answer
from gateway.quotas import redis as redis_store
from gateway.quotas.link import RedisLink, StoreUnfit
from gateway.quotas.pool import connection_pool
from gateway.quotas.redis import RedisStore
from gateway.quotas.windows import Calendar
from tests.quotas.caller import Caller, opened
from tests.settings.configs import compiled
from tests.support.redis_server import SERVICE, RedisServer, Sentinel, needs_tls, redis_server, sentinels
from tests.support.tcp_proxy import fault_proxy
from tests.support.until import until
from tests.upstream.certificates import Authority

UTC = ZoneInfo("UTC")
TOKENS = Limit("user", "ada", "tokens", "month", 10**9)
CALLS = Limit("user", "ada", "parallel", "none", 1000)
OUTAGE_S = 20.0
"""How long a failover may take on a busy machine. It takes about three."""
ROOT = Path(__file__).parents[2]
ACL = paths.config_file("examples/redis/users.acl")
PASSWORD = "change-me"


@asynccontextmanager
async def store_at(url: str, decision_s: float = 5.0) -> AsyncIterator[Caller]:
    store = RedisStore(url, Calendar(UTC), decision_s=decision_s)
    try:
        yield Caller(await opened(store))
    finally:
        await store.close()


async def granted_again(caller: Caller) -> float:
    """The seconds until a reservation is granted; until then they fail as an outage does and in no other way. A server
    that may have forgotten something is accepted, as the recount does once it has counted."""
    began = time.monotonic()
    while time.monotonic() < began + OUTAGE_S:
        try:
            if await caller.store.pulse() == "suspect":
                assert await caller.store.begin_rebuild()
                assert await caller.store.end_rebuild()
            answer = await caller.reserve(uuid.uuid4().hex, [Claim(CALLS, 1)])
        except StoreUnavailable:
            await asyncio.sleep(0.02)
        else:
            assert isinstance(answer, Granted)
            return time.monotonic() - began
    raise AssertionError(f"no reservation within {OUTAGE_S} s")


async def suspected(caller: Caller) -> bool:
    """Whether the server that answers next is one that may have forgotten something; until then nothing is granted."""
    while True:
        with contextlib.suppress(StoreUnavailable):
            return await caller.store.pulse() == "suspect"
        with pytest.raises(StoreUnavailable):
            await caller.reserve(uuid.uuid4().hex, [Claim(CALLS, 1)])
        await asyncio.sleep(0.02)


# Sentinels


class Watched:
    """A primary, a replica and three sentinels, all of which know each other."""

    def __init__(self, servers: tuple[RedisServer, RedisServer], watchers: list[Sentinel]) -> None:
        self.servers = servers
        self.watchers = watchers
        self.url = f"redis+sentinel://{','.join(f'127.0.0.1:{w.port}' for w in watchers)}/{SERVICE}/0"

    async def healthy(self) -> None:
        await until(lambda: all(watcher.knows(1, len(self.watchers)) for watcher in self.watchers), OUTAGE_S)

    def roles(self) -> tuple[RedisServer, RedisServer]:
        """The primary as the sentinels know it, and the replica."""
        told = self.watchers[0].ask(f"SENTINEL get-master-addr-by-name {SERVICE}")
        first, second = self.servers
        return (first, second) if str(first.port).encode() in told else (second, first)


@pytest.fixture
def watched() -> Iterator[Watched]:
    with redis_server() as first, redis_server(replica_of=first) as second, sentinels(first) as watchers:
        yield Watched((first, second), list(watchers))


async def test_a_dead_primary_is_replaced_by_the_replica_that_the_sentinels_promote(watched: Watched) -> None:
    await watched.healthy()
    async with store_at(watched.url) as caller:
        await caller.reserve("a", [Claim(TOKENS, 100), Claim(CALLS, 1)])
        primary, replica = watched.roles()
        assert primary.ask("WAIT 1 5000").startswith(b":1")
        primary.crash()
        caller.settle("a", Actual(tokens=40))
        assert await suspected(caller), "what was not yet replicated is lost"
        assert await granted_again(caller) < OUTAGE_S
        assert await caller.used(TOKENS) == [40], "what was settled during the outage has arrived"

        primary.start()
        assert b"+OK" in primary.ask(f"REPLICAOF 127.0.0.1 {replica.port}")
        with pytest.raises(StoreUnfit, match="is a replica"):
            async with store_at(primary.url):
                pass


async def test_a_primary_that_is_replaced_while_it_serves_is_left_before_it_knows(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "LOOK_S", 0.05)
    await watched.healthy()
    primary, replica = watched.roles()
    async with store_at(watched.url) as caller, store_at(primary.url) as stale:
        await caller.reserve("a", [Claim(TOKENS, 100)])
        assert primary.ask("WAIT 1 5000").startswith(b":1")
        assert b"+OK" in watched.watchers[1].ask(f"SENTINEL FAILOVER {SERVICE}")

        async def moved() -> bool:
            with contextlib.suppress(StoreUnavailable):
                await caller.store.pulse()
                rid = uuid.uuid4().hex
                await caller.reserve(rid, [Claim(CALLS, 1)])
                return replica.ask(f"EXISTS {{aidock}}:call:{rid}").startswith(b":1")
            return False

        await until(moved, OUTAGE_S)
        assert await caller.used(TOKENS) == [100]

        primary.ask(f"REPLICAOF 127.0.0.1 {replica.port}")  # the sentinels take ten seconds more
        for _ in range(5):
            with pytest.raises(StoreUnavailable):
                await stale.reserve(uuid.uuid4().hex, [Claim(CALLS, 1)])
        with pytest.raises(StoreUnavailable):
            await stale.store.pulse()


@asynccontextmanager
async def saying(port: int) -> AsyncIterator[int]:
    """A sentinel that says only one thing: the primary listens on this port of 127.0.0.1. Its own port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(port)), port))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


async def opens(url: str, within_s: float = 5.0) -> None:
    link = RedisLink(url)
    try:
        await link.open(within_s)
    finally:
        await link.close()


async def test_sentinels_that_are_dead_or_silent_are_passed_over(shared: RedisServer) -> None:
    with sentinels(shared, 1) as (real,):
        async with fault_proxy(real.port) as silent:
            silent.blackhole = True
            dead = "127.0.0.1:1"
            await opens(f"redis+sentinel://{dead},127.0.0.1:{silent.port},127.0.0.1:{real.port}/{SERVICE}")
            with pytest.raises(StoreUnavailable, match="no sentinel answers"):
                await opens(f"redis+sentinel://{dead},127.0.0.1:{silent.port}/{SERVICE}", 1.0)


async def test_clients_of_the_library_are_led_by_sentinels_too(shared: RedisServer) -> None:
    with sentinels(shared, 1) as (real,):
        async with fault_proxy(real.port) as silent:
            silent.blackhole = True
            url = f"redis+sentinel://127.0.0.1:{silent.port},127.0.0.1:{real.port}/{SERVICE}/3"
            async with Redis.from_pool(connection_pool(url, 2, 5.0)) as client:
                assert await asyncio.gather(*(client.incr("calls") for _ in range(9)))
            async with Redis.from_pool(connection_pool(shared.url.replace("/0", "/3"), 2, 5.0)) as client:
                assert await client.get("calls") == b"9"


async def test_a_sentinel_behind_the_times_is_not_asked_first_again(shared: RedisServer) -> None:
    with redis_server(replica_of=shared) as replica:
        async with saying(replica.port) as behind, saying(shared.port) as right:
            link = RedisLink(f"redis+sentinel://127.0.0.1:{behind},127.0.0.1:{right}/{SERVICE}")
            with pytest.raises(StoreUnfit, match="is a replica"):
                await link.open(5.0)
            for _ in range(3):
                await link.open(5.0)
                await link.close()


async def test_a_service_that_no_sentinel_watches_is_told(shared: RedisServer) -> None:
    with sentinels(shared, 1) as (real,), pytest.raises(StoreUnfit, match="do not watch the service"):
        await opens(f"redis+sentinel://127.0.0.1:{real.port}/other")


async def test_sentinels_have_a_login_of_their_own(shared: RedisServer) -> None:
    with sentinels(shared, 1, options={"requirepass": "watchword"}) as (real,):
        url = f"redis+sentinel://127.0.0.1:{real.port}/{SERVICE}"
        await opens(f"{url}?sentinel_password=watchword")
        for wrong in (url, f"{url}?sentinel_password=hunter2"):
            with pytest.raises(StoreUnfit, match="set sentinel_username and sentinel_password") as refused:
                await opens(wrong)
            assert "hunter2" not in str(refused.value)


async def test_rediss_secures_the_sentinels_as_well(tmp_path: Path) -> None:
    needs_tls()
    authority = Authority(tmp_path)
    with redis_server(tls=authority) as server, sentinels(server, 1, tls=authority) as (real,):
        url = f"rediss+sentinel://127.0.0.1:{real.port}/{SERVICE}"
        async with store_at(f"{url}?ssl_ca_certs={authority.file}") as caller:
            assert await granted_again(caller) < OUTAGE_S
        with pytest.raises(StoreUnfit, match="a sentinel shows a certificate that is not trusted"):
            await opens(url)


# A gateway that starts


async def test_what_keeps_a_gateway_from_starting_is_told_with_the_remedy_that_fits(tmp_path: Path) -> None:
    file = tmp_path / "aidock.yaml"
    file.write_text("storage: {counters: '${REDIS_URL}'}\n")

    async def told(url: str) -> str:
        with pytest.raises(CannotStart) as refused:
            await check_counters(compiled(file, {"REDIS_URL": url}))
        return str(refused.value)

    with redis_server(options={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}) as evicting:
        assert (await told(evicting.url)).endswith("its maxmemory-policy is allkeys-lru; set it to noeviction.")
    assert "Start the server that storage.counters (REDIS_URL) names" in await told(evicting.url)


# A user who may do little


@pytest.fixture(scope="module")
def fenced() -> Iterator[RedisServer]:
    with redis_server(options={"aclfile": str(ACL)}) as server:
        yield server


def as_aidock(server: RedisServer) -> str:
    return f"redis://aidock:{PASSWORD}@127.0.0.1:{server.port}/0"


def test_the_acl_has_the_commands_of_our_scripts_and_of_the_link_and_no_other() -> None:
    called = re.compile(rb"redis\.p?call\('(\w+)'")
    scripts = b"".join(path.read_bytes() for path in ROOT.glob("gateway/**/*.lua"))
    assert not re.search(rb"redis\.p?call\(", called.sub(b"", scripts)), "a command whose name is not written out"
    allowed = set(re.findall(r"\+(\S+)", ACL.read_text()))
    commands = {name.decode().lower() for name in called.findall(scripts)}
    assert allowed == commands | {"ping", "info", "script|load", "evalsha", "eval"}


async def test_a_gateway_does_all_it_has_to_as_that_user(fenced: RedisServer) -> None:
    async with store_at(as_aidock(fenced)) as caller:
        store = caller.store
        assert await store.pulse() == "open"
        assert await store.lead(10.0)
        assert isinstance(await caller.reserve("a", [Claim(TOKENS, 100), Claim(CALLS, 1)]), Granted)
        assert isinstance(await caller.reserve("b", [Claim(TOKENS, 10**9)]), Denied)
        assert await store.renew(["a", "never"], 60.0) == ["never"]
        await store.hold("c", [Claim(TOKENS, 5), Claim(CALLS, 1)], 60.0, store.now())
        await store.hold("d", [Claim(CALLS, 1)], 0.001, store.now())
        caller.settle("a", Actual(tokens=40))
        assert [level.used for level in await caller.peek([TOKENS])] == [45]
        await store.cut([TOKENS], 0.0)
        store.settle("e", [Claim(TOKENS, 1)], store.now() - 5.0, Actual(tokens=7))
        assert list(await store.late()) == ["e"]
        (count,) = await store.audit([TOKENS])
        await store.rebase([Base(count, 40)], [], await store.turn())
        await store.rebase([Base(count, 47)], ["e"], await store.turn())
        assert await caller.settled(TOKENS) == [47]
    async with Redis.from_url(as_aidock(fenced)) as client:
        await client.delete("{aidock}:marker")
    async with store_at(as_aidock(fenced)) as caller:
        assert await caller.store.pulse() == "open", "lost, rebuilt, and open again"


async def test_answers_are_kept_as_that_user_too(fenced: RedisServer) -> None:
    answers = RedisAnswers(as_aidock(fenced), renew_s=0.01, decision_s=5.0)
    await answers.start()
    assert await answers.claim("a", "body", "one") == "granted"
    assert await answers.claim("b", "body", "one") == "granted"
    await asyncio.sleep(0.1)  # several renewals
    await answers.free("b", "one")
    answer = Answer(200, [(b"content-type", b"text/plain")], b"kept")
    await answers.keep("a", "body", "one", answer, 60)
    assert await answers.claim("a", "body", "two") == answer
    await answers.close()


REFUSED = {
    "settings": "CONFIG GET maxmemory",
    "other settings": "CONFIG SET maxmemory 1",
    "all keys": "KEYS *",
    "some keys": "SCAN 0",
    "emptying it": "FLUSHALL",
    "emptying a database": "FLUSHDB",
    "another's key": "GET other",
    "another's key, written": "SET {other}:used 1",
    "a name that only begins like ours": "SET {aidock} 1",
    "other clients": "CLIENT KILL TYPE normal",
    "its users": "ACL LIST",
    "other scripts' end": "SCRIPT FLUSH",
    "its end": "SHUTDOWN NOSAVE",
    "its primary": "REPLICAOF 127.0.0.1 1",
    "its traffic": "MONITOR",
    "another database": "SELECT 1",
    "messages": "PUBLISH a b",
    "functions": "FUNCTION LIST",
}


@pytest.mark.parametrize("command", REFUSED.values(), ids=REFUSED.keys())
async def test_that_user_may_do_nothing_else(fenced: RedisServer, command: str) -> None:
    async with Redis.from_url(as_aidock(fenced)) as client:
        assert await client.ping()
        with pytest.raises(NoPermissionError):
            await client.execute_command(*command.split(" "))


@pytest.mark.parametrize("call", ["'GET', 'other'", "'SET', 'other', '1'", "'FLUSHALL'", "'KEYS', '*'"])
async def test_that_users_scripts_may_do_nothing_else_either(fenced: RedisServer, call: str) -> None:
    async with Redis.from_url(as_aidock(fenced)) as client:
        assert await client.eval("return redis.call('SET', KEYS[1], '1', 'EX', '60')", 1, "{aidock}:x")
        with pytest.raises(ResponseError, match=r"can't run this|can't access at least one|ACL failure in script"):
            await client.eval(f"return redis.call({call})", 0)


async def test_who_is_not_that_user_gets_in_nowhere(fenced: RedisServer) -> None:
    for url in (fenced.url, f"redis://:{PASSWORD}@127.0.0.1:{fenced.port}/0"):
        with pytest.raises(StoreUnfit, match="refuses the login"):
            await opens(url)

"""The server's life: it starts, drains, reloads and ends, in processes of its own."""

from __future__ import annotations

import asyncio
import os
import pickle
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.guard import GuardLimits, GuardProtocol
from gateway.server import AddressInUse, CannotListen, Drainable, ServerSettings, listen, server_config
from tests.support.processes import free_port
from tests.support.raw_app import StoryApp
from tests.support.raw_http import Guarded, Peer, Reply, eventually

ROOT = Path(__file__).parent.parent
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Program:
    """`raw_app` as a process, and what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.said: list[str] = []
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(line.decode().strip())

    def count(self, word: str) -> int:
        return sum(said.split()[0] == word for said in self.said)

    async def heard(self, word: str, times: int = 1) -> None:
        await eventually(lambda: self.count(word) >= times, within=30)

    def pids(self) -> list[int]:
        return [int(said.split()[1]) for said in self.said if said.startswith("started ")]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def code(self, within: float = 20) -> int:
        code = await asyncio.wait_for(self.process.wait(), within)
        await asyncio.wait_for(self._listening, within)
        return code

    async def connect(self) -> Peer:
        return await Guarded(self.port, None).connect()  # type: ignore[arg-type]

    async def ask(self, request: bytes = GET) -> Reply:
        return await Guarded(self.port, None).ask(request)  # type: ignore[arg-type]

    async def begin(self, path: bytes) -> Peer:
        """A request whose response has begun."""
        peer = await self.connect()
        await peer.send(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
        await peer.until(b"\r\n\r\n")
        return peer


@asynccontextmanager
async def program(workers: int = 1, *, ready: bool = True, **settings: str) -> AsyncIterator[Program]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.raw_app",
        cwd=ROOT,
        env={
            **os.environ,
            "RAW_APP_PORT": str(port),
            "RAW_APP_WORKERS": str(workers),
            **{f"RAW_APP_{name}": value for name, value in settings.items()},
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    running = Program(process, port)
    try:
        if ready:
            await running.heard("ready")
            assert running.count("started") == workers
            running.said.remove("ready")
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await running.code()


async def test_the_first_signal_drains_and_loses_nothing() -> None:
    async with program(DRAIN="10", NOTICE="0.5") as server:
        stream = await server.begin(b"/stream?2")
        idle = await server.connect()
        await idle.send(GET)
        await idle.reply()
        server.signal(signal.SIGTERM)
        await server.heard("begin_drain")
        assert (await server.ask()).status == 503, "not ready, but still listening"
        assert await idle.rest() == b"", "idle connections are closed"
        with pytest.raises(ConnectionRefusedError):
            await server.connect()
        assert (await stream.rest()).endswith(b"%d\r\n0\r\n\r\n" % server.pids()[0]), "the stream finished"
        assert await server.code() == 0
        assert server.said[1:] == ["begin_drain", "shutdown", "settled"]
        stream.close()
        idle.close()


async def test_what_outlives_the_drain_is_ended_by_the_application_and_settled() -> None:
    async with program(DRAIN="0.3", NOTICE="0.1") as server:
        stream = await server.begin(b"/stream?60")
        server.signal(signal.SIGINT)
        assert (await stream.rest()).endswith(b"event: error\n\n\r\n0\r\n\r\n")
        assert await server.code() == 0
        assert server.said[1:] == ["begin_drain", "end_calls", "shutdown", "settled"]
        stream.close()


async def test_what_even_the_application_cannot_end_is_cut_and_the_lifespan_still_shut_down() -> None:
    async with program(DRAIN="0.2", NOTICE="0") as server:
        stuck = await server.begin(b"/stuck")
        server.signal(signal.SIGTERM)
        assert not (await stuck.rest()).endswith(b"0\r\n\r\n")
        assert await server.code() == 0
        assert server.said[1:] == ["begin_drain", "end_calls", "shutdown", "settled"]
        stuck.close()


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_second_signal_ends_at_once(workers: int) -> None:
    async with program(workers, DRAIN="30") as server:
        stream = await server.begin(b"/stream?60")
        server.signal(signal.SIGTERM)
        await server.heard("begin_drain", workers)
        started = time.monotonic()
        server.signal(signal.SIGTERM)
        assert await server.code() == 1
        assert time.monotonic() - started < 2
        assert "shutdown" not in server.said
        await eventually(lambda: not any(alive(pid) for pid in server.pids()))
        stream.close()


async def test_limits_reach_the_workers_and_all_of_them_drain() -> None:
    async with program(2, BODY="10", NOTICE="0.1") as server:
        post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world"
        assert (await server.ask(post)).status == 413
        stream = await server.begin(b"/stream?1")
        server.signal(signal.SIGTERM)
        assert (await stream.rest()).endswith(b"\r\n0\r\n\r\n")
        assert await server.code() == 0
        assert (server.count("begin_drain"), server.count("settled"), server.count("end_calls")) == (2, 2, 0)
        stream.close()


async def test_sighup_reaches_every_worker_and_replaces_none() -> None:
    async with program(2) as server:
        stream = await server.begin(b"/stream?1")
        server.signal(signal.SIGHUP)
        await server.heard("reload", 2)
        assert {int(said.split()[1]) for said in server.said if said.startswith("reload")} == set(server.pids())
        await stream.until(b"\r\n0\r\n\r\n")
        assert len(server.pids()) == 2
        stream.close()


async def test_a_dead_worker_is_replaced() -> None:
    async with program(2) as server:
        victim = server.pids()[0]
        os.kill(victim, signal.SIGKILL)
        await server.heard("started", 3)
        assert len(set(server.pids())) == 3
        assert int((await server.ask()).body) != victim


async def test_workers_do_not_outlive_their_supervisor() -> None:
    async with program(2, NOTICE="0", DRAIN="1") as server:
        server.signal(signal.SIGKILL)
        await server.heard("settled", 2)
        await eventually(lambda: not any(alive(pid) for pid in server.pids()))


@pytest.mark.parametrize("workers", [1, 2])
async def test_an_application_that_cannot_start_ends_the_program(workers: int) -> None:
    async with program(workers, ready=False, FAILS="1") as server:
        assert await server.code() == 3


async def test_running_out_of_descriptors_costs_connections_not_the_process() -> None:
    async with program() as server:
        pid = server.pids()[0]
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (40, 40))
        stream = await server.begin(b"/stream?2")
        peers = [await server.connect() for _ in range(60)]
        await asyncio.sleep(0.3)
        assert alive(pid)
        for peer in peers:
            peer.close()
        await stream.until(b"\r\n0\r\n\r\n")
        stream.close()
        assert (await asyncio.wait_for(server.ask(), 5)).status == 200


async def test_a_port_in_use_is_named_with_a_remedy() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=rf"Port {port} .* --port"):
            listen("127.0.0.1", port)
    for host in ("203.0.113.7", "no such host"):
        with pytest.raises(CannotListen):
            listen(host, 0)


async def test_the_listener_is_ready_when_it_is_returned() -> None:
    for host in ("127.0.0.1", "localhost", ""):
        with listen(host, 0) as listener:
            assert listener.get_inheritable()
            socket.create_connection(("127.0.0.1", listener.getsockname()[1])).close()


def test_the_configuration_travels_to_workers_and_offers_only_the_guard() -> None:
    settings = ServerSettings(limits=GuardLimits(max_body_bytes=7))
    config = pickle.loads(pickle.dumps(server_config(settings, "tests.support.raw_app:create")))
    config.load()
    assert config.http_protocol_class.func is GuardProtocol
    assert config.http_protocol_class.keywords == {"limits": settings.limits}
    assert config.ws_protocol_class is None
    assert isinstance(config.loaded_app, StoryApp)
    assert isinstance(config.loaded_app, Drainable)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except FileNotFoundError:
        return False
    return state != "Z"

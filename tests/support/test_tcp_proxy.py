"""The faults of the proxy that other tests lean on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.tcp_proxy import FaultProxy, fault_proxy
from tests.support.until import until


class Echo:
    """A server that sends back what it gets, and keeps a copy."""

    def __init__(self) -> None:
        self.heard = b""
        self.gone = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65_536):
                self.heard += chunk
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            self.gone += 1
            writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Echo, FaultProxy]]:
    server = Echo()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with fault_proxy(listener.sockets[0].getsockname()[1], seed=5) as proxy:
        yield server, proxy
    listener.close()


@asynccontextmanager
async def client(proxy: FaultProxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What still comes before the end, however it ends."""
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        return b""


async def silent(reader: asyncio.StreamReader) -> bool:
    try:
        await asyncio.wait_for(reader.read(1), 0.1)
    except TimeoutError:
        return True
    return False


async def test_latency_and_throttle_slow_both_ways(echo: tuple[Echo, FaultProxy]) -> None:
    _, proxy = echo
    async with client(proxy) as (reader, writer):
        proxy.latency_s = 0.05
        began = time.monotonic()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        assert time.monotonic() - began >= 0.1
        proxy.latency_s, proxy.bytes_per_s = 0.0, 10_000
        began = time.monotonic()
        writer.write(b"y" * 2_000)
        await reader.readexactly(2_000)
        assert time.monotonic() - began >= 0.2


async def test_a_blackhole_holds_what_stands_and_what_comes_until_it_is_over(echo: tuple[Echo, FaultProxy]) -> None:
    server, proxy = echo
    async with client(proxy) as (reader, writer):
        writer.write(b"a")
        await reader.readexactly(1)
        proxy.blackhole = True
        async with client(proxy) as (late_reader, late_writer):
            writer.write(b"b")
            late_writer.write(b"c")
            assert await silent(reader)
            assert await silent(late_reader)
            assert server.heard == b"a"
            proxy.blackhole = False
            assert await reader.readexactly(1) == b"b"
            assert await late_reader.readexactly(1) == b"c"


async def test_a_lost_answer_has_reached_the_server(echo: tuple[Echo, FaultProxy]) -> None:
    server, proxy = echo
    proxy.cut, proxy.swallow = 1, 1
    async with client(proxy) as (reader, writer):
        writer.write(b"a")
        assert await silent(reader)
        writer.write(b"b")
        assert await ended(reader) == b""
    assert server.heard == b"ab"
    assert (proxy.lost, proxy.cut, proxy.swallow) == (2, 0, 0)


async def test_a_chance_loses_its_share_of_answers(echo: tuple[Echo, FaultProxy]) -> None:
    server, proxy = echo
    proxy.drop_reply = 0.5
    kept = 0
    for _ in range(40):
        async with client(proxy) as (reader, writer):
            writer.write(b"a")
            kept += await ended_or_answered(reader)
    assert server.heard == b"a" * 40
    assert kept + proxy.lost == 40
    assert 10 <= proxy.lost <= 30


async def ended_or_answered(reader: asyncio.StreamReader) -> bool:
    return await asyncio.wait_for(reader.read(1), 10) == b"a"


async def test_a_connection_is_cut_after_so_many_bytes_either_way(echo: tuple[Echo, FaultProxy]) -> None:
    server, proxy = echo
    proxy.cut_request_after = 3
    async with client(proxy) as (reader, writer):
        writer.write(b"abcdef")
        await ended(reader)
    await until(lambda: server.gone == 1)
    assert server.heard == b"abc"
    proxy.cut_answer_after = 2
    async with client(proxy) as (reader, writer):
        writer.write(b"ghij")
        assert await ended(reader) == b"gh"
    assert (proxy.cut_request_after, proxy.cut_answer_after) == (None, None)


async def test_a_marker_is_found_across_chunks_and_nothing_behind_it_passes(echo: tuple[Echo, FaultProxy]) -> None:
    server, proxy = echo
    proxy.cut_after_marker = b"COMMIT"
    async with client(proxy) as (reader, writer):
        writer.write(b"begin; COM")
        await reader.readexactly(10)
        writer.write(b"MIT; more")
        await ended(reader)
    await until(lambda: server.gone == 1)
    assert server.heard == b"begin; COMMIT"
    async with client(proxy) as (reader, writer):
        writer.write(b"COMMIT")
        assert await reader.readexactly(6) == b"COMMIT"


async def test_half_open_is_told_to_the_server_alone(echo: tuple[Echo, FaultProxy]) -> None:
    server, proxy = echo
    async with client(proxy) as (reader, writer):
        writer.write(b"a")
        await reader.readexactly(1)
        proxy.half_open()
        await until(lambda: server.gone == 1)
        writer.write(b"b")
        assert await silent(reader)
        assert server.heard == b"a"
    await until(lambda: proxy.connections == 0)


async def test_a_reset_and_a_refusal_are_told_to_the_client(echo: tuple[Echo, FaultProxy]) -> None:
    server, proxy = echo
    async with client(proxy) as (reader, writer):
        writer.write(b"a")
        await reader.readexactly(1)
        assert proxy.connections == 1
        proxy.reset_all()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        await until(lambda: server.gone == 1)
    proxy.refusing = True
    async with client(proxy) as (reader, _):
        assert await ended(reader) == b""
    assert proxy.accepted == 2

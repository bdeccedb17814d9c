"""Callers that leave: one at a time, in storms, and through `close`."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gateway.core.upstream import Origin, UpstreamFailure
from gateway.upstream.pool import PoolLimits
from gateway.upstream.transport import HttpTransport
from tests.support.misbehaving import Expect, Misbehaving, Send, Serve, Stall, chunk, head, ok
from tests.upstream.calls import fetch, post, until


class ByTarget:
    """Answers `/fast` at once, `/slow` never, `/stream` with a beginning."""

    async def play(self, peer):
        while True:
            request = await peer.receive()
            if b" /fast " in request:
                await peer.send(ok())
            elif b" /stream " in request:
                await peer.send(head(chunked=True) + chunk(b"data: x\n\n"))


async def call(transport, origin, target):
    return await fetch(transport, post(origin, target=target))


@pytest.mark.parametrize("target", [b"/slow", b"/stream"])
@pytest.mark.parametrize("cap", [1000, 20], ids=["with room", "at the cap"])
async def test_after_a_storm_of_cancelled_calls_fresh_calls_work(target, cap):
    transport = HttpTransport(limits=PoolLimits(connections=cap))
    async with Misbehaving([ByTarget()]) as upstream:
        await asyncio.gather(*(call(transport, upstream.origin, b"/fast") for _ in range(10)))
        for leave_after in (0, 0.001, 0.05):
            storm = [asyncio.create_task(call(transport, upstream.origin, target)) for _ in range(170)]
            await asyncio.sleep(leave_after)
            for task in storm:
                task.cancel()
            results = await asyncio.gather(*storm, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
            await until(lambda: transport.connections()[0] == 0)
        fresh = await asyncio.gather(*(call(transport, upstream.origin, b"/fast") for _ in range(20)))
        assert [status for status, _ in fresh] == [200] * 20
        assert transport.connections()[0] == 0
        transport.close()


async def test_the_upstream_sees_a_cancelled_call_leave_at_once(transport):
    left = asyncio.Event()

    class NoticeLeaving:
        async def play(self, peer):
            await peer.receive()
            await peer.send(head(chunked=True) + chunk(b"x"))
            await Stall().play(peer)
            left.set()

    async with Misbehaving([NoticeLeaving()]) as upstream:
        task = asyncio.create_task(fetch(transport, post(upstream.origin)))
        await until(lambda: upstream.requests != [])
        task.cancel()
        await asyncio.wait_for(left.wait(), 5)
        with pytest.raises(asyncio.CancelledError):
            await task


async def aborted(pending):
    with pytest.raises(UpstreamFailure) as caught:
        await asyncio.wait_for(pending, 5)
    return caught.value.kind == "aborted"


async def test_close_ends_a_start_that_waits_for_the_head(transport):
    async with Misbehaving([Expect(), Stall()]) as upstream:
        exchange = transport.exchange(post(upstream.origin))
        starting = asyncio.create_task(exchange.start())
        await until(lambda: upstream.requests != [])
        exchange.close()
        exchange.close()
        assert await aborted(starting)
        assert transport.connections() == (0, 0)


async def test_close_ends_a_read_that_waits_for_more(transport):
    async with Misbehaving([Expect(), Send(head(length=5)), Stall()]) as upstream:
        exchange = transport.exchange(post(upstream.origin))
        await exchange.start()
        reading = asyncio.create_task(exchange.read())
        await asyncio.sleep(0.01)
        exchange.close()
        assert await aborted(reading)
        assert await aborted(exchange.read())
        assert transport.connections() == (0, 0)


async def test_close_ends_a_start_that_is_still_connecting(transport):
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        exchange = transport.exchange(post(Origin("http", "127.0.0.1", full.getsockname()[1]), connect=60))
        starting = asyncio.create_task(exchange.start())
        await asyncio.sleep(0.05)
        exchange.close()
        assert await aborted(starting)


async def test_close_ends_a_start_that_waits_for_room():
    transport = HttpTransport(limits=PoolLimits(connections=1))
    async with Misbehaving([Expect(), Stall()], [Serve(ok())]) as upstream:
        first, second = transport.exchange(post(upstream.origin)), transport.exchange(post(upstream.origin))
        starts = [asyncio.create_task(first.start()), asyncio.create_task(second.start())]
        await until(lambda: upstream.requests != [])
        second.close()
        assert await aborted(starts[1])
        first.close()
        assert await aborted(starts[0])
        assert (await fetch(transport, post(upstream.origin)))[0] == 200
        transport.close()


async def test_close_before_start_sends_nothing(transport):
    async with Misbehaving([Serve(ok())]) as upstream:
        exchange = transport.exchange(post(upstream.origin))
        exchange.close()
        assert await aborted(exchange.start())
        assert upstream.connections == 0


async def test_close_at_the_very_moment_the_connection_is_made_leaks_nothing(transport):
    async with Misbehaving([Serve(ok())]) as upstream:
        for turns in range(12):
            exchange = transport.exchange(post(upstream.origin))
            starting = asyncio.create_task(exchange.start())
            for _ in range(turns):
                await asyncio.sleep(0)
            exchange.close()
            (result,) = await asyncio.gather(starting, return_exceptions=True)
            assert result is None or (isinstance(result, UpstreamFailure) and result.kind == "aborted")
            await until(lambda: transport.connections()[0] == 0)
        assert (await fetch(transport, post(upstream.origin)))[0] == 200


async def test_close_during_an_upload_stops_it(transport):
    class ReadNothing:
        async def play(self, peer):
            peer.writer.transport.pause_reading()
            await asyncio.sleep(60)

    async with Misbehaving([ReadNothing()]) as upstream:
        exchange = transport.exchange(post(upstream.origin, b"x" * 30_000_000))
        starting = asyncio.create_task(exchange.start())
        await until(lambda: transport.connections() == (1, 0))
        exchange.close()
        assert await aborted(starting)
        assert transport.connections() == (0, 0)

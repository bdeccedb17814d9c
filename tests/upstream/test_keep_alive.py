"""The pool: reuse, room, age, and the race with an upstream that closes."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from gateway.core.upstream import Origin, UpstreamFailure
from gateway.upstream.connection import Connection
from gateway.upstream.pool import PoolLimits
from gateway.upstream.transport import HttpTransport
from tests.support.misbehaving import Expect, Misbehaving, Reset, Send, Serve, Stall, Wait, head, ok
from tests.upstream.calls import body_of, fetch, post, until


async def test_calls_in_a_row_share_a_connection(transport):
    async with Misbehaving([Serve(ok())]) as upstream:
        for _ in range(5):
            await fetch(transport, post(upstream.origin))
        assert upstream.connections == 1
        assert transport.connections() == (0, 1)


async def test_the_connection_used_last_is_used_next(transport):
    class Numbered:
        count = 0

        async def play(self, peer):
            Numbered.count += 1
            await Serve(ok(b"%d" % Numbered.count), delay=0.02).play(peer)

    async with Misbehaving([Numbered()]) as upstream:
        await asyncio.gather(*(fetch(transport, post(upstream.origin)) for _ in range(4)))
        _, last = await fetch(transport, post(upstream.origin))
        for _ in range(5):
            assert (await fetch(transport, post(upstream.origin)))[1] == last
        assert transport.connections() == (0, 4)


async def test_a_connection_is_free_again_once_the_response_is_in_even_if_unread(transport):
    async with Misbehaving([Serve(ok(b"abc"))]) as upstream:
        first = transport.exchange(post(upstream.origin))
        await first.start()
        await fetch(transport, post(upstream.origin))
        assert await body_of(first) == b"abc"
        assert upstream.connections == 1


@pytest.mark.parametrize("response", [head(length=0, extra=b"connection: close\r\n"), head() + b"x"])
async def test_a_connection_the_upstream_will_close_is_not_kept(transport, response):
    async with Misbehaving([Expect(), Send(response)]) as upstream:
        await fetch(transport, post(upstream.origin))
        assert transport.connections() == (0, 0)


@pytest.mark.parametrize("ending", [[], [Reset()], [Send(b"HTTP/1.1 408 Timeout\r\n\r\n"), Stall()]])
async def test_an_idle_connection_that_hears_anything_is_dropped_at_once(transport, ending):
    async with Misbehaving([Expect(), Send(ok()), Wait(0.05), *ending], [Serve(ok())]) as upstream:
        await fetch(transport, post(upstream.origin))
        assert transport.connections() == (0, 1)
        await until(lambda: transport.connections() == (0, 0))
        assert (await fetch(transport, post(upstream.origin)))[0] == 200


async def test_an_idle_connection_grows_old_and_goes():
    transport = HttpTransport(limits=PoolLimits(keep_alive=0.1))
    async with Misbehaving([Serve(ok())]) as upstream:
        await fetch(transport, post(upstream.origin))
        assert transport.connections() == (0, 1)
        await until(lambda: transport.connections() == (0, 0))


async def test_no_more_idle_connections_are_kept_than_allowed():
    transport = HttpTransport(limits=PoolLimits(idle=2))
    async with Misbehaving([Serve(ok(), delay=0.02)]) as upstream:
        await asyncio.gather(*(fetch(transport, post(upstream.origin)) for _ in range(6)))
        assert upstream.connections == 6
        assert transport.connections() == (0, 2)
        transport.close()


async def test_calls_beyond_the_cap_wait_for_room():
    transport = HttpTransport(limits=PoolLimits(connections=3))
    async with Misbehaving([Serve(ok(), delay=0.01)]) as upstream:
        results = await asyncio.gather(*(fetch(transport, post(upstream.origin)) for _ in range(30)))
        assert {status for status, _ in results} == {200}
        assert upstream.connections == 3
        transport.close()


async def test_waiting_for_room_counts_against_the_connect_deadline():
    transport = HttpTransport(limits=PoolLimits(connections=1))
    async with Misbehaving([Expect(), Stall()], [Serve(ok())]) as upstream:
        first = asyncio.create_task(fetch(transport, post(upstream.origin)))
        await until(lambda: upstream.requests != [])
        with pytest.raises(UpstreamFailure) as caught:
            await fetch(transport, post(upstream.origin, connect=0.1))
        assert (caught.value.kind, caught.value.unsent) == ("connect_timeout", True)
        first.cancel()
        await asyncio.wait([first])
        assert (await fetch(transport, post(upstream.origin)))[0] == 200  # the slot was not lost
        transport.close()


async def test_a_failed_connect_gives_its_room_back():
    transport = HttpTransport(limits=PoolLimits(connections=1))
    async with Misbehaving([Serve(ok())]) as gone:
        origin = gone.origin
    for _ in range(3):
        with pytest.raises(UpstreamFailure) as caught:
            await fetch(transport, post(origin, connect=2))
        assert caught.value.kind == "connect"


@pytest.mark.parametrize("linger", [0, 1], ids=["FIN", "RST"])
async def test_an_upstream_that_left_unnoticed_by_the_loop_costs_nothing(transport, linger):
    """Our kernel knows, our event loop has not had a turn to see it: the request goes elsewhere."""
    with PlainUpstream() as upstream:
        peer = await upstream.answer_one(transport, b"first")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", linger, 0))
        peer.close()
        second = asyncio.create_task(upstream.answer_next(b"second"))
        assert await fetch(transport, post(upstream.origin)) == (200, b"second")
        (await second).close()


async def test_a_request_that_crossed_a_fin_is_sent_again(transport, monkeypatch):
    """Looked good when it was taken, but the upstream was gone before the request got there."""
    with PlainUpstream() as upstream:
        peer = await upstream.answer_one(transport, b"first")
        peer.close()
        monkeypatch.setattr(Connection, "alive", lambda self: not self.closed)
        second = asyncio.create_task(upstream.answer_next(b"second"))
        assert await fetch(transport, post(upstream.origin)) == (200, b"second")
        (await second).close()


async def test_an_upload_that_crossed_a_fin_is_sent_again_from_its_start(transport, monkeypatch):
    class Upload:
        def __len__(self):
            return 4_000

        def read(self, start, size):
            starts.append(start)
            return b"abcd"[start % 4 : start % 4 + 1] * min(size, 4_000 - start)

    starts = []
    with PlainUpstream() as upstream:
        peer = await upstream.answer_one(transport, b"first")
        peer.close()
        monkeypatch.setattr(Connection, "alive", lambda self: not self.closed)
        second = asyncio.create_task(upstream.answer_next(b"second"))
        request = post(upstream.origin, b"")
        request.upload = Upload()
        assert await fetch(transport, request) == (200, b"second")
        assert starts == [0, 0]
        (await second).close()


async def test_a_request_that_crossed_a_fin_and_has_nowhere_else_to_go_is_unsent(transport, monkeypatch):
    with PlainUpstream() as upstream:
        peer = await upstream.answer_one(transport, b"first")
        peer.close()
        upstream.listener.close()
        monkeypatch.setattr(Connection, "alive", lambda self: not self.closed)
        with pytest.raises(UpstreamFailure) as caught:
            await fetch(transport, post(upstream.origin))
        assert (caught.value.kind, caught.value.unsent) == ("connect", True)


class PlainUpstream:
    """Plain sockets, so that a test can close one without a turn of the event loop."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.origin = Origin("http", "127.0.0.1", self.listener.getsockname()[1])

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.listener.close()

    async def answer_next(self, body):
        """Accept, answer one request, and give the socket."""
        loop = asyncio.get_running_loop()
        peer, _ = await loop.sock_accept(self.listener)
        await loop.sock_recv(peer, 65_536)
        await loop.sock_sendall(peer, ok(body))
        return peer

    async def answer_one(self, transport, body):
        answering = asyncio.create_task(self.answer_next(body))
        assert await fetch(transport, post(self.origin)) == (200, body)
        return await answering


@pytest.mark.parametrize("ending", [[], [Reset()]], ids=["FIN", "RST"])
async def test_a_request_the_upstream_read_before_it_died_is_delivered_once(transport, ending):
    async with Misbehaving([Expect(), Send(ok()), Expect(), *ending], [Serve(ok())]) as upstream:
        await fetch(transport, post(upstream.origin, b"first"))
        with pytest.raises(UpstreamFailure) as caught:
            await fetch(transport, post(upstream.origin, b"second"))
        assert (caught.value.kind, caught.value.unsent) == ("cut", False)
        assert [request.partition(b"\r\n\r\n")[2] for request in upstream.requests] == [b"first", b"second"]


async def test_an_upstream_that_closes_unannounced_gets_no_request_twice(transport):
    """It closes after every answer, at every possible moment of the next call, and never says so."""
    async with Misbehaving([Expect(), Send(ok())]) as upstream:
        failures = []
        for number in range(300):
            try:
                await fetch(transport, post(upstream.origin, b"%d" % number))
            except UpstreamFailure as failure:
                failures.append((failure.kind, failure.unsent))
        assert set(failures) <= {("cut", False)}
        assert len(set(upstream.requests)) == len(upstream.requests) == 300 - len(failures)


async def test_an_upstream_that_accepts_and_leaves_is_a_failure_and_never_a_hang(transport):
    async with Misbehaving([]) as upstream:
        kinds = set()
        for _ in range(50):
            with pytest.raises(UpstreamFailure) as caught:
                await asyncio.wait_for(fetch(transport, post(upstream.origin)), 5)
            kinds.add(caught.value.kind)
        assert kinds <= {"connect", "cut"}
        assert upstream.requests == []


async def test_closing_the_transport_fails_what_is_under_way():
    transport = HttpTransport()
    async with Misbehaving([Expect(), Send(head(length=5)), Stall()]) as upstream:
        exchange = transport.exchange(post(upstream.origin))
        await exchange.start()
        reading = asyncio.create_task(exchange.read())
        await asyncio.sleep(0)
        transport.close()
        with pytest.raises(UpstreamFailure) as caught:
            await reading
        assert caught.value.kind == "aborted"
        assert transport.connections() == (0, 0)

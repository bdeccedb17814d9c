"""Upstreams that break, cheat or fall silent."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gateway.core.upstream import Origin, UpstreamFailure
from tests.support.misbehaving import Expect, Misbehaving, Reset, Send, Serve, Stall, Wait, chunk, head, ok
from tests.upstream.calls import fetch, post


async def failure_of(transport, request):
    with pytest.raises(UpstreamFailure) as caught:
        await fetch(transport, request)
    assert transport.connections()[0] == 0
    return caught.value


@pytest.mark.parametrize("ending", [[], [Wait(0.02), Reset()]], ids=["FIN", "RST"])
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(head(length=10) + b"abc", id="inside a content-length body"),
        pytest.param(head(chunked=True) + b"5\r\nab", id="inside a chunk"),
        pytest.param(head(chunked=True) + chunk(b"abc"), id="without the last chunk"),
        pytest.param(head(chunked=True) + chunk(b"abc") + b"0\r\n", id="inside the last chunk"),
    ],
)
async def test_a_cut_body_gives_what_came_and_then_fails(transport, sent, ending):
    async with Misbehaving([Expect(), Send(sent), *ending]) as upstream:
        exchange = transport.exchange(post(upstream.origin))
        await exchange.start()
        assert (await exchange.read()).startswith(b"ab")
        with pytest.raises(UpstreamFailure) as caught:
            await exchange.read()
        assert (caught.value.kind, caught.value.unsent) == ("cut", False)


@pytest.mark.parametrize("ending", [[], [Reset()]], ids=["FIN", "RST"])
@pytest.mark.parametrize("sent", [b"", b"HT", b"HTTP/1.1 200 OK\r\ncontent-le"])
async def test_a_cut_before_the_head_fails_and_is_not_called_unsent(transport, sent, ending):
    async with Misbehaving([Expect(), Send(sent), *ending]) as upstream:
        failure = await failure_of(transport, post(upstream.origin))
        assert (failure.kind, failure.unsent) == ("cut", False)
        assert len(upstream.requests) == upstream.connections == 1


async def test_a_reset_ends_even_a_body_that_has_no_length(transport):
    async with Misbehaving([Expect(), Send(head() + b"abc"), Wait(0.02), Reset()]) as upstream:
        exchange = transport.exchange(post(upstream.origin))
        await exchange.start()
        assert await exchange.read() == b"abc"
        with pytest.raises(UpstreamFailure, match="broke"):
            await exchange.read()


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 99 Low\r\n\r\n", id="a status of two digits"),
        pytest.param(b"HTTP/1.1 200 OK\nx: y\n\n", id="bare LF"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n", id="NUL in a header"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", id="two lengths"),
        pytest.param(head(length=2, chunked=True) + b"ab", id="length and chunks"),
        pytest.param(head(extra=b"transfer-encoding: gzip, chunked\r\n") + chunk(b""), id="a coding not asked for"),
        pytest.param(head(chunked=True) + b"zz\r\n", id="a chunk size that is no number"),
        pytest.param(head(101, extra=b"upgrade: websocket\r\nconnection: upgrade\r\n"), id="101"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 200 + ok(), id="a spam of 100s"),
        pytest.param(head(length=0, extra=b"x: y\r\n" * 300), id="too many headers"),
        pytest.param(head(length=0, extra=b"x: " + b"y" * 70_000 + b"\r\n"), id="a header too large, whole"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000, id="a header without end"),
    ],
)
async def test_garbage_is_a_protocol_failure(transport, response):
    async with Misbehaving([Expect(), Send(response), Stall()]) as upstream:
        failure = await failure_of(transport, post(upstream.origin))
        assert (failure.kind, failure.unsent) == ("protocol", False)


async def test_bytes_after_the_response_do_not_reach_the_next_caller(transport):
    smuggled = ok(b"mine") + ok(b"for somebody else")
    async with Misbehaving([Expect(), Send(smuggled), Stall()], [Serve(ok(b"yours"))]) as upstream:
        assert await fetch(transport, post(upstream.origin)) == (200, b"mine")
        assert await fetch(transport, post(upstream.origin)) == (200, b"yours")
        assert upstream.connections == 2


async def test_silence_before_the_head_is_a_first_byte_timeout(transport):
    async with Misbehaving([Expect(), Stall()]) as upstream:
        failure = await failure_of(transport, post(upstream.origin, first_byte=0.1))
        assert (failure.kind, failure.unsent) == ("first_byte_timeout", False)


async def test_informational_responses_do_not_stretch_the_first_byte_deadline(transport):
    spam = [step for _ in range(50) for step in (Send(b"HTTP/1.1 102 Processing\r\n\r\n"), Wait(0.05))]
    async with Misbehaving([Expect(), *spam]) as upstream:
        failure = await failure_of(transport, post(upstream.origin, first_byte=0.3, idle=5))
        assert failure.kind == "first_byte_timeout"


@pytest.mark.parametrize("sent", [b"HTTP/1.1 200 OK\r\n", head(length=9), head(chunked=True) + chunk(b"a")])
async def test_silence_after_the_first_byte_is_an_idle_timeout(transport, sent):
    async with Misbehaving([Expect(), Send(sent), Stall()]) as upstream:
        failure = await failure_of(transport, post(upstream.origin, idle=0.1))
        assert failure.kind == "idle_timeout"


async def test_a_slow_but_steady_stream_outlives_both_deadlines(transport):
    drops = [step for _ in range(12) for step in (Send(chunk(b"x")), Wait(0.05))]
    async with Misbehaving([Expect(), Send(head(chunked=True)), *drops, Send(chunk(b""))]) as upstream:
        request = post(upstream.origin, first_byte=0.4, idle=0.4)
        assert await fetch(transport, request) == (200, b"x" * 12)


async def test_an_upload_that_nobody_reads_is_an_idle_timeout(transport):
    class ReadNothing:
        async def play(self, peer):
            peer.writer.transport.pause_reading()
            await asyncio.sleep(60)

    async with Misbehaving([ReadNothing()]) as upstream:
        failure = await failure_of(transport, post(upstream.origin, b"x" * 30_000_000, first_byte=60, idle=0.2))
        assert failure.kind == "idle_timeout"


async def test_nobody_listening_is_a_connect_failure(transport):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        failure = await failure_of(transport, post(Origin("http", "127.0.0.1", bound.getsockname()[1])))
    assert (failure.kind, failure.unsent) == ("connect", True)


async def test_a_name_that_does_not_resolve_is_a_connect_failure(transport):
    failure = await failure_of(transport, post(Origin("http", "nowhere.invalid", 80), connect=10))
    assert failure.kind in ("connect", "connect_timeout")
    assert failure.unsent


async def test_a_host_that_does_not_accept_is_a_connect_timeout(transport):
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):  # the accept queue is full: the kernel drops further SYNs
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        await asyncio.sleep(0.05)
        failure = await failure_of(transport, post(Origin("http", "127.0.0.1", full.getsockname()[1]), connect=0.2))
    assert (failure.kind, failure.unsent) == ("connect_timeout", True)


async def test_a_slow_reader_holds_the_upstream_back_and_is_not_timed_as_an_idle_upstream(transport):
    total = 50_000_000
    sent = 0

    class Flood:
        async def play(self, peer):
            nonlocal sent
            await peer.receive()
            await peer.send(head(length=total))
            block = b"x" * 1_000_000
            while sent < total:
                await peer.send(block)
                sent += len(block)

    async with Misbehaving([Flood()]) as upstream:
        exchange = transport.exchange(post(upstream.origin, idle=0.2))
        await exchange.start()
        await asyncio.sleep(0.6)  # three idle deadlines, while this side does not read
        assert sent < 20_000_000  # what the kernel's buffers hold, not the body
        assert exchange.reader.buffered < 700_000
        received, most = 0, 0
        while data := await exchange.read():
            received += len(data)
            most = max(most, len(data))
        exchange.close()
        assert received == total
        assert most < 700_000

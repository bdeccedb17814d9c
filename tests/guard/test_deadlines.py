"""A client that is late, or does not read, is not waited for."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.support.raw_http import Peer, answer, echo, eventually, guarded

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HALF_BODY = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nhalf"


async def seconds_to_close(peer: Peer) -> tuple[float, bytes]:
    started = time.monotonic()
    received = await asyncio.wait_for(peer.rest(), 5)
    peer.close()
    return time.monotonic() - started, received


async def test_a_connection_that_says_nothing_is_closed_without_a_word() -> None:
    async with guarded(echo, header_timeout=0.2) as guard:
        seconds, received = await seconds_to_close(await guard.connect())
        assert received == b""
        assert 0.15 < seconds < 2


async def test_half_a_head_is_a_408() -> None:
    async with guarded(echo, header_timeout=0.2) as guard:
        peer = await guard.connect()
        await peer.send(GET[:-2])
        seconds, received = await seconds_to_close(peer)
        assert received.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b'"code":"invalid_request"' in received
        assert 0.15 < seconds < 2


async def test_a_head_that_trickles_is_a_408() -> None:
    async with guarded(echo, header_timeout=0.2) as guard:
        peer = await guard.connect()

        async def trickle() -> None:
            for byte in GET[:-2] + b"X: " + b"a" * 1000:
                await peer.send(bytes([byte]))
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert (await peer.reply()).status == 408
        trickling.cancel()
        await asyncio.gather(trickling, return_exceptions=True)
        peer.close()


async def test_half_a_body_is_a_408_and_tells_the_application() -> None:
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request":
            assert message["more_body"]
        told.append(message["type"])

    async with guarded(app, body_timeout=0.2) as guard:
        for request in (
            HALF_BODY,
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 50\r\n\r\n",
        ):
            peer = await guard.connect()
            await peer.send(request)
            seconds, received = await seconds_to_close(peer)
            assert received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").startswith(b"HTTP/1.1 408 ")
            assert 0.15 < seconds < 2
        assert told == ["http.disconnect"] * 4


async def test_slow_clients_in_three_shapes_do_not_keep_others_waiting() -> None:
    async with guarded(echo, header_timeout=0.3, body_timeout=0.3, linger_timeout=0.2) as guard:
        slow = [await guard.connect() for _ in range(90)]
        for number, peer in enumerate(slow):
            await peer.send([b"", GET[:-2], HALF_BODY][number % 3])
        for _ in range(20):
            assert (await guard.ask(GET)).status == 200
        await eventually(lambda: not guard.state.connections)
        for peer in slow:
            peer.close()


async def test_an_idle_connection_is_kept_as_long_as_configured() -> None:
    async with guarded(echo, keep_alive=0.3, header_timeout=30) as guard:
        peer = await guard.connect()
        for _ in range(3):
            await peer.send(GET)
            await peer.reply()
            await asyncio.sleep(0.1)
        seconds, received = await seconds_to_close(peer)
        assert received == b""
        assert seconds < 2


async def test_a_response_may_take_longer_than_any_deadline_for_requests() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.3)
        await answer(send, b"done")

    async with guarded(slow, header_timeout=0.1, body_timeout=0.1, write_timeout=0.1, keep_alive=0.1) as guard:
        assert (await guard.ask(GET)).body == b"done"


async def endless(scope: Any, receive: Any, send: Any) -> None:
    client = scope["extensions"]["aidock.client"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while not client.gone:
        await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
        await asyncio.sleep(0)


async def test_a_reader_that_takes_nothing_is_cut_off() -> None:
    left: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"]["aidock.client"].on_gone(lambda: left.append(time.monotonic()))
        await endless(scope, receive, send)

    async with guarded(app, write_timeout=0.3) as guard:
        peer = await guard.connect(receive_buffer=4096)
        await peer.send(GET)
        await eventually(lambda: bool(left) and not guard.state.connections and not guard.state.tasks)
        peer.close()


async def test_a_slow_reader_that_keeps_up_is_served() -> None:
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(300):
            await send({"type": "http.response.body", "body": b"x" * 20_000, "more_body": number < 299})
            sent += 20_000

    async with guarded(app, write_timeout=2) as guard:
        peer = await guard.connect(receive_buffer=4096)
        await peer.send(GET)
        await asyncio.sleep(0.1)
        assert sent < 6_000_000, "the application was not held back"
        assert len((await peer.reply()).body) == 6_000_000
        peer.close()


async def test_an_answer_that_nobody_takes_does_not_hold_the_connection() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x" * 8_000_000)

    async with guarded(app, write_timeout=0.2, keep_alive=0.1) as guard:
        for request in (GET, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")):
            peer = await guard.connect(receive_buffer=4096)
            await peer.send(request)
            await eventually(lambda: bool(guard.state.connections))
            await eventually(lambda: not guard.state.connections)
            peer.close()


async def test_a_client_that_goes_on_after_its_refusal_is_cut_off() -> None:
    async with guarded(echo, linger_timeout=0.2) as guard:
        peer = await guard.connect()
        await peer.send(b"nonsense\r\n\r\n")
        assert (await peer.reply()).status == 400
        await eventually(lambda: not guard.state.connections, within=2)
        peer.close()

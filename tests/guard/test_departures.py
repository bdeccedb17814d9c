"""The application learns that its client left, soon and once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.support.raw_http import Guarded, Peer, answer, eventually, guarded

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
SLACK = 1.0
"""The promise is 200 ms; a busy machine gets more before a test fails."""


class Watcher:
    """An application that waits for its client to leave."""

    def __init__(self, *, streams: bool = False) -> None:
        self.streams = streams
        self.running = asyncio.Event()
        self.calls: list[float] = []
        self.clients: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        client = scope["extensions"]["aidock.client"]
        self.clients.append(client)
        gone = asyncio.Event()
        client.on_gone(lambda: (self.calls.append(time.monotonic()), gone.set()))
        await receive()
        if self.streams:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        self.running.set()
        await gone.wait()
        for _ in range(2):  # says nothing, raises nothing
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"


async def leave_noticed(guard: Guarded, watcher: Watcher, peer: Peer, leave: Any) -> float:
    await asyncio.wait_for(watcher.running.wait(), 5)
    left = time.monotonic()
    leave()
    await eventually(lambda: bool(watcher.calls))
    assert watcher.clients[0].gone
    await eventually(lambda: not guard.state.connections and not guard.state.tasks)
    peer.close()
    assert len(watcher.calls) == 1
    return watcher.calls[0] - left


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("request_bytes", [GET, POST, GET + GET])
async def test_a_closed_socket_is_noticed_at_once(streams: bool, request_bytes: bytes) -> None:
    watcher = Watcher(streams=streams)
    async with guarded(watcher) as guard:
        peer = await guard.connect()
        await peer.send(request_bytes)
        assert await leave_noticed(guard, watcher, peer, peer.close) < SLACK


async def test_a_reset_is_noticed_at_once() -> None:
    watcher = Watcher(streams=True)
    async with guarded(watcher) as guard:
        peer = await guard.connect()
        await peer.send(GET)
        peer.sock.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")  # SO_LINGER 0: close sends a reset
        assert await leave_noticed(guard, watcher, peer, peer.close) < SLACK


async def test_a_client_that_leaves_in_its_body_is_noticed_at_once() -> None:
    watcher = Watcher()
    async with guarded(watcher) as guard:
        peer = await guard.connect()
        await peer.send(POST[:-1])
        assert await leave_noticed(guard, watcher, peer, peer.close) < SLACK


async def test_half_closing_while_the_answer_is_awaited_counts_as_leaving() -> None:
    watcher = Watcher()
    async with guarded(watcher) as guard:
        peer = await guard.connect()
        await peer.send(GET)
        assert await leave_noticed(guard, watcher, peer, lambda: peer.sock.shutdown(1)) < SLACK


async def test_a_client_that_half_closes_with_its_request_still_gets_a_prompt_answer() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.01)
        await answer(send, b"here")

    async with guarded(app) as guard:
        peer = await guard.connect()
        await peer.send(GET)
        peer.sock.shutdown(1)
        assert (await peer.rest()).endswith(b"here")
        peer.close()


async def test_a_callback_registered_too_late_is_called_at_once() -> None:
    calls: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = scope["extensions"]["aidock.client"]
        assert not client.gone
        while (await receive())["type"] != "http.disconnect":
            pass
        client.on_gone(lambda: calls.append("called"))

    async with guarded(app) as guard:
        peer = await guard.connect()
        await peer.send(GET)
        await eventually(lambda: bool(guard.state.tasks))
        peer.close()
        await eventually(lambda: calls == ["called"])


async def test_leaving_after_the_answer_is_nobodys_business() -> None:
    calls: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"]["aidock.client"].on_gone(lambda: calls.append("called"))
        await answer(send, b"done")
        await asyncio.sleep(0.05)

    async with guarded(app) as guard:
        assert (await guard.ask(GET)).body == b"done"
        await eventually(lambda: not guard.state.connections and not guard.state.tasks)
    assert calls == []


async def test_shutdown_closes_idle_connections_at_once_and_busy_ones_after_their_response() -> None:
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await go.wait()
        await answer(send, b"done")

    async with guarded(app) as guard:
        idle, fresh, busy = [await guard.connect() for _ in range(3)]
        await idle.send(GET)
        await idle.reply()
        await busy.send(GET.replace(b"/ ", b"/slow "))
        await eventually(lambda: bool(guard.state.tasks))
        for connection in list(guard.state.connections):
            connection.shutdown()
        assert await idle.rest() == b""
        assert await fresh.rest() == b""
        go.set()
        reply = await busy.reply()
        assert reply.body == b"done"
        assert reply.headers["connection"] == "close"
        assert await busy.rest() == b""
        for peer in (idle, fresh, busy):
            peer.close()


async def test_an_answer_that_the_application_cuts_off_cannot_be_taken_for_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = scope["extensions"]["aidock.client"]
        client.on_gone(lambda: told.append("gone"))
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        client.cut()

    async with guarded(app) as guard:
        peer = await guard.connect()
        await peer.send(GET)
        with pytest.raises(EOFError):
            await peer.reply()
        await eventually(lambda: not guard.state.connections and not guard.state.tasks)
        peer.close()
    assert told == [], "it knows that"
    assert caplog.records == []

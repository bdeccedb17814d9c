"""How requests reach the application."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from tests.support.raw_http import Guarded, answer, echo, eventually, guarded, read_body

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"


def post(body: bytes, extra: bytes = b"") -> bytes:
    return b"POST /x HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n%b" % (extra, len(body), body)


async def asked(guard: Guarded, request: bytes) -> dict[str, Any]:
    reply = await guard.ask(request)
    assert reply.status == 200
    return dict(json.loads(reply.body))


async def test_the_scope_says_what_was_asked() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await echo(scope, receive, send)

    async with guarded(app) as guard:
        said = await asked(
            guard, b"GET /a%2Fb/%C3%A9?q=%20x&y HTTP/1.1\r\nHOST: a:80\r\nX-Twice: 1\r\nx-twice: 2\r\n\r\n"
        )
        assert said["path"] == "/a/b/é"
        assert said["raw_path"] == "/a%2Fb/%C3%A9"
        assert said["query"] == "q=%20x&y"
        assert said["headers"] == [["host", "a:80"], ["x-twice", "1"], ["x-twice", "2"]]
        scope = seen[0]
        assert scope["type"] == "http"
        assert scope["scheme"] == "http"
        assert scope["server"] == ("127.0.0.1", guard.port)
        assert scope["client"][0] == "127.0.0.1"
        assert scope["root_path"] == ""
        assert scope["state"] == {}


async def test_hosts_may_be_names_and_addresses_with_ports() -> None:
    async with guarded(echo) as guard:
        for host in (b"a", b"a.b-c_d", b"a:8080", b"127.0.0.1:1", b"[::1]", b"[::1]:8080"):
            assert (await guard.ask(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host)).status == 200


async def test_a_repeated_head_is_read_like_the_first_and_not_shared() -> None:
    async def spoil(scope: Any, receive: Any, send: Any) -> None:
        count = len(scope["headers"])
        scope["headers"].append((b"x-spoilt", b"1"))
        scope["path"] = "/spoilt"
        await answer(send, b"%d" % count)

    async with guarded(spoil) as guard:
        peer = await guard.connect()
        for _ in range(3):
            await peer.send(GET)
            assert (await peer.reply()).body == b"1"
        peer.close()


async def test_a_body_that_came_with_its_head_is_one_event() -> None:
    events: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        events.append(await receive())
        await answer(send, b"")
        events.append(await receive())

    async with guarded(app) as guard:
        await guard.ask(post(b"hello"))
        await eventually(lambda: len(events) == 2)
    assert events == [{"type": "http.request", "body": b"hello", "more_body": False}, {"type": "http.disconnect"}]


async def test_a_request_may_arrive_byte_by_byte() -> None:
    async with guarded(echo) as guard:
        for request in (
            post(b"hello"),
            b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        ):
            peer = await guard.connect()
            for at in range(len(request)):
                await peer.send(request[at : at + 1])
                await asyncio.sleep(0.0005)
            assert json.loads((await peer.reply()).body)["body"] == "hello"
            peer.close()


async def test_empty_lines_before_a_request_are_ignored() -> None:
    async with guarded(echo) as guard:
        peer = await guard.connect()
        await peer.send(b"\r\n")
        await asyncio.sleep(0.01)
        await peer.send(b"\r\n\r\n" + post(b"one"))
        assert json.loads((await peer.reply()).body)["body"] == "one"
        await peer.send(b"\r\n" + post(b"two"))
        assert json.loads((await peer.reply()).body)["body"] == "two"
        peer.close()


async def test_a_chunked_upload_loses_its_framing_only() -> None:
    body = bytes(range(256)) * 1000
    chunks = b"".join(
        b"%X;ext=1\r\n%b\r\n" % (len(body[n : n + 9999]), body[n : n + 9999]) for n in range(0, len(body), 9999)
    )
    async with guarded(echo) as guard:
        peer = await guard.connect()
        for _ in range(2):  # the connection stays good
            await peer.send(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n" + chunks)
            await peer.send(b"0\r\nTrailer: x\r\n\r\n")
            assert json.loads((await peer.reply()).body)["body"].encode("latin-1") == body
        peer.close()


async def test_bytes_behind_a_chunked_body_end_the_connection_after_its_answer() -> None:
    async with guarded(echo) as guard:
        peer = await guard.connect()
        await peer.send(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + GET)
        reply = await peer.reply()
        assert reply.status == 200
        assert reply.headers["connection"] == "close"
        assert await peer.rest() == b""
        peer.close()


async def test_a_client_that_expects_100_continue_gets_it_when_the_application_reads() -> None:
    async with guarded(echo) as guard:
        peer = await guard.connect()
        await peer.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n")
        assert await peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await peer.send(b"hello")
        assert json.loads((await peer.reply()).body)["body"] == "hello"
        peer.close()


async def test_a_request_refused_before_its_body_was_asked_for_is_not_told_to_continue() -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"no", status=401)

    async with guarded(refuse) as guard:
        peer = await guard.connect()
        await peer.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        reply = await peer.reply()
        assert reply.status == 401
        assert reply.headers["connection"] == "close"
        assert await peer.rest() == b""
        peer.close()


async def test_an_early_answer_reaches_a_client_that_is_still_sending() -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"no", status=401)

    async with guarded(refuse) as guard:
        reply = await guard.ask(post(b"a" * 20_000_000))
        assert reply.status == 401
        assert reply.headers["connection"] == "close"


async def test_pipelined_requests_are_handled_one_after_another_in_order() -> None:
    running = most = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        body = await read_body(receive)
        await asyncio.sleep(0.001)
        running -= 1
        await answer(send, body)

    async with guarded(app) as guard:
        peer = await guard.connect()
        bodies = [b"%d" % n * (n * 37 % 500) for n in range(50)]
        await peer.send(b"".join(post(body) for body in bodies))
        assert [(await peer.reply()).body for _ in bodies] == bodies
        assert most == 1
        peer.close()


async def test_what_a_client_sends_ahead_is_bounded() -> None:
    held: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "GET":
            await asyncio.sleep(0.3)
            held.extend(len(connection._ahead) for connection in guard.state.connections)  # type: ignore[union-attr]
        await answer(send, b"%d" % len(await read_body(receive)))

    async with guarded(app) as guard:
        peer = await guard.connect()
        sending = asyncio.create_task(peer.send(GET + post(b"a" * 30_000_000)))
        assert (await peer.reply()).status == 200
        assert 65_536 < held[0] < 1_000_000
        assert (await peer.reply()).body == b"30000000"
        await sending
        peer.close()


async def test_an_unread_body_stops_the_client() -> None:
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await answer(send, b"%d" % len(await read_body(receive)))

    async with guarded(app, body_timeout=0.4) as guard:
        peer = await guard.connect()
        sending = asyncio.create_task(peer.send(post(b"a" * 30_000_000)))
        await asyncio.sleep(0.5)  # longer than the body's deadline: the time the application takes does not count
        assert not sending.done()
        go.set()
        assert (await peer.reply()).body == b"30000000"
        await sending
        peer.close()


async def test_upgrades_are_ignored() -> None:
    async with guarded(echo) as guard:
        peer = await guard.connect()
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAA\r\n"
        for _ in range(2):
            await peer.send(post(b"hello", upgrade))
            assert json.loads((await peer.reply()).body)["body"] == "hello"
        await peer.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"))
        assert (await peer.reply()).status == 200
        peer.close()


async def test_connections_are_kept_as_both_versions_say() -> None:
    async def kept(request: bytes) -> bool:
        async with guarded(echo, keep_alive=30) as guard:
            peer = await guard.connect()
            await peer.send(request)
            reply = await peer.reply()
            started = time.monotonic()
            open_still = asyncio.create_task(peer.more())
            done, _ = await asyncio.wait({open_still}, timeout=0.1)
            open_still.cancel()
            peer.close()
            assert (reply.headers.get("connection") == "close") == bool(done), time.monotonic() - started
            return not done

    assert await kept(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert await kept(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
    assert not await kept(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n\r\n")
    assert not await kept(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n")
    assert await kept(b"GET / HTTP/1.1\r\nHost: a\r\nX-Twice: 1\r\nX-Twice: 2\r\n\r\n")
    assert not await kept(b"GET / HTTP/1.0\r\n\r\n")

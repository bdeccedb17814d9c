"""How the application's responses reach the client."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest

from tests.support.raw_http import answer, eventually, guarded

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"


def app_that_sends(*messages: dict[str, Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def test_a_whole_response_is_exactly_this() -> None:
    async with guarded(app_that_sends(start(200, (b"content-type", b"text/plain")), body(b"hello"))) as guard:
        peer = await guard.connect()
        await peer.send(GET)
        assert await peer.until(b"hello") == (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
        )
        peer.close()


async def test_a_streamed_response_is_exactly_this() -> None:
    app = app_that_sends(start(), body(b"data: 1\n\n", more=True), body(more=True), body(b"data: 2\n\n"))
    async with guarded(app) as guard:
        peer = await guard.connect()
        await peer.send(GET)
        assert await peer.until(b"0\r\n\r\n") == (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n"
        )
        peer.close()


async def test_the_head_leaves_with_the_first_body_event_even_if_that_is_empty() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(more=True))
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"

    async with guarded(app) as guard:
        peer = await guard.connect()
        await peer.send(GET)
        assert (await peer.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        peer.close()


async def test_http_1_0_gets_no_chunks() -> None:
    app = app_that_sends(start(), body(b"one ", more=True), body(b"two"))
    async with guarded(app) as guard:
        peer = await guard.connect()
        await peer.send(OLD.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"))
        assert await peer.rest() == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\none two"
        peer.close()


async def test_head_204_and_304_have_no_body() -> None:
    plain: list[tuple[bytes, bytes]] = []
    declared = [(b"content-length", b"5")]
    for method, status, headers in (
        (b"HEAD", 200, plain),
        (b"HEAD", 200, declared),
        (b"GET", 204, plain),
        (b"GET", 304, declared),
    ):
        length = "5" if headers else None
        async with guarded(app_that_sends(start(status, *headers), body(b"hello"))) as guard:
            peer = await guard.connect()
            for _ in range(2):
                await peer.send(method + GET[3:])
                reply = await peer.reply(bodiless=True)
                assert (reply.status, reply.headers.get("content-length"), peer.received) == (status, length, b"")
            peer.close()


async def test_a_declared_length_is_passed_on_and_held_to() -> None:
    declared = start(200, (b"content-length", b"5"))
    async with guarded(app_that_sends(declared, body(b"he", more=True), body(b"llo"))) as guard:
        assert (await guard.ask(GET)).body == b"hello"
    for wrong in ([body(b"hell", more=True), body(b"o!")], [body(b"hell", more=True), body()]):
        async with guarded(app_that_sends(declared, *wrong)) as guard:
            with pytest.raises(EOFError):
                await guard.ask(GET)
    for wrong in ([body(b"hello!")], [body(b"hell")]):
        async with guarded(app_that_sends(declared, *wrong)) as guard:
            assert (await guard.ask(GET)).status == 500


@pytest.mark.parametrize("text", [b"a\r\nx-evil: 1", b"a\nb", b"a\rb", b"a\0b"])
async def test_a_header_that_would_split_the_response_is_a_500(text: bytes) -> None:
    for header in ((b"x-name", text), (text, b"value")):
        async with guarded(app_that_sends(start(200, header), body(b"hello"))) as guard:
            reply = await guard.ask(GET)
            assert reply.status == 500
            assert "x-evil" not in reply.headers


async def test_the_application_may_close_the_connection() -> None:
    async with guarded(app_that_sends(start(200, (b"connection", b"close")), body(b"bye"))) as guard:
        peer = await guard.connect()
        await peer.send(GET)
        assert await peer.rest() == b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbye"
        peer.close()


async def test_an_application_that_fails_before_its_response_is_a_500_the_log_can_be_asked_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        raise LookupError("a defect")

    async with guarded(fail) as guard:
        reply = await guard.ask(GET)
    assert reply.status == 500
    assert reply.headers["connection"] == "close"
    assert reply.error["code"] == "internal_error"
    assert b"a defect" not in reply.body
    record = next(record for record in caplog.records if record.name == "aidock.guard")
    assert record.levelno == logging.ERROR
    assert record.request_id == reply.headers["x-request-id"]  # type: ignore[attr-defined]
    assert record.request_id in reply.error["message"]  # type: ignore[attr-defined]


async def test_an_application_that_ends_without_a_response_is_a_500() -> None:
    for messages in ((), (start(),)):
        async with guarded(app_that_sends(*messages)) as guard:
            assert (await guard.ask(GET)).status == 500


async def test_a_response_that_breaks_off_is_cut_not_ended() -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"half", more=True))
        if scope["path"] == "/raise":
            raise LookupError("a defect")

    async with guarded(fail) as guard:
        for path in (b"/raise", b"/return"):
            peer = await guard.connect()
            await peer.send(GET.replace(b"/ ", path + b" "))
            assert (await peer.rest()).endswith(b"4\r\nhalf\r\n")
            peer.close()


async def test_messages_out_of_order_are_the_applications_defect() -> None:
    async with guarded(app_that_sends(body(b"hello"))) as guard:
        assert (await guard.ask(GET)).status == 500
    async with guarded(app_that_sends({"type": "websocket.accept"})) as guard:
        assert (await guard.ask(GET)).status == 500
    refused: list[str] = []

    async def twice(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"one")
        for message in (body(b"two"), start()):
            with pytest.raises(RuntimeError) as info:
                await send(message)
            refused.append(str(info.value))

    async with guarded(twice) as guard:
        assert (await guard.ask(GET)).body == b"one"
        await eventually(lambda: len(refused) == 2)


async def test_small_writes_are_not_held_back() -> None:
    async with guarded(app_that_sends(start(), body())) as guard:
        peer = await guard.connect()
        await peer.send(GET)
        await peer.reply()
        connection: Any = next(iter(guard.state.connections))
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        peer.close()


async def test_a_callback_that_fails_leaves_nothing_behind() -> None:
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"]["aidock.client"].on_gone(lambda: 1 // 0)
        while (await receive())["type"] != "http.disconnect":
            pass

    async with guarded(app) as guard:
        peer = await guard.connect()
        await peer.send(GET)
        await eventually(lambda: bool(guard.state.tasks))
        peer.close()
        await eventually(lambda: not guard.state.tasks and not guard.state.connections)
    assert reported


async def test_requests_and_tasks_are_counted_where_the_server_looks() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"")
        await asyncio.sleep(0.02)  # work after the response is still a task of the server's

    async with guarded(app) as guard:
        peer = await guard.connect()
        for _ in range(3):
            await peer.send(GET)
            await peer.reply()
        assert guard.state.total_requests == 3
        assert guard.state.tasks
        await eventually(lambda: not guard.state.tasks)
        assert len(guard.state.connections) == 1
        peer.close()
        await eventually(lambda: not guard.state.connections)

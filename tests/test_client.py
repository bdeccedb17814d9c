"""The caller's side of a call, over any ASGI server."""

import asyncio
from typing import Any

import pytest

from gateway.client import Client, ClientGone
from gateway.core.errors import GatewayError
from tests.support.until import until


def a_client(*messages: dict[str, Any]) -> tuple[Client, list[Any]]:
    waiting, sent = list(messages), []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    return Client({"type": "http", "headers": []}, receive, send), sent


def piece(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_in_pieces_is_put_together() -> None:
    client, _ = a_client(piece(b"ab"), piece(b""), piece(b"c"), piece(b"d", more=False))
    assert await client.body(4) == b"abcd"
    whole, _ = a_client({"type": "http.request"})
    assert await whole.body(4) == b""


@pytest.mark.parametrize("messages", [[piece(b"abcde", more=False)], [piece(b"abc"), piece(b"de")]], ids=["1", "2"])
async def test_a_body_past_the_cap_is_refused_before_its_end(messages: list[dict[str, Any]]) -> None:
    client, _ = a_client(*messages)
    with pytest.raises(GatewayError) as refused:
        await client.body(4)
    assert (refused.value.status, refused.value.code) == (413, "request_too_large")
    assert "4 bytes" in refused.value.message


async def test_a_client_that_leaves_while_it_sends_is_no_error() -> None:
    client, _ = a_client(piece(b"ab"), {"type": "http.disconnect"})
    with pytest.raises(ClientGone):
        await client.body(100)


async def test_a_departure_is_told_once() -> None:
    client, _ = a_client({"type": "http.disconnect"})
    told: list[int] = []
    client.on_gone(lambda: told.append(1))
    await until(lambda: client.gone)
    assert told == [1]
    client.stop_watching()


async def test_after_the_last_byte_nobody_watches() -> None:
    client, sent = a_client({"type": "http.disconnect"})
    told: list[int] = []
    client.on_gone(lambda: told.append(1))
    await client.reply(200, [(b"x", b"y")], b"body")
    await asyncio.sleep(0.01)
    assert told == []
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["headers"] == [(b"x", b"y"), (b"content-length", b"4")]
    assert sent[1]["more_body"] is False
    assert len(asyncio.all_tasks()) == 1, "the watch is gone"


async def test_a_body_can_be_taken_as_it_arrives() -> None:
    client, _ = a_client(piece(b"ab"), piece(b""), piece(b"c", more=False))
    assert [each async for each in client.pieces(3)] == [b"ab", b"", b"c"]
    small, _ = a_client(piece(b"ab"), piece(b"c"))
    with pytest.raises(GatewayError) as refused:
        _ = [each async for each in small.pieces(2)]
    assert refused.value.status == 413
    gone, _ = a_client(piece(b"ab"), {"type": "http.disconnect"})
    with pytest.raises(ClientGone):
        _ = [each async for each in gone.pieces(2)]


async def test_an_answer_that_is_cut_is_not_ended_whatever_the_server() -> None:
    client, sent = a_client()
    await client.begin(200, [])
    await client.write(b"half")
    client.cut()
    assert client.failed
    assert sent[-1]["more_body"], "the server sees an application that ended too early, and closes"

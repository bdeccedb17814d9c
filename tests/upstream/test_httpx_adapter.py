"""httpx over our pool."""

from __future__ import annotations

import httpx
import pytest

from gateway.upstream.httpx_adapter import HttpxTransport
from tests.support.misbehaving import Expect, Misbehaving, Reset, Send, Serve, Stall, Wait, chunk, head, ok


@pytest.fixture
async def client(transport):
    async with httpx.AsyncClient(transport=HttpxTransport(transport), trust_env=False, timeout=5) as client:
        yield client


async def test_a_call_goes_through_our_pool(client, transport):
    async with Misbehaving([Serve(ok(b'{"a": 1}'))]) as upstream:
        for _ in range(2):
            response = await client.post(f"{upstream.url}/x?y=%20z", json={"b": 2}, headers={"X-Mine": "1"})
            assert (response.status_code, response.json()) == (200, {"a": 1})
        assert (await client.get(upstream.url)).status_code == 200
        assert upstream.requests[0].startswith(b"POST /x?y=%20z HTTP/1.1\r\n")
        assert b"\r\naccept-encoding: identity\r\n" in upstream.requests[0]
        assert b"\r\nx-mine: 1\r\n" in upstream.requests[0]
        assert upstream.requests[0].lower().count(b"host:") == upstream.requests[0].lower().count(b"encoding:") == 1
        assert upstream.connections == 1
    assert transport.connections()[0] == 0


async def test_a_stream_arrives_piece_by_piece_and_leaving_it_closes_the_connection(client, transport):
    async with Misbehaving([Expect(), Send(head(chunked=True) + chunk(b"one")), Stall()]) as upstream:
        async with client.stream("GET", upstream.url) as response:
            async for piece in response.aiter_raw():
                assert piece == b"one"
                break
        assert transport.connections() == (0, 0)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([Expect(), Stall()], httpx.ReadTimeout),
        ([Expect(), Send(head(length=5)), Stall()], httpx.ReadTimeout),
        ([Expect(), Reset()], httpx.RemoteProtocolError),
        ([Expect(), Send(head(length=5) + b"a"), Wait(0.01)], httpx.RemoteProtocolError),
        ([Expect(), Send(b"garbage\r\n"), Stall()], httpx.RemoteProtocolError),
    ],
)
async def test_failures_are_httpxs_own(client, script, error):
    async with Misbehaving(script) as upstream:
        with pytest.raises(error):
            await client.get(upstream.url, timeout=httpx.Timeout(5, read=0.2))


async def test_what_cannot_be_asked_is_refused(client):
    async with Misbehaving([Serve(ok())]) as upstream:
        with pytest.raises(httpx.LocalProtocolError):
            await client.head(upstream.url)
        upstream_url = upstream.url
    with pytest.raises(httpx.ConnectError):
        await client.get(upstream_url)
    with pytest.raises(httpx.UnsupportedProtocol):
        await client.get("ftp://127.0.0.1/")

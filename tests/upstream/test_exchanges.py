"""A call over a well-behaved, or merely odd, upstream."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.upstream import UpstreamFailure
from tests.support.misbehaving import Expect, Misbehaving, Send, Serve, Stall, chunk, head, ok
from tests.upstream.calls import body_of, fetch, post, until


async def test_the_request_on_the_wire_is_what_was_asked_and_nothing_more(transport):
    async with Misbehaving([Serve(ok())]) as upstream:
        headers = [(b"authorization", b"Bearer x"), (b"content-type", b"application/json")]
        await fetch(transport, post(upstream.origin, b'{"a":1}', headers=headers, target=b"/v1/x?y=z"))
        assert upstream.requests == [
            b"POST /v1/x?y=z HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept-encoding: identity\r\n"
            b"authorization: Bearer x\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n"
            b'{"a":1}' % upstream.port
        ]


async def test_headers_that_belong_to_the_connection_are_the_transports_own(transport):
    async with Misbehaving([Serve(ok())]) as upstream:
        headers = [(b"host", b"evil"), (b"content-length", b"99"), (b"transfer-encoding", b"chunked"), (b"te", b"x")]
        headers += [(b"connection", b"close"), (b"accept-encoding", b"gzip"), (b"expect", b"100-continue")]
        await fetch(transport, post(upstream.origin, headers=headers))
        lines = upstream.requests[0].split(b"\r\n")
        assert lines[1:4] == [
            b"host: 127.0.0.1:%d" % upstream.port,
            b"accept-encoding: identity",
            b"content-length: 2",
        ]


@pytest.mark.parametrize(
    ("target", "header"),
    [
        (b"/", (b"x", b"a\r\nhost: evil")),
        (b"/", (b"x", b"a\nb")),
        (b"/", (b"x", b"a\rb")),
        (b"/", (b"x", b"a\0b")),
        (b"/", (b"x\r\ny", b"a")),
        (b"/ HTTP/1.1\r\nx: y", (b"x", b"a")),
        (b"/a b", (b"x", b"a")),
        (b"http://elsewhere/", (b"x", b"a")),
    ],
)
async def test_what_could_end_a_line_is_refused_before_anything_is_sent(transport, target, header):
    async with Misbehaving([Serve(ok())]) as upstream:
        with pytest.raises(UpstreamFailure) as caught:
            await fetch(transport, post(upstream.origin, headers=[header], target=target))
        assert (caught.value.kind, caught.value.unsent) == ("protocol", True)
        assert upstream.connections == 0


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(ok(b"hello world"), id="content-length"),
        pytest.param(head(chunked=True) + chunk(b"hello ") + chunk(b"world") + chunk(b""), id="chunked"),
        pytest.param(
            head(chunked=True) + chunk(b"hello world") + b"0\r\nx-checksum: 1\r\n\r\n", id="chunked with a trailer"
        ),
        pytest.param(head() + b"hello world", id="until close"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"hello world"), id="after 100"),
        pytest.param(b"HTTP/1.1 103 Early\r\nlink: </x>\r\n\r\n" + ok(b"hello world"), id="after 103"),
    ],
)
@pytest.mark.parametrize("piece", [None, 1, 7], ids=["whole", "byte by byte", "in sevens"])
async def test_every_framing_arrives_whole_however_it_is_cut(transport, response, piece):
    async with Misbehaving([Expect(), Send(response, piece)]) as upstream:
        exchange = transport.exchange(post(upstream.origin))
        await exchange.start()
        assert exchange.status == 200
        assert (b"content-type", b"application/json") in exchange.headers
        assert all(name not in (b"link", b"x-checksum") for name, _ in exchange.headers)
        assert await body_of(exchange) == b"hello world"


async def test_header_names_are_lower_case_and_values_lose_their_padding(transport):
    async with Misbehaving([Serve(head(length=0, extra=b"X-Request-ID:  Abc \r\n"))]) as upstream:
        exchange = transport.exchange(post(upstream.origin))
        await exchange.start()
        assert (b"x-request-id", b"Abc") in exchange.headers
        exchange.close()


async def test_a_html_502_is_a_response_like_any_other(transport):
    page = b"<html><h1>502 Bad Gateway</h1></html>"
    async with Misbehaving([Serve(ok(page, status=502))]) as upstream:
        assert await fetch(transport, post(upstream.origin)) == (502, page)


async def test_a_redirect_is_handed_over_and_not_followed(transport):
    async with Misbehaving([Serve(ok())]) as sink:
        location = b"location: %b/take\r\n" % sink.url.encode()
        async with Misbehaving([Serve(head(302, length=0, extra=location))]) as upstream:
            status, _ = await fetch(transport, post(upstream.origin, headers=[(b"authorization", b"Bearer key")]))
        assert status == 302
        assert sink.connections == 0


async def test_a_cookie_is_never_sent_back(transport):
    async with Misbehaving([Serve(head(length=0, extra=b"set-cookie: tenant=a; path=/\r\n"))]) as upstream:
        await fetch(transport, post(upstream.origin))
        await fetch(transport, post(upstream.origin))
        assert len(upstream.requests) == 2
        assert b"cookie" not in upstream.requests[1].lower()


async def test_a_compressed_body_is_left_as_it_is(transport):
    body = b"\x1f\x8b\x08 not really gzip"
    async with Misbehaving([Serve(head(length=len(body), extra=b"content-encoding: gzip\r\n") + body)]) as upstream:
        assert await fetch(transport, post(upstream.origin)) == (200, body)


async def test_the_body_streams_before_it_is_complete(transport):
    async with Misbehaving([Expect(), Send(head(chunked=True) + chunk(b"first")), Stall()]) as upstream:
        exchange = transport.exchange(post(upstream.origin))
        await exchange.start()
        assert await exchange.read() == b"first"
        exchange.close()


async def test_a_large_upload_arrives_whole(transport):
    body = bytes(range(256)) * 16_384
    async with Misbehaving([Serve(ok())]) as upstream:
        assert (await fetch(transport, post(upstream.origin, body)))[0] == 200
        assert upstream.requests[0].endswith(b"\r\n\r\n" + body)
        await fetch(transport, post(upstream.origin, body))
        assert upstream.connections == 1


async def test_an_upstream_that_refuses_during_the_upload_is_heard(transport):
    body = b"x" * 20_000_000
    for _ in range(20):
        async with Misbehaving([Expect(body=False), Send(ok(b"too large", status=413))]) as upstream:
            assert await fetch(transport, post(upstream.origin, body)) == (413, b"too large")
        assert transport.connections() == (0, 0)


async def test_an_upstream_that_answers_while_it_reads_gets_the_rest_of_the_upload(transport):
    class Echo:
        async def play(self, peer):
            await peer.receive(with_body=False)
            await peer.send(head(length=8_000_000))
            left = 8_000_000
            while left:
                data = await peer.reader.read(65_536)
                left -= len(data)
                await peer.send(data)

    body = bytes(range(250)) * 32_000
    async with Misbehaving([Echo()]) as upstream:
        assert await fetch(transport, post(upstream.origin, body)) == (200, body)


async def test_one_exchange_has_one_reader(transport):
    async with Misbehaving([Expect(), Send(head(length=5)), Stall()]) as upstream:
        exchange = transport.exchange(post(upstream.origin))
        await exchange.start()
        reading = asyncio.create_task(exchange.read())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await exchange.read()
        exchange.close()
        with pytest.raises(UpstreamFailure):
            await reading


class Counting:
    """A body that nobody holds, of `size` bytes; it notes how far it was read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.read_to = 0

    def __len__(self):
        return self.size

    def read(self, start, size):
        end = min(start + size, self.size)
        self.read_to = max(self.read_to, end)
        return bytes(end - start)


async def test_an_upload_is_read_no_faster_than_the_upstream_takes_it(transport):
    class Deaf:
        async def play(self, peer):
            await asyncio.sleep(30)

    source = Counting(200_000_000)
    async with Misbehaving([Expect(body=False), Deaf()]) as upstream:
        request = post(upstream.origin, b"")
        request.upload = source
        exchange = transport.exchange(request)
        starting = asyncio.create_task(exchange.start())
        await until(lambda: bool(upstream.requests))
        await asyncio.sleep(0.3)
        exchange.close()
        with pytest.raises(UpstreamFailure):
            await starting
        assert 0 < source.read_to < 40_000_000, "what sockets hold, and no more"
        assert b"\r\ncontent-length: 200000000\r\n" in upstream.requests[0]


@pytest.mark.parametrize("size", [0, 10, 3_000_001])
async def test_an_upload_of_any_size_is_sent_in_place_of_the_body(transport, size):
    async with Misbehaving([Serve(ok())]) as upstream:
        request = post(upstream.origin, b"")
        request.upload = Counting(size)
        assert (await fetch(transport, request))[0] == 200
        assert upstream.requests[0].endswith(b"\r\n\r\n" + bytes(size))
        assert b"content-length: %d\r\n" % size in upstream.requests[0]

"""What a peer should not have sent is answered with a 4xx at once, and disturbs nobody else."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.raw_http import Guarded, answer, echo, eventually, guarded, read_body

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

BAD: dict[str, tuple[bytes, int]] = {
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (GET + b"Host: b\r\n\r\n", 400),
    "two equal hosts": (GET + b"Host: a\r\n\r\n", 400),
    "empty host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    "host with a path": (b"GET / HTTP/1.1\r\nHost: a/ping?\r\n\r\n", 400),
    "host with a fragment": (b"GET / HTTP/1.1\r\nHost: a#\r\n\r\n", 400),
    "host with a user": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    "host with a space": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "host list": (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    "length and chunked": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
    "two equal lengths": (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    "length list": (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    "signed length": (POST + b"Content-Length: +5\r\n\r\nhello", 400),
    "negative length": (POST + b"Content-Length: -1\r\n\r\n", 400),
    "hex length": (POST + b"Content-Length: 0x5\r\n\r\nhello", 400),
    "empty length": (POST + b"Content-Length:\r\n\r\n", 400),
    "overflowing length": (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
    "gzip coding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
    "gzip then chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked then gzip": (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "xchunked": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "chunked in 1.0": (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunk size of letters": (CHUNKED + b"zz\r\n", 400),
    "chunk size with a sign": (CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", 400),
    "chunk size with 0x": (CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n", 400),
    "chunk size that overflows": (CHUNKED + b"fffffffffffffffff\r\n", 400),
    "chunk without its end": (CHUNKED + b"5\r\nhelloXX0\r\n\r\n", 400),
    "chunk size line with bare LF": (CHUNKED + b"5\nhello\r\n0\r\n\r\n", 400),
    "chunk end with bare LF": (CHUNKED + b"5\r\nhello\n0\r\n\r\n", 400),
    "bare LF lines": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare LF in a header": (GET + b"X: a\nY: b\r\n\r\n", 400),
    "bare CR in a header": (GET + b"X: a\rY: b\r\n\r\n", 400),
    "folded header": (GET + b"X: a\r\n b\r\n\r\n", 400),
    "leading folded header": (b"GET / HTTP/1.1\r\n X: a\r\nHost: a\r\n\r\n", 400),
    "space before the colon": (GET + b"X : a\r\n\r\n", 400),
    "header without a colon": (GET + b"X\r\n\r\n", 400),
    "header without a name": (GET + b": a\r\n\r\n", 400),
    "NUL in a value": (GET + b"X: a\0b\r\n\r\n", 400),
    "NUL in a name": (GET + b"X\0Y: a\r\n\r\n", 400),
    "control character in a value": (GET + b"X: a\x01b\r\n\r\n", 400),
    "DEL in a value": (GET + b"X: a\x7fb\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "RTSP": (b"OPTIONS / RTSP/1.0\r\nHost: a\r\n\r\n", 400),
    "lower case version": (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    "unknown method": (b"FROB / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "lower case method": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "absolute form": (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "asterisk form": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "fragment": (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space in the path": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "tab in the path": (b"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "control character in the path": (b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "raw bytes in the path": (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "NUL escaped in the path": (b"GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two spaces in the request line": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "noise": (random.Random(1).randbytes(300), 400),
    "compressed body": (POST + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", 415),
    "long path": (b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "endless path": (b"GET /" + b"a" * 60_000, 414),
    "5 MB header": (GET + b"X: " + b"a" * 5_000_000 + b"\r\n\r\n", 431),
    "large headers": (GET + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 1000) for n in range(70)) + b"\r\n", 431),
    "10,000 headers": (GET + b"".join(b"X%d: a\r\n" % n for n in range(10_000)) + b"\r\n", 431),
    "129 headers": (GET + b"".join(b"X%d: a\r\n" % n for n in range(128)) + b"\r\n", 431),
    "length over the cap": (POST + b"Content-Length: 1000001\r\n\r\n", 413),
    "chunks over the cap": (CHUNKED + b"f4240\r\n" + b"a" * 1_000_000 + b"\r\n1\r\nb\r\n", 413),
    "chunks of framing": (CHUNKED + b"".join(b"1;%s\r\na\r\n" % (b"x" * 200) for _ in range(2000)), 400),
}


async def send_what_is_taken(guard: Guarded, request: bytes) -> Any:
    """Send like a client that has no ears while it sends, then listen."""
    peer = await guard.connect()
    sending = asyncio.create_task(peer.send(request))
    try:
        reply = await peer.reply()
        assert await peer.rest() == b"", "the connection closes after its one reply"
        return reply
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        peer.close()


async def stream(scope: Any, receive: Any, send: Any) -> None:
    """Counts until the client has heard enough. A bad body's request gets here, but not its body."""
    if scope["path"] != "/stream":
        while (message := await receive())["type"] != "http.disconnect":
            assert message["more_body"], "a bad body was taken for a whole one"
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    client = scope["extensions"]["aidock.client"]
    number = 0
    while not client.gone:
        await send({"type": "http.response.body", "body": b"%d\n" % number, "more_body": True})
        number += 1
        await asyncio.sleep(0.01)


@pytest.fixture
async def guard() -> Any:
    async with guarded(stream, max_body_bytes=1_000_000) as guard:
        yield guard


@pytest.mark.parametrize("name", BAD)
async def test_bad_input_gets_a_4xx_in_a_second_while_a_stream_goes_on(guard: Guarded, name: str) -> None:
    request, status = BAD[name]
    listener = await guard.connect()
    await listener.send(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
    await listener.until(b"\r\n0\n")
    started = time.monotonic()
    reply = await send_what_is_taken(guard, request)
    assert time.monotonic() - started < 1
    assert reply.status == status
    assert reply.headers["connection"] == "close"
    assert len(reply.headers["x-request-id"]) == 36
    assert set(reply.error) == {"message", "type", "param", "code"}
    assert reply.error["code"] == ("request_too_large" if status in (413, 431) else "invalid_request")
    listener.received = b""
    assert await listener.more(), "the other client's stream was disturbed"
    listener.close()


async def test_refusals_carry_ids_of_their_own(guard: Guarded) -> None:
    ids = {(await guard.ask(b"GET / HTTP/1.1\r\n\r\n")).headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5


async def test_a_smuggled_request_is_never_served() -> None:
    served: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        served.append(scope["path"])
        await read_body(receive)
        await answer(send, b"ok")

    hidden = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
    async with guarded(app) as guard:
        for smuggler in (
            POST + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % len(hidden) + hidden,
            POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n" + hidden,
            POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + hidden,
            POST + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(hidden) + hidden,
            CHUNKED + b"0\r\n\nGET /hidden HTTP/1.1\r\n\r\n",
            CHUNKED + b"2;\nxx\r\n3\r\nabc\r\n0\r\n\r\n" + hidden,
        ):
            peer = await guard.connect()
            await peer.send(smuggler)
            assert (await peer.rest()).startswith(b"HTTP/1.1 400 ")
            peer.close()
    assert "/hidden" not in served


async def test_an_oversized_upload_is_not_read_to_its_end() -> None:
    async with guarded(echo, max_body_bytes=100_000, linger_timeout=0.3) as guard:
        for head in (POST + b"Content-Length: 50000000\r\n\r\n", CHUNKED + b"2faf080\r\n"):
            peer = await guard.connect()
            await peer.send(head)
            sending = asyncio.create_task(peer.send(b"a" * 50_000_000))
            assert (await peer.reply()).status == 413
            await eventually(lambda: not guard.state.connections)
            failure = (await asyncio.gather(sending, return_exceptions=True))[0]
            assert isinstance(failure, ConnectionError), "the server took it all"
            peer.close()


async def test_an_error_in_a_pipelined_request_does_not_overtake_the_answer_before_it() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)
        await answer(send, b"first")

    async with guarded(slow) as guard:
        peer = await guard.connect()
        await peer.send(GET + b"\r\nnonsense\r\n\r\n")
        assert (await peer.reply()).body == b"first"
        assert (await peer.reply()).status == 400
        peer.close()


VALID = POST + b"Content-Type: application/json\r\nContent-Length: 13\r\n\r\n" + b'{"model":"m"}'
VALID_CHUNKED = CHUNKED + b"5;a=b\r\nhello\r\n8\r\n, world!\r\n0\r\nX-Trailer: t\r\n\r\n"

mutations = st.lists(
    st.tuples(
        st.sampled_from(["insert", "replace", "delete"]),
        st.integers(0, 120),
        st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b"\xff", b"0", b"chunked", b"Host: b\r\n"]),
    ),
    min_size=1,
    max_size=4,
)


def mutate(request: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, at, text in changes:
        after = at + (0 if kind == "insert" else max(1, len(text)))
        request = request[:at] + (b"" if kind == "delete" else text) + request[after:]
    return request


async def survive(data: bytes, cuts: int) -> None:
    """Whatever the bytes are: replies are well-formed, none is a 5xx, and the next client is served."""
    async with guarded(echo, header_timeout=0.05, body_timeout=0.05, linger_timeout=0.02, keep_alive=0.05) as guard:
        peer = await guard.connect()
        size = max(1, len(data) // cuts)
        for start in range(0, len(data), size):
            try:
                await peer.send(data[start : start + size])
            except ConnectionError:
                break
            await asyncio.sleep(0)
        received = await asyncio.wait_for(peer.rest(), 5)
        peer.close()
        for status in [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]]:
            assert status[:1] in b"24" or status == b"100"
        assert (await guard.ask(VALID)).status == 200


fuzz = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@fuzz
@given(st.sampled_from([VALID, VALID_CHUNKED]), mutations, st.integers(1, 5))
async def test_mutated_requests_are_answered_or_closed(valid: bytes, changes: Any, cuts: int) -> None:
    await survive(mutate(valid, changes), cuts)


@fuzz
@given(st.binary(max_size=400), st.integers(1, 5))
async def test_random_bytes_are_answered_or_closed(data: bytes, cuts: int) -> None:
    await survive(data, cuts)

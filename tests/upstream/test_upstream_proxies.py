"""Calls through a proxy, and when not to use one."""

from __future__ import annotations

import asyncio
import base64

import pytest

from gateway.core.upstream import Origin, UpstreamFailure
from gateway.upstream.proxies import Proxies, Proxy
from gateway.upstream.tls import TlsSettings
from gateway.upstream.transport import HttpTransport
from tests.support.misbehaving import Expect, Misbehaving, Send, Serve, Stall, ok
from tests.upstream.calls import fetch, post
from tests.upstream.certificates import Authority

FAR = Origin("https", "api.example.com", 443)
FAR_PLAIN = Origin("http", "api.example.com", 80)


class Tunnel:
    """A proxy's CONNECT: whatever host was asked for, it is the upstream at `port` that is reached."""

    def __init__(self, port, authorization=None):
        self.port = port
        self.authorization = authorization

    async def play(self, peer):
        request = await peer.receive()
        if self.authorization and b"proxy-authorization: " + self.authorization not in request:
            await peer.send(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        await peer.send(b"HTTP/1.1 200 Connection established\r\nvia: test\r\n\r\n")
        await asyncio.gather(relay(peer.reader, writer), relay(reader, peer.writer))


async def relay(reader, writer):
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # either side may leave first
    finally:
        writer.close()


def through(proxy, *, userinfo="", tls=None, **more):
    url = f"http://{userinfo}127.0.0.1:{proxy.port}"
    return HttpTransport(tls=tls, environ={"HTTPS_PROXY": url, "HTTP_PROXY": url, **more})


async def test_a_tls_origin_is_reached_through_a_tunnel_that_is_kept(tmp_path):
    authority = Authority(tmp_path)
    async with (
        Misbehaving([Serve(ok(b"far away"))], tls=authority.server("api.example.com")) as upstream,
        Misbehaving([Tunnel(upstream.port)]) as proxy,
    ):
        transport = through(proxy, tls=TlsSettings(ca_file=str(authority.file)))
        request = post(FAR, headers=[(b"authorization", b"Bearer secret")])
        assert await fetch(transport, request) == (200, b"far away")
        assert await fetch(transport, request) == (200, b"far away")
        assert proxy.requests == [b"CONNECT api.example.com:443 HTTP/1.1\r\nhost: api.example.com:443\r\n\r\n"]
        assert b"\r\nhost: api.example.com\r\n" in upstream.requests[0]
        transport.close()


async def test_the_proxys_credentials_go_to_the_proxy_alone(tmp_path):
    authority = Authority(tmp_path)
    expected = b"Basic " + base64.b64encode(b"me:p@ss")
    async with (
        Misbehaving([Serve(ok())], tls=authority.server("api.example.com")) as upstream,
        Misbehaving([Tunnel(upstream.port, expected)]) as proxy,
    ):
        transport = through(proxy, userinfo="me:p%40ss@", tls=TlsSettings(ca_file=str(authority.file)))
        assert (await fetch(transport, post(FAR)))[0] == 200
        assert b"proxy-authorization" not in upstream.requests[0]
        transport.close()


@pytest.mark.parametrize(
    "answer",
    [
        [Send(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")],
        [Send(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")],
        [Send(b"SSH-2.0\r\n\r\n")],
        [Send(b"HTTP/1.1 200 OK\r\n\r\nsurprise"), Stall()],
        [Send(b"x" * 20_000), Stall()],
        [],
    ],
)
async def test_a_proxy_that_refuses_or_babbles_is_a_connect_failure(answer):
    async with Misbehaving([Expect(), *answer]) as proxy:
        transport = through(proxy)
        with pytest.raises(UpstreamFailure) as caught:
            await fetch(transport, post(FAR))
        assert (caught.value.kind, caught.value.unsent) == ("connect", True)


async def test_a_silent_proxy_counts_against_the_connect_deadline():
    async with Misbehaving([Expect(), Stall()]) as proxy:
        with pytest.raises(UpstreamFailure) as caught:
            await fetch(through(proxy), post(FAR, connect=0.2))
        assert caught.value.kind == "connect_timeout"


async def test_a_plain_origin_is_asked_for_in_absolute_form():
    async with Misbehaving([Serve(ok(b"proxied"))]) as proxy:
        transport = through(proxy, userinfo="me:secret@")
        assert await fetch(transport, post(FAR_PLAIN, target=b"/v1/x")) == (200, b"proxied")
        lines = proxy.requests[0].split(b"\r\n")
        assert lines[0] == b"POST http://api.example.com/v1/x HTTP/1.1"
        assert b"host: api.example.com" in lines
        assert b"proxy-authorization: Basic " + base64.b64encode(b"me:secret") in lines
        transport.close()


async def test_loopback_is_never_proxied():
    async with Misbehaving([Serve(ok(b"direct"))]) as upstream, Misbehaving([Serve(ok(b"proxied"))]) as proxy:
        transport = through(proxy)
        assert await fetch(transport, post(upstream.origin)) == (200, b"direct")
        assert proxy.connections == 0
        transport.close()


async def test_the_processs_environment_is_not_looked_at(monkeypatch):
    async with Misbehaving([Serve(ok())]) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        with pytest.raises(UpstreamFailure):
            await fetch(HttpTransport(), post(Origin("http", "nowhere.invalid", 80)))
        assert proxy.connections == 0


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "direct"),
    [
        ("", "api.example.com", 443, False),
        ("*", "api.example.com", 443, True),
        ("example.com", "api.example.com", 443, True),
        ("example.com", "example.com", 443, True),
        ("example.com", "badexample.com", 443, False),
        (".example.com", "api.example.com", 443, True),
        ("*.example.com", "api.example.com", 443, True),
        ("EXAMPLE.com", "api.Example.com", 443, True),
        ("api.example.com:8443", "api.example.com", 8443, True),
        ("api.example.com:8443", "api.example.com", 443, False),
        ("other.org, example.com", "api.example.com", 443, True),
        ("other.org example.com", "api.example.com", 443, True),
        ("10.0.0.0/8", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("10.0.0.0/8", "10.example.com", 443, False),
        ("10.1.2.3", "10.1.2.3", 443, True),
        ("10.1.2.3:80", "10.1.2.3", 443, False),
        ("fd00::/8", "fd12::1", 443, True),
        ("[fd12::1]:443", "fd12::1", 443, True),
        ("[fd12::1]:80", "fd12::1", 443, False),
        ("fd12::1", "fd12:0::1", 443, True),
        ("2.3", "10.1.2.3", 443, False),
        (",,", "api.example.com", 443, False),
        (".", "api.example.com", 443, False),
        ("", "localhost", 443, True),
        ("", "my.localhost", 443, True),
        ("", "127.0.0.2", 443, True),
        ("", "::1", 443, True),
    ],
)
def test_no_proxy(no_proxy, host, port, direct):
    proxies = Proxies({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": no_proxy})
    assert (proxies.proxy_for(Origin("https", host, port)) is None) is direct


@pytest.mark.parametrize(
    ("environ", "http", "https"),
    [
        ({}, None, None),
        ({"HTTP_PROXY": "http://a:1"}, Proxy("a", 1), None),
        ({"https_proxy": "b:2"}, None, Proxy("b", 2)),
        ({"ALL_PROXY": "http://c"}, Proxy("c", 80), Proxy("c", 80)),
        ({"ALL_PROXY": "http://c", "HTTPS_PROXY": "http://b:2"}, Proxy("c", 80), Proxy("b", 2)),
        ({"HTTPS_PROXY": "http://upper", "https_proxy": "http://lower"}, None, Proxy("lower", 80)),
    ],
)
def test_which_variable_counts(environ, http, https):
    proxies = Proxies(environ)
    assert (proxies.proxy_for(FAR_PLAIN), proxies.proxy_for(FAR)) == (http, https)


@pytest.mark.parametrize("url", ["socks5://x:1", "https://x", "http://", "http://x:notaport"])
def test_a_proxy_we_cannot_use_is_found_at_the_start(url):
    with pytest.raises(ValueError, match=r"proxy|[Pp]ort"):
        Proxies({"HTTPS_PROXY": url})


def test_a_proxys_password_is_not_printed():
    (proxy,) = {Proxies({"HTTPS_PROXY": "http://me:secret@proxy:1"}).proxy_for(FAR)}
    assert repr(proxy) == "Proxy(proxy:1)"

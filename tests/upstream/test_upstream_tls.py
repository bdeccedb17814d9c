"""Whom we trust, who we are, and what is said in the clear."""

from __future__ import annotations

import logging
import ssl

import pytest

from gateway.core.upstream import UpstreamFailure
from gateway.upstream.tls import TlsSettings
from gateway.upstream.transport import HttpTransport
from tests.support.misbehaving import Expect, Misbehaving, Reset, Send, Serve, Stall, head, ok
from tests.upstream.calls import fetch, post
from tests.upstream.certificates import Authority


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def trusting(authority):
    transport = HttpTransport(tls=TlsSettings(ca_file=str(authority.file)))
    yield transport
    transport.close()


async def tls_failure(transport, request):
    with pytest.raises(UpstreamFailure) as caught:
        await fetch(transport, request)
    assert caught.value.unsent
    assert transport.connections() == (0, 0)
    return caught.value.kind


async def test_a_custom_authority_is_trusted_and_connections_are_reused(authority, trusting):
    async with Misbehaving([Serve(ok(b"secret"))], tls=authority.server()) as upstream:
        for _ in range(3):
            assert await fetch(trusting, post(upstream.origin)) == (200, b"secret")
        assert upstream.connections == 1


async def test_a_large_body_passes_both_ways(authority, trusting):
    body = bytes(range(256)) * 8_000
    async with Misbehaving([Serve(ok(body))], tls=authority.server()) as upstream:
        assert await fetch(trusting, post(upstream.origin, body)) == (200, body)
        assert upstream.requests[0].endswith(body)


async def test_an_unknown_authority_is_refused(authority, transport):
    async with Misbehaving([Serve(ok())], tls=authority.server()) as upstream:
        assert await tls_failure(transport, post(upstream.origin)) == "tls"
        assert upstream.requests == []


async def test_a_certificate_for_another_host_is_refused(authority, trusting):
    async with Misbehaving([Serve(ok())], tls=authority.server("elsewhere.example")) as upstream:
        assert await tls_failure(trusting, post(upstream.origin)) == "tls"
        assert upstream.requests == []


async def test_verification_is_off_only_when_switched_off_and_says_so(authority, caplog):
    with caplog.at_level(logging.WARNING, "aidock.upstream"):
        transport = HttpTransport(tls=TlsSettings(verify=False))
    assert "not verified" in caplog.text
    async with Misbehaving([Serve(ok())], tls=authority.server("elsewhere.example")) as upstream:
        assert (await fetch(transport, post(upstream.origin)))[0] == 200
        transport.close()


async def test_a_client_certificate_is_shown_where_it_is_asked_for(authority, trusting):
    server = authority.server(asks_for_certificate=True)
    mine = TlsSettings(ca_file=str(authority.file), client_certificate=str(authority.issue("client.example")))
    async with Misbehaving([Serve(ok())], tls=server) as upstream:
        transport = HttpTransport(tls=mine)
        assert (await fetch(transport, post(upstream.origin)))[0] == 200
        transport.close()
        with pytest.raises(UpstreamFailure):
            await fetch(trusting, post(upstream.origin))
        assert len(upstream.requests) == 1


async def test_the_name_is_indicated_and_only_http_1_is_offered(authority, trusting):
    server, asked = authority.server("localhost"), []
    server.sni_callback = lambda connection, name, context: asked.append(name)

    class NoteProtocol:
        async def play(self, peer):
            asked.append(peer.writer.get_extra_info("ssl_object").selected_alpn_protocol())
            await Serve(ok()).play(peer)

    async with Misbehaving([NoteProtocol()], tls=server) as upstream:
        await fetch(trusting, post(upstream.origin._replace(host="localhost")))
    assert asked == ["localhost", "http/1.1"]


async def test_a_plain_server_where_tls_is_expected_is_a_tls_failure(trusting):
    async with Misbehaving([Send(ok()), Stall()]) as upstream:
        assert await tls_failure(trusting, post(upstream.origin._replace(scheme="https"))) == "tls"


async def test_a_silent_handshake_counts_against_the_connect_deadline(trusting):
    async with Misbehaving([Stall()]) as upstream:
        request = post(upstream.origin._replace(scheme="https"), connect=0.2)
        assert await tls_failure(trusting, request) == "connect_timeout"


@pytest.mark.parametrize("ending", [[], [Reset()]], ids=["close", "RST"])
async def test_a_body_cut_under_tls_is_cut(authority, trusting, ending):
    async with Misbehaving([Expect(), Send(head(length=9) + b"abc"), *ending], tls=authority.server()) as upstream:
        with pytest.raises(UpstreamFailure) as caught:
            await fetch(trusting, post(upstream.origin))
        assert caught.value.kind == "cut"


def test_a_bad_authority_file_is_found_at_the_start(tmp_path):
    (tmp_path / "ca.pem").write_text("not a certificate")
    with pytest.raises(ssl.SSLError):
        HttpTransport(tls=TlsSettings(ca_file=str(tmp_path / "ca.pem")))
    with pytest.raises(FileNotFoundError):
        HttpTransport(tls=TlsSettings(ca_file=str(tmp_path / "absent.pem")))


def test_the_authority_file_comes_from_the_environment_given():
    assert TlsSettings.from_environ({"SSL_CERT_FILE": "/x.pem"}).ca_file == "/x.pem"
    assert TlsSettings.from_environ({"SSL_CERT_FILE": ""}).ca_file is None

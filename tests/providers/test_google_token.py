"""Access tokens of service accounts: what is signed, when a token is fetched, and what happens where it cannot be."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.core.credentials import ServiceAccount
from gateway.core.errors import GatewayError
from gateway.core.headers import Headers
from gateway.core.secret import Secret
from gateway.core.upstream import FailureKind, Origin, UpstreamFailure, UpstreamRequest
from providers._google_token import GRANT, SCOPE, Tokens, assertion
from providers.gemini import Gemini
from tests.providers.gemini import vertex
from tests.support.until import until

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: Any) -> Secret:
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


ACCOUNT = ServiceAccount("sa@proj.iam.gserviceaccount.com", pem(KEY), "proj")


class Endpoint:
    """A `Transport` to a token endpoint that answers as told: a status and a body, or a failure."""

    def __init__(self, *answers: tuple[int, bytes] | UpstreamFailure, waits: asyncio.Event | None = None) -> None:
        self._answers = list(answers)
        self._waits = waits
        self.asked: list[UpstreamRequest] = []

    def exchange(self, request: UpstreamRequest) -> Exchange:
        self.asked.append(request)
        return Exchange(self._answers.pop(0), self._waits)


class Exchange:
    def __init__(self, answer: tuple[int, bytes] | UpstreamFailure, waits: asyncio.Event | None) -> None:
        self._answer = answer
        self._waits = waits
        self.status = 0
        self.headers: Headers = []

    async def start(self) -> None:
        if self._waits is not None:
            await self._waits.wait()
        if isinstance(self._answer, UpstreamFailure):
            raise self._answer
        self.status, self._body = self._answer

    async def read(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def close(self) -> None:
        pass


def granted(token: str = "ya29.a", lifetime: Any = 3599) -> tuple[int, bytes]:
    return 200, json.dumps({"access_token": token, "expires_in": lifetime, "token_type": "Bearer"}).encode()


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def test_an_assertion_is_signed_by_the_accounts_key_and_good_for_an_hour() -> None:
    head, claims, signature = assertion(ACCOUNT, 1_700_000_000.9).split(".")
    assert json.loads(_decoded(head)) == {"alg": "RS256", "typ": "JWT"}
    assert json.loads(_decoded(claims)) == {
        "iss": "sa@proj.iam.gserviceaccount.com",
        "scope": SCOPE,
        "aud": "https://oauth2.googleapis.com/token",
        "iat": 1_700_000_000,
        "exp": 1_700_003_600,
    }
    KEY.public_key().verify(_decoded(signature), f"{head}.{claims}".encode(), PKCS1v15(), SHA256())


async def test_a_token_is_asked_for_at_the_accounts_own_address() -> None:
    endpoint = Endpoint(granted())
    account = replace(ACCOUNT, token_uri="http://127.0.0.1:7/oauth/token")
    assert await Tokens().header(account, vertex(), endpoint) == b"Bearer ya29.a"
    (request,) = endpoint.asked
    assert (request.method, request.target, request.origin.port) == (b"POST", b"/oauth/token", 7)
    form = parse_qs(request.body.decode())
    assert form["grant_type"] == [GRANT]
    assert json.loads(_decoded(form["assertion"][0].split(".")[1]))["aud"] == account.token_uri


async def test_a_token_is_kept_and_one_that_ends_soon_is_fetched_anew() -> None:
    tokens, endpoint = Tokens(), Endpoint(granted("one"), granted("two", 0))
    assert [await tokens.header(ACCOUNT, vertex(), endpoint) for _ in range(3)] == [b"Bearer one"] * 3
    assert len(endpoint.asked) == 1
    tokens.forget(ACCOUNT)
    assert await tokens.header(ACCOUNT, vertex(), endpoint) == b"Bearer two"
    ended = Endpoint(granted("three"))
    assert await tokens.header(ACCOUNT, vertex(), ended) == b"Bearer three"


async def test_accounts_do_not_share_a_token() -> None:
    tokens = Tokens()
    other = replace(ACCOUNT, email="other@proj")
    assert await tokens.header(ACCOUNT, vertex(), Endpoint(granted("one"))) == b"Bearer one"
    assert await tokens.header(other, vertex(), Endpoint(granted("two"))) == b"Bearer two"


async def test_calls_that_need_a_token_at_once_share_one_fetch_even_if_the_first_leaves() -> None:
    waits = asyncio.Event()
    tokens, endpoint = Tokens(), Endpoint(granted(), waits=waits)
    calls = [asyncio.create_task(tokens.header(ACCOUNT, vertex(), endpoint)) for _ in range(5)]
    await until(lambda: bool(endpoint.asked))
    calls[0].cancel()
    await asyncio.sleep(0)
    waits.set()
    assert await asyncio.gather(*calls[1:]) == [b"Bearer ya29.a"] * 4
    assert calls[0].cancelled()
    assert len(endpoint.asked) == 1


async def test_a_failed_fetch_fails_those_who_wait_and_nobody_after_them() -> None:
    tokens, endpoint = Tokens(), Endpoint((500, b"oops"), granted())
    failed = await asyncio.gather(
        *[tokens.header(ACCOUNT, vertex(), endpoint) for _ in range(3)], return_exceptions=True
    )
    assert [isinstance(error, GatewayError) and error.status for error in failed] == [502] * 3
    assert await tokens.header(ACCOUNT, vertex(), endpoint) == b"Bearer ya29.a"


def failure(kind: FailureKind) -> UpstreamFailure:
    return UpstreamFailure(kind, "broke")


@pytest.mark.parametrize(
    ("answers", "status", "says"),
    [
        ([(400, b'{"error":"invalid_grant"}')], 502, "administrator"),
        ([(503, b"")], 502, "no access token"),
        ([(429, b"{}")], 502, "no access token"),
        ([(200, b"<html>")], 502, "no access token"),
        ([(200, b"[]")], 502, "no access token"),
        ([(200, b'{"access_token":""}')], 502, "no access token"),
        ([(200, b'{"access_token":"a","expires_in":"soon"}')], 502, "no access token"),
        ([(200, b"x" * 200_000)], 502, "no access token"),
        ([failure("connect")], 502, "cannot be reached"),
        ([failure("first_byte_timeout")], 504, "in time"),
    ],
)
async def test_a_token_that_cannot_be_had_is_told_without_secrets(
    answers: Sequence[tuple[int, bytes] | UpstreamFailure], status: int, says: str
) -> None:
    with pytest.raises(GatewayError, match=says) as caught:
        await Tokens().header(ACCOUNT, vertex(), Endpoint(*answers))
    assert caught.value.status == status
    assert "oauth2" not in caught.value.message
    assert "gserviceaccount" not in caught.value.message


@pytest.mark.parametrize("key", [Secret("PEM"), Secret(""), pem(ec.generate_private_key(ec.SECP256R1()))])
async def test_a_key_that_cannot_sign_is_the_administrators_affair(key: Secret) -> None:
    with pytest.raises(GatewayError, match="private key") as caught:
        await Tokens().header(replace(ACCOUNT, private_key=key), vertex(), Endpoint())
    assert caught.value.status == 502


async def test_a_token_that_the_api_refuses_is_fetched_anew() -> None:
    provider, target = Gemini(), vertex(account=ACCOUNT)
    endpoint = Endpoint(granted("one"), granted("two"))
    for expected in (b"Bearer one", b"Bearer two"):
        request = UpstreamRequest(b"POST", Origin("https", "x.example.com", 443), b"/", [], b"", target.deadlines)
        await provider.authorize(request, target, endpoint)
        assert request.headers == [(b"authorization", expected)]
        provider.error(401, [], b"{}", target)


async def test_a_key_of_ai_studio_needs_no_token() -> None:
    target = vertex(account=None)
    request = UpstreamRequest(b"POST", Origin("https", "x.example.com", 443), b"/", [], b"", target.deadlines)
    await Gemini().authorize(request, target, Endpoint())
    assert request.headers == []

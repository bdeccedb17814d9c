"""Access tokens of service accounts: what is signed, where it goes, and what happens where it cannot be signed."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.core.credentials import ServiceAccount
from gateway.core.errors import GatewayError
from gateway.core.secret import Secret
from gateway.core.upstream import Origin, UpstreamRequest
from providers._google_token import GRANT, SCOPE, assertion, google_tokens
from providers.gemini import Gemini
from providers.openai import OpenAI
from tests.providers.gemini import vertex
from tests.providers.tokens import Endpoint, form_of, granted

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: Any) -> Secret:
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


ACCOUNT = ServiceAccount("sa@proj.iam.gserviceaccount.com", pem(KEY), "proj")


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
    assert await google_tokens().header(account, vertex(), endpoint) == b"Bearer eyJ.a"
    (request,) = endpoint.asked
    assert (request.method, request.target, request.origin.port) == (b"POST", b"/oauth/token", 7)
    form = form_of(request)
    assert form["grant_type"] == GRANT
    assert json.loads(_decoded(form["assertion"].split(".")[1]))["aud"] == account.token_uri


@pytest.mark.parametrize("key", [Secret("PEM"), Secret(""), pem(ec.generate_private_key(ec.SECP256R1()))])
async def test_a_key_that_cannot_sign_is_the_administrators_affair(key: Secret) -> None:
    with pytest.raises(GatewayError, match=r"private key of its service account .* administrator") as caught:
        await google_tokens().header(replace(ACCOUNT, private_key=key), vertex(), Endpoint())
    assert caught.value.status == 502


@pytest.mark.parametrize("provider", [Gemini(), OpenAI()], ids=["Gemini's dialect", "OpenAI's dialect"])
async def test_vertex_is_asked_with_a_token_of_its_account(provider: Gemini | OpenAI) -> None:
    target = vertex(account=ACCOUNT)
    request = UpstreamRequest(b"POST", Origin("https", "x.example.com", 443), b"/", [], b"", target.deadlines)
    await provider.authorize(request, target, Endpoint(granted("one")))
    assert request.headers == [(b"authorization", b"Bearer one")]


async def test_a_key_of_ai_studio_needs_no_token() -> None:
    target = vertex(account=None)
    request = UpstreamRequest(b"POST", Origin("https", "x.example.com", 443), b"/", [], b"", target.deadlines)
    await Gemini().authorize(request, target, Endpoint())
    assert request.headers == []

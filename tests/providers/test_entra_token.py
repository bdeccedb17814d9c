"""Access tokens of applications of Microsoft Entra ID, and the calls that carry them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.credentials import AwsKeys, Credential, EntraApp
from gateway.core.deployment import Target
from gateway.core.errors import GatewayError
from gateway.core.headers import Headers
from gateway.core.secret import Secret
from gateway.core.upstream import Origin
from providers import _tokens
from providers._entra_token import entra_tokens
from providers.openai import OpenAI
from tests.providers.calls import KEY, a_call, a_target
from tests.providers.tokens import Endpoint, form_of, granted

APP = EntraApp("11111111-2222-3333-4444-555555555555", "aaaa-bbbb", Secret("~s&cr=t +"))
AZURE = {"path": "azure", "auth": "api-key"}


def on_azure(credential: Credential | None = APP, key: str | None = None) -> Target:
    target = a_target(AZURE, base_url="https://x.openai.azure.example", key=key)
    return replace(target, upstream=replace(target.upstream, credential=credential), memo={})


async def sent(provider: OpenAI, target: Target, endpoint: Endpoint) -> Headers:
    """The credentials that a call goes out with."""
    request = provider.request(a_call({"model": "gpt-x"}), target)
    await provider.authorize(request, target, endpoint)
    return [pair for pair in request.headers if pair[0] in (b"authorization", b"api-key")]


async def test_a_token_is_asked_for_by_client_secret_at_the_tenants_address() -> None:
    endpoint = Endpoint(granted())
    assert await entra_tokens().header(APP, on_azure(), endpoint) == b"Bearer eyJ.a"
    (request,) = endpoint.asked
    assert request.origin == Origin("https", "login.microsoftonline.com", 443)
    assert (request.method, request.target) == (b"POST", f"/{APP.tenant_id}/oauth2/v2.0/token".encode())
    assert form_of(request) == {
        "grant_type": "client_credentials",
        "client_id": "aaaa-bbbb",
        "client_secret": "~s&cr=t +",
        "scope": "https://cognitiveservices.azure.com/.default",
    }


async def test_other_clouds_have_an_authority_and_a_scope_of_their_own() -> None:
    endpoint = Endpoint(granted())
    scope = "https://cognitiveservices.azure.us/.default"
    app = replace(APP, tenant_id="our org/x", authority="http://127.0.0.1:7/login", scope=scope)
    await entra_tokens().header(app, on_azure(), endpoint)
    (request,) = endpoint.asked
    assert (request.origin.port, request.target) == (7, b"/login/our%20org%2Fx/oauth2/v2.0/token")
    assert form_of(request)["scope"] == scope


async def test_azure_is_asked_with_a_token_and_without_a_key() -> None:
    provider, endpoint = OpenAI(), Endpoint(granted("one"))
    for _ in range(3):
        assert await sent(provider, on_azure(), endpoint) == [(b"authorization", b"Bearer one")]
    assert len(endpoint.asked) == 1


async def test_a_token_that_azure_refuses_is_fetched_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tokens, "YOUNG_S", 0.0)
    provider, endpoint = OpenAI(), Endpoint(granted("one"), granted("two"))
    assert await sent(provider, on_azure(), endpoint) == [(b"authorization", b"Bearer one")]
    provider.error(403, [], b"{}", on_azure())
    assert await sent(provider, on_azure(), endpoint) == [(b"authorization", b"Bearer one")]
    assert provider.error(401, [], b'{"error":{"code":"401","message":"x"}}', on_azure()).status == 502
    assert await sent(provider, on_azure(), endpoint) == [(b"authorization", b"Bearer two")]


async def test_a_refused_key_is_no_refused_token() -> None:
    assert OpenAI().error(401, [], b"{}", on_azure(None, KEY)).code == "upstream_error"


async def test_a_key_is_sent_as_it_is() -> None:
    assert await sent(OpenAI(), on_azure(None, KEY), Endpoint()) == [(b"api-key", KEY.encode())]


async def test_a_credential_of_another_kind_is_not_used() -> None:
    keys = AwsKeys("us-east-1", "AKIA", Secret("s"))
    assert await sent(OpenAI(), on_azure(keys), Endpoint()) == []


async def test_an_application_that_entra_refuses_is_the_administrators_affair() -> None:
    told = b'{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret for aaaa-bbbb"}'
    with pytest.raises(GatewayError, match="Microsoft Entra refused the gateway's application") as caught:
        await sent(OpenAI(), on_azure(), Endpoint((401, told)))
    assert (caught.value.status, caught.value.code) == (502, "upstream_error")
    assert "aaaa" not in caught.value.message

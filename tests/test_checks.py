"""Active checks, over real sockets: what is asked, when, and what an answer means for a deployment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from gateway import plugins
from gateway.attempt import Carrier
from gateway.checks import Checks
from gateway.core.deployment import HealthCheck, Target
from gateway.core.errors import upstream_error
from gateway.core.ports import Checkable
from gateway.core.upstream import Transport, UpstreamRequest
from gateway.health import Health
from gateway.routing import Standing
from gateway.upstream.transport import HttpTransport
from providers.openai import PROVIDER
from tests.support.calls import a_target
from tests.support.misbehaving import Expect, Misbehaving, Reset, Send, Serve, Step, ok

USUAL = HealthCheck(30.0)
KEY = b"sk-upstream-0123456780"


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    transport = HttpTransport()
    yield transport
    transport.close()


def checked(upstream: Misbehaving, check: HealthCheck | None = USUAL, **quirks: Any) -> Target:
    target = a_target()
    place = replace(target.upstream, base_url=f"{upstream.url}/v1", health_check=check, quirks=quirks)
    return replace(target, upstream=place)


def checks(health: Health, transport: HttpTransport, *targets: Target, provider: Any = PROVIDER) -> Checks:
    return Checks(health, lambda: targets, lambda: {"corp": Carrier(provider, transport)})


async def test_a_check_lists_the_models_with_the_deployments_own_key(transport: HttpTransport) -> None:
    health = Health()
    async with Misbehaving([Serve(ok())]) as upstream:
        target = checked(upstream)
        await checks(health, transport, target).round(100.0)
        (asked,) = upstream.requests
    assert asked.startswith(b"GET /v1/models HTTP/1.1\r\n")
    assert b"authorization: Bearer " + KEY in asked
    assert health.standing(target) is Standing.READY


async def test_the_path_and_the_dated_form_of_azure_are_as_configured(transport: HttpTransport) -> None:
    async with Misbehaving([Serve(ok())]) as upstream:
        named = checked(upstream, HealthCheck(30.0, "/health?deep=1"))
        dated = checked(upstream, path="azure", auth="api-key", api_version="2024-10-21")
        await checks(Health(), transport, named).round(100.0)
        await checks(Health(), transport, dated).round(100.0)
        lines = [request.split(b"\r\n")[0] for request in upstream.requests]
    assert lines == [
        b"GET /v1/health?deep=1 HTTP/1.1",
        b"GET /v1/openai/models?api-version=2024-10-21 HTTP/1.1",
    ]


async def test_a_deployment_is_checked_once_an_interval_and_one_without_checks_never(transport: HttpTransport) -> None:
    async with Misbehaving([Serve(ok())]) as upstream:
        quiet = replace(checked(upstream, None), upstream_model="quiet")
        made = checks(Health(), transport, checked(upstream), quiet)
        for now in (100.0, 110.0, 126.0):
            await made.round(now)
        assert len(upstream.requests) == 1
        await made.round(134.0)
        assert len(upstream.requests) == 2


ILL: dict[str, list[Step]] = {
    "500": [Serve(ok(b"{}", 500))],
    "401": [Serve(ok(b"{}", 401))],
    "a reset": [Expect(), Reset()],
    "bytes that are not HTTP": [Expect(), Send(b"SSH-2.0\r\n\r\n")],
}


@pytest.mark.parametrize("script", ILL.values(), ids=ILL)
async def test_checks_that_fail_make_a_deployment_rest(transport: HttpTransport, script: list[Step]) -> None:
    health = Health()
    async with Misbehaving(script) as upstream:
        target = checked(upstream)
        made = checks(health, transport, target)
        for now in (100.0, 200.0):
            await made.round(now)
        assert health.standing(target) is Standing.READY
        await made.round(300.0)
    assert health.standing(target) is Standing.RESTING


@pytest.mark.parametrize("status", [200, 404, 429])
async def test_an_upstream_that_answers_is_well_enough_to_be_tried(transport: HttpTransport, status: int) -> None:
    health = Health()
    async with Misbehaving([Serve(ok(b"{}", status))]) as upstream:
        target = checked(upstream)
        for _ in range(3):
            health.failed(target, "server_error")
        await checks(health, transport, target).round(100.0)
    assert health.standing(target) is Standing.TRIAL


class Signing:
    """A provider whose token cannot be had."""

    check = staticmethod(PROVIDER.check)

    async def authorize(self, request: UpstreamRequest, target: Target, transport: Transport) -> None:
        raise upstream_error("no token")


async def test_a_credential_that_cannot_be_had_is_a_failed_check(transport: HttpTransport) -> None:
    health = Health()
    async with Misbehaving([Serve(ok())]) as upstream:
        target = checked(upstream)
        signing: Any = Signing()
        made = Checks(health, lambda: [target], lambda: {"corp": Carrier(signing, transport, signing.authorize)})
        for now in (100.0, 200.0, 300.0):
            await made.round(now)
        assert upstream.requests == []
    assert health.standing(target) is Standing.RESTING


async def test_a_provider_that_knows_no_check_is_left_alone_and_that_is_said_once(
    transport: HttpTransport, caplog: pytest.LogCaptureFixture
) -> None:
    async with Misbehaving([Serve(ok())]) as upstream:
        made = checks(Health(), transport, checked(upstream), provider=object())
        for now in (100.0, 200.0):
            await made.round(now)
        assert upstream.requests == []
    assert [record.getMessage() for record in caplog.records] == ["a provider's dialect knows no health check"]


DIALECTS: dict[str, tuple[str, str, bytes, bytes]] = {
    "openai": ("/v1", "gpt-x", b"GET /v1/models ", b"authorization: Bearer "),
    "mistral": ("/v1", "mistral-x", b"GET /v1/models ", b"authorization: Bearer "),
    "anthropic": ("", "claude-opus-4-8", b"GET /v1/models ", b"anthropic-version: "),
    "gemini": ("/v1beta", "gemini-x", b"GET /v1beta/models/gemini-x ", b"x-goog-api-key: "),
    "cohere": ("", "command-x", b"GET /v1/models ", b"authorization: Bearer "),
    "ollama": ("", "llama", b"GET /api/version ", b"authorization: Bearer "),
}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_each_dialect_has_something_to_ask_for_that_costs_nothing(transport: HttpTransport, dialect: str) -> None:
    below, model, line, header = DIALECTS[dialect]
    provider: Any = plugins.providers()[dialect]
    assert isinstance(provider, Checkable)
    async with Misbehaving([Serve(ok())]) as upstream:
        target = replace(checked(upstream), upstream_model=model)
        target = replace(target, upstream=replace(target.upstream, base_url=f"{upstream.url}{below}"))
        named = replace(target, upstream=replace(target.upstream, health_check=HealthCheck(9.0, "/alive")), memo={})
        for each in (target, named):
            await checks(Health(), transport, each, provider=provider).round(100.0)
        usual, other = upstream.requests
    assert usual.startswith(line)
    assert header in usual
    assert KEY in usual + other
    assert other.startswith(b"GET %b/alive " % below.encode())


async def test_checks_go_on_until_they_are_stopped(transport: HttpTransport) -> None:
    async with Misbehaving([Serve(ok())]) as upstream:
        task = asyncio.create_task(checks(Health(), transport, checked(upstream, HealthCheck(0.01))).run())
        async with asyncio.timeout(20):
            while len(upstream.requests) < 2:  # noqa: ASYNC110  the upstream has no event to set
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])

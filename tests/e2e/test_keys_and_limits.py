"""Keys and limits, changed beside a running gateway and enforced by it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from gateway.core.limits import Action, Limit
from tests.e2e import wire
from tests.e2e.conftest import Proxying
from tests.support.gateway import SEEN_S, Gateway, chat, running_gateway
from tests.support.misbehaving import Expect, Send
from tests.support.until import until

CHAT = "/v1/chat/completions"


def public_id(key: str) -> str:
    return key.removeprefix("sk-aidock-")[:12]


def answers_with(gateway: Gateway, key: str, status: int) -> Callable[[], Awaitable[bool]]:
    async def answered() -> bool:
        return (await gateway.ask("/v1/models", key=key)).status_code == status

    return answered


async def a_minute_with_room(seconds: float) -> None:
    """Return when the current minute lasts long enough for a test of a minute's limit."""
    left = 60 - time.time() % 60
    if left < seconds:
        await asyncio.sleep(left + 0.1)


# Keys


async def test_a_revoked_key_is_refused_within_five_seconds(demo: Gateway) -> None:
    key = await demo.issue("revoked@example.com")
    assert (await demo.ask(CHAT, chat(), key=key)).status_code == 200
    await demo.cli("keys", "revoke", public_id(key))
    await until(answers_with(demo, key, 401), SEEN_S)
    error = (await demo.ask(CHAT, chat(), key=key)).json()["error"]
    assert error["code"] == "invalid_api_key"
    assert "revoked" in error["message"]
    assert key not in error["message"]


async def test_a_key_ends_when_it_expires(demo: Gateway) -> None:
    key = await demo.issue("guest@example.com", expires_at=time.time() + 1.5)
    assert (await demo.ask("/v1/models", key=key)).status_code == 200
    await until(answers_with(demo, key, 401), SEEN_S)
    assert "expired" in (await demo.ask(CHAT, chat(), key=key)).json()["error"]["message"]


async def test_a_rotated_key_and_its_successor_overlap(demo: Gateway) -> None:
    old = await demo.issue("rotating@example.com", models=["demo"])
    new = (await demo.cli("keys", "rotate", public_id(old), "--overlap", "3s")).strip()
    rotated_at = time.monotonic()
    for key in (old, new):
        assert (await demo.ask("/v1/models", key=key)).status_code == 200
    assert time.monotonic() - rotated_at < 2, "the machine was too slow for the overlap"
    await until(answers_with(demo, old, 401), SEEN_S + 3)
    assert (await demo.ask("/v1/models", key=new)).status_code == 200


async def test_the_keys_of_an_archived_department_are_refused(demo: Gateway) -> None:
    key = await demo.issue("eve@example.com", department="closing")
    assert (await demo.ask("/v1/models", key=key)).status_code == 200
    await demo.cli("departments", "update", "closing", "--archive")
    await until(answers_with(demo, key, 401), SEEN_S)
    assert "archived" in (await demo.ask("/v1/models", key=key)).json()["error"]["message"]


async def test_a_model_off_the_list_does_not_exist_for_a_key(proxying: Proxying) -> None:
    gateway = proxying.gateway
    key = await gateway.issue("narrow@example.com", models=["spare", "pair"])
    listed = (await gateway.ask("/v1/models", key=key)).json()["data"]
    assert [model["id"] for model in listed] == ["spare", "pair"]
    assert (await gateway.ask("/v1/models/spare", key=key)).status_code == 200
    hidden = await gateway.ask(CHAT, chat(model="priced"), key=key)
    unknown = await gateway.ask(CHAT, chat(model="pricey"), key=key)
    assert hidden.status_code == unknown.status_code == 404
    one, other = hidden.json()["error"], unknown.json()["error"]
    assert one["message"].replace("priced", "pricey") == other["message"]
    assert {**one, "message": ""} == {**other, "message": ""}
    assert (await gateway.ask("/v1/models/priced", key=key)).json()["error"]["code"] == "model_not_found"


# Limits


async def test_a_full_minute_is_a_429_that_says_when_to_come_back(demo: Gateway) -> None:
    user = "hasty@example.com"
    key = await demo.issue(user)
    await demo.limit(key, Limit("user", user, "requests", "minute", 2))
    await a_minute_with_room(5)
    answers = [await demo.ask(CHAT, chat(), key=key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers[:2]] == ["1", "0"]
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers[:2]} == {"2"}
    assert 0 < int(answers[0].headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
    error = answers[2].json()["error"]
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert 0 < int(answers[2].headers["retry-after"]) <= 60
    assert "x-should-retry" not in answers[2].headers
    assert len(demo.rows("user = ?", user)) <= 2, "a refused call is not a row"


async def test_a_spent_budget_is_a_429_that_the_sdk_does_not_repeat(demo: Gateway) -> None:
    user = "thrifty@example.com"
    key = await demo.issue(user)
    await demo.cli("quotas", "set", "user", user, "requests", "1", "month")

    async def bound() -> bool:
        return ("requests", "month") in (await demo.me(key))["limits"]

    await until(bound, SEEN_S)
    sent: list[httpx.Request] = []

    async def note(request: httpx.Request) -> None:
        sent.append(request)

    http = httpx.AsyncClient(event_hooks={"request": [note]}, trust_env=False, verify=False)
    async with AsyncOpenAI(base_url=f"{demo.url}/v1", api_key=key, max_retries=3, http_client=http) as client:
        hello: Any = [{"role": "user", "content": "Hello"}]
        await client.chat.completions.create(model="demo", messages=hello)
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="demo", messages=hello)
    assert len(sent) == 2
    assert caught.value.code == "insufficient_quota"
    headers = caught.value.response.headers
    assert headers["x-should-retry"] == "false"
    assert 0 < int(headers["retry-after"]) <= 31 * 86_400
    for word in (f"user {user}", "limit 1 requests per month", "1 requests used", "resets in"):
        assert word in caught.value.message


async def test_a_budget_in_dollars_is_counted_to_the_micro_dollar(proxying: Proxying) -> None:
    gateway = proxying.gateway
    user, key = await proxying.new_user()
    await gateway.limit(key, Limit("user", user, "cost", "month", 1000), Limit("user", user, "tokens", "month", 900))
    async with proxying.upstream([Expect(), Send(wire.WHOLE)]) as upstream:
        body = chat(model="priced", max_tokens=50)
        answer = await gateway.ask(CHAT, body, key=key)
        assert json.loads(upstream.requests[0].partition(b"\r\n\r\n")[2])["max_tokens"] == 50
        held = len(json.dumps(body).encode()) + 50
        assert answer.headers["x-ratelimit-remaining-tokens"] == str(900 - held)
        too_much = await gateway.ask(CHAT, chat(model="priced", max_tokens=500), key=key)
    limits = (await gateway.me(key))["limits"]
    assert limits["cost", "month"]["used"] == wire.COST_OF_USAGE / 1_000_000
    assert limits["tokens", "month"]["used"] == 15
    error = too_much.json()["error"]
    assert (too_much.status_code, error["code"]) == (429, "insufficient_quota")
    assert "$0.001" in error["message"]


@pytest.mark.parametrize("action", ["warn", "shadow"])
async def test_a_limit_that_only_watches_lets_calls_pass_and_counts_them(demo: Gateway, action: Action) -> None:
    user = f"{action}@example.com"
    key = await demo.issue(user)
    await demo.limit(key, Limit("user", user, "requests", "month", 1, action))
    over = {"scope": "user", "metric": "requests", "action": action}
    before = await demo.metric("aidock_quota_over_limit_total", **over)
    answers = [await demo.ask(CHAT, chat(), key=key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert not any("x-ratelimit-limit-requests" in answer.headers for answer in answers)
    assert await demo.metric("aidock_quota_over_limit_total", **over) - before == 2
    assert (await demo.me(key))["limits"]["requests", "month"]["used"] == 3


async def test_near_the_end_of_a_budget_an_unset_cap_shrinks_to_what_is_left(demo: Gateway) -> None:
    user = "nearly@example.com"
    key = await demo.issue(user)
    await demo.limit(key, Limit("user", user, "tokens", "month", 300))
    body = chat("/long 5000")
    prompt = len(json.dumps(body).encode())
    answer = await demo.ask(CHAT, body, key=key)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    assert answer.json()["usage"]["completion_tokens"] == 300 - prompt
    used = (await demo.me(key))["limits"]["tokens", "month"]["used"]
    assert used == answer.json()["usage"]["total_tokens"] <= 300
    insisting = await demo.ask(CHAT, {**body, "max_tokens": 5000}, key=key)
    assert insisting.json()["error"]["code"] == "insufficient_quota", "a cap that the client chose is not lowered"


async def test_a_call_that_failed_upstream_uses_nothing_up(demo: Gateway) -> None:
    user = "unlucky@example.com"
    key = await demo.issue(user)
    await demo.limit(key, Limit("user", user, "requests", "month", 2), Limit("user", user, "tokens", "month", 9000))
    for _ in range(3):
        assert (await demo.ask(CHAT, chat("/error 500"), key=key)).status_code == 502
    assert [limit["used"] for limit in (await demo.me(key))["limits"].values()] == [0, 0]


async def test_a_restart_of_the_embedded_gateway_forgets_no_usage(tmp_path: Path) -> None:
    quotas = [
        {"scope": "global", "metric": "requests", "limit": 100, "window": "month"},
        {"scope": "department", "subject": "default", "metric": "tokens", "limit": 10_000, "window": "day"},
        {"scope": "model", "subject": "demo", "metric": "requests", "limit": 5, "window": "total"},
    ]
    with running_gateway(tmp_path, {"quotas": quotas}) as gateway:
        for text in ("one", "two", "/error 500", "/error 400"):
            await gateway.ask(CHAT, chat(text))
        before = (await gateway.me())["limits"]
        assert before["requests", "month"]["used"] == 2
        assert gateway.stop() == 0
        await asyncio.to_thread(gateway.start)
        after = (await gateway.me())["limits"]
        assert {name: limit["used"] for name, limit in after.items()} == {
            name: limit["used"] for name, limit in before.items()
        }
        answers = [await gateway.ask(CHAT, chat()) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]


def test_nothing_of_all_this_was_an_error_of_the_gateways_own(demo: Gateway) -> None:
    assert demo.errors() == []

"""Receipts and the report of refusals in shadow, from calls that a real gateway served."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.core.limits import Limit
from tests.support.gateway import Gateway, chat, running_gateway
from tests.support.until import until

CHAT = "/v1/chat/completions"
CONFIG: dict[str, Any] = {
    "providers": {"demo": {"dialect": "demo", "quirks": {"tokens_per_second": 10_000}}},
    "models": [
        {"model_id": "priced", "provider": "demo", "upstream_model": "demo", "price": {"input": 1.0, "output": 2.0}},
        {"model_id": "demo", "provider": "demo"},
    ],
    "policies": ["model_access", {"rate_limit": {"shadow": True}}, {"quota": {"estimate": "balanced"}}],
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("admin"), CONFIG) as running:
        yield running
        assert running.errors() == []


async def served(gateway: Gateway, key: str, **members: Any) -> str:
    """The request id of a call whose row is in the ledger."""
    answer = await gateway.ask(CHAT, chat(model="priced", **members), key=key)
    assert answer.status_code == 200, answer.text
    request_id: str = answer.headers["x-request-id"]
    await gateway.row(request_id)
    return request_id


async def test_a_receipt_says_what_a_call_held_used_and_cost(gateway: Gateway) -> None:
    user = "ada@example.com"
    key = await gateway.issue(user)
    await gateway.limit(key, Limit("user", user, "tokens", "day", 100_000), Limit("user", user, "cost", "month", 10**9))
    request_id = await served(gateway, key)
    found = (await gateway.ask(f"/api/v1/usage/{request_id}", key=key)).json()
    tokens, row = found["tokens"], await gateway.row(request_id)
    assert (tokens["prompt"], tokens["completion"]) == (row["prompt_tokens"], row["completion_tokens"])
    assert found["prices"]["input"] == 1.0
    assert round(found["cost_usd"] * 1_000_000) == row["cost_microusd"] == tokens["prompt"] + 2 * tokens["completion"]
    told = {each["metric"]: each for each in found["decisions"]}
    assert told.keys() == {"tokens", "cost"}
    assert told["tokens"]["limit"] == 100_000
    assert told["tokens"]["held"] == told["tokens"]["used"] == found["reserved"]["tokens"]
    assert 1024 < found["reserved"]["tokens"] < 1100, "a balanced budget holds what is likely"
    assert found["settled"]["tokens"] == tokens["prompt"] + tokens["completion"]
    beside = json.loads(await gateway.cli("usage", "--request", request_id, "--json"))
    assert beside == found
    other = await gateway.issue("eve@example.com")
    assert (await gateway.ask(f"/api/v1/usage/{request_id}", key=other)).status_code == 404
    assert (await gateway.ask(f"/api/v1/usage/{request_id}")).json() == found, "administrators see every receipt"


async def test_what_a_policy_in_shadow_would_refuse_passes_and_is_reported(gateway: Gateway) -> None:
    user = "zoe@example.com"
    key = await gateway.issue(user)
    await gateway.limit(key, Limit("user", user, "requests", "minute", 0))
    for _ in range(3):
        await served(gateway, key)
    explained = (await gateway.ask("/api/v1/quotas/explain", {"model": "priced"}, key=key)).json()
    assert explained["decision"]["allowed"] is True
    assert [(each["action"], each["verdict"]) for each in explained["limits"]] == [("shadow", "would_refuse")]
    assert (await gateway.me(key))["limits"]["requests", "minute"]["action"] == "shadow"
    today = f"{datetime.fromtimestamp(time.time(), UTC):%Y-%m-%d}"

    async def reported() -> bool:
        rows = (await gateway.ask(f"/api/v1/shadow?by=user,policy&from={today}")).json()["data"]
        return [row["refused"] for row in rows if row["user"] == user] == [3]

    await until(reported, 20)
    assert (await gateway.ask("/api/v1/shadow", key=key)).status_code == 403
    listed = json.loads(await gateway.cli("quotas", "shadow", "--by", "user,policy,metric", "--json"))
    (row,) = [row for row in listed if row["user"] == user]
    assert (row["policy"], row["metric"], row["refused"]) == ("rate_limit", "requests", 3)


async def test_the_console_of_errors_is_openais(gateway: Gateway) -> None:
    for path, body, status in (
        ("/api/v1/usage/none", None, 404),
        ("/api/v1/quotas/explain", {"modle": "m"}, 422),
        ("/api/v1/quotas/explain", b" " * 70_000, 413),
        ("/api/v1/shadow", {}, 405),
        ("/api/v1/none", None, 404),
    ):
        answer = await gateway.ask(path, body)
        assert answer.status_code == status, (path, answer.text)
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
        assert answer.headers["x-request-id"]

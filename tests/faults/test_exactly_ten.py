"""Room for ten and two hundred who want it: exactly ten get in, whoever counts."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import Gateway, chat, running_gateway
from tests.support.raw_http import Guarded, Peer, Reply
from tests.support.redis_server import redis_server
from tests.support.until import until

CALLERS = 200
PLACES = 10
SLOW = chat("/slow 2", max_tokens=20)
"""Answered only when every caller has asked, so that what an answer gives back is of no use to the others."""
MOST_TOKENS = len(json.dumps(SLOW)) + 20

QUOTAS = [
    {"scope": "department", "subject": "calling", "metric": "requests", "limit": PLACES, "window": "day"},
    {"scope": "department", "subject": "talking", "metric": "tokens", "limit": PLACES * MOST_TOKENS, "window": "day"},
]


@pytest.fixture(scope="module", params=["in process", "Redis, two workers"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("ten")
    if request.param == "in process":
        with running_gateway(directory, {"quotas": QUOTAS}) as running:
            yield running
        return
    with redis_server() as redis:
        counting = {"server": {"workers": 2}, "storage": {"counters": redis.url}}
        with running_gateway(directory, {**counting, "quotas": QUOTAS}) as running:
            yield running


async def ask_all_at_once(gateway: Gateway, key: str, body: dict[str, Any]) -> list[Reply]:
    """The same call from every caller, each on a connection that was there before."""
    payload = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n"
    request = f"{head}content-length: {len(payload)}\r\n\r\n".encode() + payload
    server = Guarded(gateway.port, None)  # type: ignore[arg-type]  # only the port is used
    callers = await asyncio.gather(*(server.connect() for _ in range(CALLERS)))

    async def call(caller: Peer) -> Reply:
        await caller.send(request)
        try:
            return await caller.reply()
        finally:
            caller.close()

    return await asyncio.gather(*map(call, callers))


@pytest.mark.parametrize(("department", "body"), [("calling", chat()), ("talking", SLOW)], ids=["requests", "tokens"])
async def test_exactly_ten_of_two_hundred_get_in(gateway: Gateway, department: str, body: dict[str, Any]) -> None:
    key = await gateway.issue(f"ada@{department}.example.com", department=department)
    replies = await ask_all_at_once(gateway, key, body)
    assert Counter(reply.status for reply in replies) == {200: PLACES, 429: CALLERS - PLACES}
    assert {reply.error["code"] for reply in replies if reply.status == 429} == {"insufficient_quota"}
    await until(lambda: len(gateway.rows("department = ?", department)) >= PLACES)
    await gateway.quiet()
    rows = gateway.rows("department = ?", department)
    answered = [reply.headers["x-request-id"] for reply in replies if reply.status == 200]
    assert sorted(row["request_id"] for row in rows) == sorted(answered)
    (limit,) = (await gateway.me(key))["limits"].values()
    spent = sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)
    assert limit["used"] == (PLACES if department == "calling" else spent)
    assert gateway.errors() == []

"""Answers from the cache, through whole gateways: whom they reach, what the books say, and what faults do to them."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from gateway.ledger.directory import SEGMENT_SUFFIX
from tests.e2e import wire
from tests.faults.fleet import running
from tests.support.gateway import Gateway, chat, running_gateway
from tests.support.misbehaving import Misbehaving, Serve
from tests.support.processes import free_port
from tests.support.redis_server import redis_server
from tests.support.tcp_proxy import fault_proxy
from tests.support.until import until

PATH = "/v1/chat/completions"
USE = {"x-aidock-cache": "use"}
CALLERS = 8
ROUNDS = 25
QUOTAS = [
    {"scope": "global", "metric": metric, "limit": limit, "window": window}
    for metric, limit, window in (("requests", 10**6, "day"), ("tokens", 10**9, "day"), ("cost", 10**6, "total"))
]
UNDECIDED_S = 0.45
"""What a busy machine is given beyond 300 ms."""


def a_config(port: int, **storage: str) -> dict[str, Any]:
    provider = {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "sk-upstream-0123456789", "max_retries": 0}
    model = {"provider": "main", "price": {"input": 1.0, "output": 2.0}}
    return {
        "storage": storage,
        "providers": {"main": provider},
        "models": [
            {"model_id": "own", **model, "cache": {"seconds": 600}},
            {"model_id": "shared", **model, "cache": {"seconds": 600, "scope": "department", "when": "always"}},
        ],
        "quotas": QUOTAS,
    }


@dataclass
class Caching:
    """A gateway before an upstream that counts its calls."""

    gateway: Gateway
    port: int

    def upstream(self, *, streamed: bool = False, delay: float = 0.0) -> Misbehaving:
        return Misbehaving([Serve(wire.streamed() if streamed else wire.WHOLE, delay)], port=self.port)

    async def ask(self, body: dict[str, Any], key: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self.gateway.ask(PATH, body, key=key, headers=headers)


@pytest.fixture(scope="module", params=["memory", "two workers over Redis"])
def caching(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caching]:
    port = free_port()
    directory = tmp_path_factory.mktemp("caching")
    if request.param == "memory":
        with running_gateway(directory, a_config(port)) as gateway:
            yield Caching(gateway, port)
        return
    with redis_server() as redis:
        config = a_config(port, counters=redis.url) | {"server": {"workers": 2}}
        with running_gateway(directory, config) as gateway:
            yield Caching(gateway, port)


def somebody() -> str:
    return f"{uuid.uuid4().hex}@example.com"


def told(answer: httpx.Response) -> str | None:
    assert answer.status_code == 200, answer.text
    found: str | None = answer.headers.get("x-aidock-cache")
    return found


async def test_the_sdk_gets_the_same_completion_again_and_a_new_one_where_it_says_so(caching: Caching) -> None:
    async with caching.upstream() as upstream:
        await asyncio.to_thread(_whole, caching.gateway)
        assert len(upstream.requests) == 3
    async with caching.upstream(streamed=True) as upstream:
        await asyncio.to_thread(_streamed, caching.gateway)
        assert len(upstream.requests) == 1


def _sdk(gateway: Gateway) -> OpenAI:
    http = httpx.Client(trust_env=False, verify=False, timeout=30)
    return OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, http_client=http)


def _whole(gateway: Gateway) -> None:
    hello: Any = {"role": "user", "content": uuid.uuid4().hex}
    with _sdk(gateway) as client:
        create = client.chat.completions.with_raw_response.create
        wishes = ("use", "use", "refresh", "off", "use")
        answers = [create(model="own", messages=[hello], extra_headers={"x-aidock-cache": wish}) for wish in wishes]
        assert [answer.headers.get("x-aidock-cache") for answer in answers] == ["miss", "hit", "miss", None, "hit"]
        assert "age" in answers[1].headers
        said = {answer.parse().choices[0].message.content for answer in answers}
        assert said == {"Hi"}
        assert len({answer.parse()._request_id for answer in answers}) == len(wishes), "each is a call of its own"
        with pytest.raises(openai.BadRequestError) as refused:
            create(model="own", messages=[hello], extra_headers={"x-aidock-cache": "perhaps"})
        assert refused.value.code == "invalid_request"


def _streamed(gateway: Gateway) -> None:
    hello: Any = {"role": "user", "content": uuid.uuid4().hex}
    with _sdk(gateway) as client:
        create = client.chat.completions.with_raw_response.create
        answers = [create(model="own", messages=[hello], stream=True, extra_headers=USE) for _ in range(2)]
        assert [answer.headers["x-aidock-cache"] for answer in answers] == ["miss", "hit"]
        said = [[chunk.choices[0].delta.content for chunk in answer.parse()] for answer in answers]
        assert said == [["Hel", "lo", None]] * 2


async def test_nobody_is_given_what_is_not_meant_for_them(caching: Caching) -> None:
    gateway = caching.gateway
    research, sales = uuid.uuid4().hex, uuid.uuid4().hex
    ada, bob, eve = [
        await gateway.issue(somebody(), department=department) for department in (research, research, sales)
    ]
    barred = await gateway.issue(somebody(), department=research, models=["own"])
    text = uuid.uuid4().hex
    async with caching.upstream() as upstream:
        own = [told(await caching.ask(chat(text, "own"), key, USE)) for key in (ada, ada, bob, eve)]
        assert own == ["miss", "hit", "miss", "miss"]
        shared = [told(await caching.ask(chat(text, "shared"), key)) for key in (ada, bob, eve)]
        assert shared == ["miss", "hit", "miss"]
        refused = await caching.ask(chat(text, "shared"), barred)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        assert "x-aidock-cache" not in refused.headers
        assert len(upstream.requests) == 5


async def test_the_books_agree_however_many_ask_the_same_at_once(caching: Caching) -> None:
    gateway = caching.gateway
    user = somebody()
    key = await gateway.issue(user)
    bodies = [chat(f"{uuid.uuid4().hex}", "own") for _ in range(5)]
    seen: Counter[str | None] = Counter()

    async def ask_on_and_on(number: int, client: httpx.AsyncClient) -> None:
        for turn in range(ROUNDS):
            body = bodies[(number + turn) % len(bodies)]
            answer = await client.post(PATH, json=body, headers=USE)
            while answer.status_code == 503:  # the counters are not heard of in time, which a busy machine can cause
                answer = await client.post(PATH, json=body, headers=USE)
            seen[told(answer)] += 1

    async with caching.upstream(delay=0.02) as upstream:
        async with gateway.client(key) as client:
            await asyncio.gather(*(ask_on_and_on(number, client) for number in range(CALLERS)))
        made = len(upstream.requests)
    await gateway.quiet()
    assert seen == {"hit": CALLERS * ROUNDS - made, "miss": made}
    assert made < CALLERS * ROUNDS / 2
    rows = gateway.rows("user = ?", user)
    hits = [row for row in rows if row["provider"] == "cache"]
    assert (len(rows), len(hits)) == (CALLERS * ROUNDS, seen["hit"])
    for row in hits:
        assert (row["kind"], row["outcome"], row["cost_microusd"]) == ("charge", "ok", 0)
        assert (row["saved_microusd"], row["attempts"]) == (wire.COST_OF_USAGE, 0)
    assert sum(row["cost_microusd"] for row in rows) == made * wire.COST_OF_USAGE
    (usage,) = [
        each for each in json.loads(await gateway.cli("usage", "--by", "user", "--json")) if each["user"] == user
    ]
    assert usage["requests"] == CALLERS * ROUNDS
    assert round(usage["cost_usd"] * 1_000_000) == made * wire.COST_OF_USAGE
    assert round(usage["saved_usd"] * 1_000_000) == seen["hit"] * wire.COST_OF_USAGE

    async def counted() -> bool:
        return await gateway.metric("aidock_cache_hits_total") == len(gateway.rows("provider = 'cache'"))

    await until(counted)
    await gateway.reconcile()
    assert gateway.errors() == []


async def test_a_key_for_idempotency_and_the_cache_serve_one_request(caching: Caching) -> None:
    gateway = caching.gateway
    key = await gateway.issue(somebody())
    body = chat(uuid.uuid4().hex, "own")
    async with caching.upstream() as upstream:
        once = USE | {"idempotency-key": uuid.uuid4().hex}
        answers = [await caching.ask(body, key, headers) for headers in (once, once, USE)]
        assert [told(answer) for answer in answers] == ["miss", "miss", "hit"]
        assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true", None]
        assert len(upstream.requests) == 1


async def test_a_redis_that_dies_in_between_costs_hits_and_no_call(tmp_path: Path) -> None:
    port = free_port()
    with redis_server() as redis:
        config = a_config(port, counters=redis.url) | {"policies": ["model_access"], "quotas": []}
        with running_gateway(tmp_path, config) as gateway:
            caching = Caching(gateway, port)
            body = chat("Hello", "own")
            async with caching.upstream() as upstream:
                assert [told(await caching.ask(body, gateway.key, USE)) for _ in range(2)] == ["miss", "hit"]
                redis.stop()
                began = time.monotonic()
                assert [told(await caching.ask(body, gateway.key, USE)) for _ in range(3)] == ["miss"] * 3
                assert time.monotonic() - began < 3 * UNDECIDED_S
                redis.start()

                async def hits() -> bool:
                    return told(await caching.ask(body, gateway.key, USE)) == "hit"

                await until(hits)
                assert len(upstream.requests) >= 5, "it begins empty"
            await gateway.quiet()
            rows = gateway.rows()
            assert {row["kind"] for row in rows} == {"charge"}
            assert sum(row["provider"] != "cache" for row in rows) == len(upstream.requests)


async def test_a_slow_redis_is_given_up_in_time_for_the_reservation(tmp_path: Path) -> None:
    port = free_port()
    with redis_server() as redis:
        async with fault_proxy(redis.port) as proxy:
            config = a_config(port, counters=f"redis://127.0.0.1:{proxy.port}/0")
            gateway = Gateway(tmp_path, config)
            caching = Caching(gateway, port)
            async with running(gateway), caching.upstream():
                body = chat("Hello", "shared")
                assert [told(await caching.ask(body, gateway.key)) for _ in range(2)] == ["miss", "hit"]
                proxy.latency_s = 0.045  # a hit would take 90 ms to be found, a reservation takes as long
                found = [await caching.ask(body, gateway.key) for _ in range(5)]
                proxy.latency_s = 0.0
                statuses = Counter(answer.status_code for answer in found)
                assert statuses[200], "the machine may be busy for some of them"
                assert {answer.headers["x-aidock-cache"] for answer in found if answer.status_code == 200} == {"miss"}


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_gateway_killed_before_it_could_keep_an_answer_has_it_in_the_books_and_makes_it_anew(
    tmp_path: Path, streamed: bool
) -> None:
    port = free_port()
    with redis_server() as redis:
        config = a_config(port, counters=redis.url) | {"policies": ["model_access"], "quotas": []}
        with running_gateway(tmp_path, config) as gateway:
            caching = Caching(gateway, port)
            body = chat("Hello", "own", stream=streamed)
            async with caching.upstream(streamed=streamed, delay=0.3) as upstream:
                call = asyncio.create_task(caching.ask(body, gateway.key, USE))
                await until(lambda: len(upstream.requests) == 1)
                begun = journal_bytes(gateway)
                redis.pause()
                await until(lambda: journal_bytes(gateway) > begun)
                gateway.kill()
                redis.resume()
                await asyncio.gather(
                    call, return_exceptions=True
                )  # it was answered if the machine was too busy to kill
                await asyncio.to_thread(gateway.start)
                assert [told(await caching.ask(body, gateway.key, USE)) for _ in range(2)] == ["miss", "hit"]
            await gateway.quiet()
            await until(lambda: len(gateway.rows()) == 3)
            rows = sorted(gateway.rows(), key=lambda row: row["created_at"])
            assert [(row["kind"], row["provider"], row["cost_microusd"], row["saved_microusd"]) for row in rows] == [
                ("charge", "main", wire.COST_OF_USAGE, 0),
                ("charge", "main", wire.COST_OF_USAGE, 0),
                ("charge", "cache", 0, wire.COST_OF_USAGE),
            ]
            await gateway.reconcile()


def journal_bytes(gateway: Gateway) -> int:
    """How much the gateway's journal holds: one record more once the call's end is in it."""
    return sum(path.stat().st_size for path in (gateway.data / "journal").rglob(f"*{SEGMENT_SUFFIX}"))

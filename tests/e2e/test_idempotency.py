"""The same Idempotency-Key many times over: one upstream call, one ledger row, one answer."""

from __future__ import annotations

import asyncio
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

from tests.e2e import wire
from tests.faults.fleet import running
from tests.support.gateway import Gateway, chat, running_gateway
from tests.support.misbehaving import Misbehaving, Serve
from tests.support.processes import free_port
from tests.support.redis_server import redis_server
from tests.support.tcp_proxy import fault_proxy
from tests.support.until import until

AT_ONCE = 100
SLOW_S = 0.5
PATH = "/v1/chat/completions"
UNDECIDED_S = 0.45
"""What a busy machine is given beyond 300 ms; two waits for a store, one after the other, take 500."""


@dataclass
class Counting:
    """A gateway before an upstream that counts its calls and takes its time."""

    gateway: Gateway
    port: int

    def upstream(self, *, streamed: bool = False, delay: float = SLOW_S) -> Misbehaving:
        return Misbehaving([Serve(wire.streamed() if streamed else wire.WHOLE, delay)], port=self.port)

    async def ask(self, body: dict[str, Any], key: str, headers: dict[str, str]) -> httpx.Response:
        """Once more as long as the counters are not heard of in time, which a busy machine can cause."""
        while True:
            answer = await self.gateway.ask(PATH, body, key=key, headers=headers)
            if answer.status_code != 503:
                return answer


@pytest.fixture(scope="module", params=["memory", "two workers over Redis"])
def counting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counting]:
    port = free_port()
    provider = {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "sk-upstream-0123456789", "max_retries": 0}
    config = {"providers": {"main": provider}, "models": [{"model_id": "m", "provider": "main"}]}
    directory = tmp_path_factory.mktemp("counting")
    if request.param == "memory":
        with running_gateway(directory, config) as gateway:
            yield Counting(gateway, port)
        return
    with redis_server() as redis:
        config |= {"server": {"workers": 2}, "storage": {"counters": redis.url}}
        with running_gateway(directory, config) as gateway:
            yield Counting(gateway, port)


async def rows(gateway: Gateway, user: str) -> int:
    await gateway.last_row(user)
    await gateway.quiet()
    return len(gateway.rows("user = ?", user))


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_hundred_at_once_are_one_call(counting: Counting, streamed: bool) -> None:
    gateway = counting.gateway
    user = f"{uuid.uuid4().hex}@example.com"
    key = await gateway.issue(user)
    once = {"idempotency-key": str(uuid.uuid4())}
    body = chat(model="m", stream=streamed)
    async with counting.upstream(streamed=streamed) as upstream:
        answers = await asyncio.gather(*(counting.ask(body, key, once) for _ in range(AT_ONCE)))
        late = await gateway.ask(PATH, body, key=key, headers=once)
        other = await gateway.ask(PATH, chat("Other", model="m", stream=streamed), key=key, headers=once)
        assert len(upstream.requests) == 1
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses.keys() <= {200, 409}
    made = [answer for answer in answers if answer.status_code == 200]
    originals = [answer for answer in made if "idempotent-replayed" not in answer.headers]
    assert len(originals) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["error"]["code"] == "idempotency_key_in_use"
            assert answer.headers["retry-after"] == "1"
    for answer in (*made, late):
        assert answer.content == originals[0].content
        assert answer.headers["content-type"] == originals[0].headers["content-type"]
        assert answer.headers["x-request-id"] == originals[0].headers["x-request-id"]
    assert late.headers["idempotent-replayed"] == "true"
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert await rows(gateway, user) == 1
    assert gateway.errors() == []


async def test_a_key_belongs_to_the_api_key_that_brought_it(counting: Counting) -> None:
    gateway = counting.gateway
    keys = [await gateway.issue(f"{uuid.uuid4().hex}@example.com") for _ in range(2)]
    once = {"idempotency-key": "the-same"}
    async with counting.upstream(delay=0) as upstream:
        for key in keys:
            answer = await gateway.ask(PATH, chat(model="m"), key=key, headers=once)
            assert "idempotent-replayed" not in answer.headers
        assert len(upstream.requests) == 2


async def test_a_failed_call_can_be_made_again_at_once(counting: Counting) -> None:
    gateway = counting.gateway
    key = await gateway.issue(f"{uuid.uuid4().hex}@example.com")
    once = {"idempotency-key": "after-a-failure"}
    assert (await gateway.ask(PATH, chat(model="m"), key=key, headers=once)).status_code == 502
    async with counting.upstream(delay=0):
        answer = await gateway.ask(PATH, chat(model="m"), key=key, headers=once)
    assert (answer.status_code, answer.headers.get("idempotent-replayed")) == (200, None)


async def test_the_sdk_gets_the_same_completion_twice(counting: Counting) -> None:
    async with counting.upstream(delay=0) as upstream:
        await asyncio.to_thread(_with_the_sdk, counting.gateway)
        assert len(upstream.requests) == 1
    async with counting.upstream(streamed=True, delay=0) as upstream:
        await asyncio.to_thread(_streamed_with_the_sdk, counting.gateway)
        assert len(upstream.requests) == 1


def _sdk(gateway: Gateway) -> OpenAI:
    http = httpx.Client(trust_env=False, verify=False, timeout=30)
    return OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=2, http_client=http)


def _with_the_sdk(gateway: Gateway) -> None:
    once = {"Idempotency-Key": str(uuid.uuid4())}
    with _sdk(gateway) as client:
        hello, other = ({"role": "user", "content": text} for text in ("Hello", "Other"))
        ask = client.chat.completions.create
        first = ask(model="m", messages=[hello], extra_headers=once)  # type: ignore[call-overload]
        again = ask(model="m", messages=[hello], extra_headers=once)  # type: ignore[call-overload]
        assert again == first
        assert again._request_id == first._request_id
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            ask(model="m", messages=[other], extra_headers=once)  # type: ignore[call-overload]
        assert refused.value.code == "idempotency_key_reused"


def _streamed_with_the_sdk(gateway: Gateway) -> None:
    once = {"Idempotency-Key": str(uuid.uuid4())}
    with _sdk(gateway) as client:
        said = [
            [
                chunk.choices[0].delta.content
                for chunk in client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "Hello"}], stream=True, extra_headers=once
                )
            ]
            for _ in range(2)
        ]
        assert said[0] == said[1] == ["Hel", "lo", None]


async def test_while_redis_is_away_only_calls_with_a_key_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    with redis_server() as redis:
        config = {"storage": {"counters": redis.url}, "policies": ["model_access"]}
        with running_gateway(tmp_path_factory.mktemp("away"), config) as gateway:
            once = {"idempotency-key": "k"}
            assert (await gateway.ask(PATH, chat(), headers=once)).status_code == 200
            redis.pause()
            try:
                refused, plain = await asyncio.gather(
                    gateway.ask(PATH, chat("Other"), headers={"idempotency-key": "l"}), gateway.ask(PATH, chat())
                )
            finally:
                redis.resume()
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "accounting_unavailable")
            assert plain.status_code == 200
            assert (await gateway.ask(PATH, chat(), headers=once)).headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize(("on_store_error", "status"), [("deny", 503), ("allow", 200)])
async def test_a_call_with_a_key_is_decided_as_soon_as_any_other_however_often_it_asks_redis(
    tmp_path: Path, on_store_error: str, status: int
) -> None:
    """It claims its key, is refused the default cap of an answer, and asks for less."""
    with redis_server() as redis:
        async with fault_proxy(redis.port) as proxy:
            config = {
                "storage": {"counters": f"redis://127.0.0.1:{proxy.port}/0"},
                "policies": [{"quota": {"on_store_error": on_store_error}}],
                "quotas": [{"scope": "global", "metric": "tokens", "limit": 3000, "window": "total"}],
            }
            gateway = Gateway(tmp_path, config)
            async with running(gateway), gateway.client() as client:

                async def decided(key: str) -> tuple[int, float]:
                    began = time.monotonic()
                    headers = {"idempotency-key": key}
                    async with client.stream(
                        "POST", PATH, json=chat("/long 1", stream=True), headers=headers
                    ) as answer:
                        seconds = time.monotonic() - began
                        await answer.aread()
                    return answer.status_code, seconds

                async def passes() -> bool:
                    return (await decided(uuid.uuid4().hex))[0] == 200

                assert await passes()
                proxy.latency_s = 0.09
                found = [await decided(key) for key in ("slow-1", "slow-2", "slow-3")]
                assert {told for told, _ in found} == {status}
                assert min(seconds for _, seconds in found) < UNDECIDED_S, "the machine may be busy for one or two"
                proxy.latency_s = 0.0
                await until(passes)
                redis.pause()
                try:
                    found = [await decided(key) for key in ("still-1", "still-2", "still-3")]
                finally:
                    redis.resume()
                assert {told for told, _ in found} == {503}, "without the key's own store no call is made"
                assert min(seconds for _, seconds in found) < UNDECIDED_S

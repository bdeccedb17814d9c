"""Routes as clients and administrators see them, through a running gateway and the real SDK."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from gateway.core.limits import Limit
from tests.e2e import wire
from tests.support.gateway import Gateway, chat, free_port, running_gateway
from tests.support.misbehaving import Expect, Misbehaving, Send, Serve, Step, chunk, head
from tests.support.until import until

KEYS = ["sk-upstream-one-0123456789", "sk-upstream-two-0123456789"]
STREAM_ROLE = wire.event(
    {
        "id": "c1",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}],
    }
)
OVERLOADED = b'{"error": {"message": "overloaded", "type": "server_error", "code": null}}'


@dataclass
class Place:
    """A gateway before two upstreams, on the ports that its configuration names.

    `safe` is `first`, with `second` for every failure but a limit, `long` for prompts that are too long, and `cheap`
    where the caller's quota ends. `keyed` has two keys at the first upstream; `watched` is checked.
    """

    gateway: Gateway
    first: int
    second: int

    async def ask(self, model: str = "safe", key: str | None = None, **members: Any) -> httpx.Response:
        return await self.gateway.ask("/v1/chat/completions", chat(model=model, **members), key=key)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    first, second = free_port(), free_port()
    dear, low = {"input": 100.0, "output": 100.0}, {"input": 1.0, "output": 2.0}

    def provider(port: int, **settings: Any) -> dict[str, Any]:
        url = f"http://127.0.0.1:{port}/v1"
        return {"base_url": url, "max_retries": 0, "cooldown": {"failures": 0}, "idle_timeout": 0.5, **settings}

    config = {
        "providers": {
            "one": provider(first, api_key=KEYS[0]),
            "two": provider(second, api_key=KEYS[1]),
            "keyed": provider(first, api_keys=KEYS, cooldown={"failures": 3, "seconds": 0.5}),
            "watched": provider(
                first, cooldown={"failures": 2, "seconds": 300}, health_check={"interval": 0.2, "path": "/alive"}
            ),
        },
        "models": [
            {"model_id": "first", "provider": "one", "price": dear, "max_output_tokens": 100},
            {"model_id": "second", "provider": "two", "price": low},
            {"model_id": "long", "provider": "two", "price": low},
            {"model_id": "cheap", "provider": "two", "price": {"input": 0.01, "output": 0.01}},
            {"model_id": "keyed", "provider": "keyed", "price": low},
            {"model_id": "watched", "provider": "watched", "price": low},
        ],
        "routes": {
            "safe": {
                "strategy": "order",
                "targets": [{"model": "first"}],
                "fallbacks": {"default": ["second"], "rate_limit": [], "context_window": ["long"], "quota": ["cheap"]},
            },
        },
    }
    with running_gateway(tmp_path_factory.mktemp("routing"), config) as gateway:
        yield Place(gateway, first, second)
        assert gateway.errors() == []
        assert not any(key in str(gateway.log()) for key in KEYS)


@pytest.fixture
async def client(place: Place) -> AsyncIterator[AsyncOpenAI]:
    async with (
        httpx.AsyncClient(trust_env=False) as http,
        AsyncOpenAI(
            base_url=f"{place.gateway.url}/v1", api_key=place.gateway.key, max_retries=0, http_client=http
        ) as made,
    ):
        yield made


def refusing(status: int, message: str = "as planned", extra: bytes = b"", **members: Any) -> list[Step]:
    body = json.dumps({"error": {"message": message, "type": "x", "param": None, "code": None, **members}}).encode()
    return [Expect(), Send(head(status, length=len(body), extra=extra) + body)]


IN_BAND = chunk(b"data: " + OVERLOADED + b"\n\n")
BEFORE_CONTENT: dict[str, list[Step]] = {
    "an error in band": [
        Expect(),
        Send(wire.STREAM_HEAD + chunk(STREAM_ROLE) + chunk(b"data: " + OVERLOADED + b"\n\n")),
    ],
    "a farewell": [Expect(), Send(wire.STREAM_HEAD + chunk(STREAM_ROLE))],
    "an end without content": [Expect(), Send(wire.STREAM_HEAD + chunk(STREAM_ROLE) + chunk(b""))],
    "half an event": [Expect(), Send(wire.STREAM_HEAD + chunk(STREAM_ROLE + b'data: {"cho'))],
    "503": refusing(503),
}


@pytest.mark.parametrize("script", BEFORE_CONTENT.values(), ids=BEFORE_CONTENT)
async def test_the_sdk_sees_one_whole_stream_whatever_befell_the_first_model(
    place: Place, client: AsyncOpenAI, script: list[Step]
) -> None:
    async with Misbehaving(script, port=place.first), Misbehaving([Serve(wire.streamed())], port=place.second):
        raw = await client.chat.completions.with_raw_response.create(
            model="safe", messages=[{"role": "user", "content": "Hello"}], stream=True
        )
        text = "".join([part.choices[0].delta.content or "" async for part in raw.parse() if part.choices])
    assert text == "Hello"
    assert (raw.headers["x-aidock-model"], raw.headers["x-aidock-attempts"]) == ("second", "2")
    assert raw.headers["x-aidock-fallback"] in ("error", "timeout")


async def test_every_attempt_is_on_the_receipt(place: Place) -> None:
    async with Misbehaving(refusing(500), port=place.first), Misbehaving([Serve(wire.WHOLE)], port=place.second):
        answer = await place.ask()
    request_id = answer.headers["x-request-id"]
    await place.gateway.row(f"{request_id}-2")
    receipt = (await place.gateway.ask(f"/api/v1/usage/{request_id}")).json()
    assert (receipt["request_id"], receipt["model_id"], receipt["attempts"]) == (request_id, "second", 2)
    (before,) = receipt["before"]
    assert (before["model_id"], before["provider"], before["outcome"], before["status"]) == (
        "safe",
        "one",
        "upstream_error",
        502,
    )
    assert receipt["total"]["cost_usd"] == wire.COST_OF_USAGE / 1e6
    shown = await place.gateway.cli("usage", "--request", request_id)
    assert f"{request_id}-2" not in shown.split("Total")[1]
    assert "upstream_error" in shown
    await place.gateway.reconcile()


async def test_a_prompt_that_is_too_long_goes_to_the_model_for_long_ones(place: Place) -> None:
    too_long = refusing(400, "This model's maximum context length is 8192 tokens.")
    async with Misbehaving(too_long, port=place.first), Misbehaving([Serve(wire.WHOLE)], port=place.second):
        answer = await place.ask()
    assert (answer.status_code, answer.headers["x-aidock-model"]) == (200, "long")
    assert answer.headers["x-aidock-fallback"] == "context_window"


async def test_a_limit_that_no_fallback_is_stated_for_is_the_clients(place: Place, client: AsyncOpenAI) -> None:
    limited = refusing(429, extra=b"retry-after: 7\r\n")
    async with Misbehaving(limited, port=place.first), Misbehaving([Serve(wire.WHOLE)], port=place.second) as second:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="safe", messages=[{"role": "user", "content": "Hello"}])
        assert caught.value.response.headers["retry-after"] == "7"
        assert second.requests == []


async def test_a_caller_whose_budget_ends_is_served_by_the_cheaper_model(place: Place) -> None:
    key = await place.gateway.issue("thrifty@example.com")
    await place.gateway.limit(key, Limit("user", "thrifty@example.com", "cost", "month", 1000))
    async with Misbehaving([Serve(wire.WHOLE)], port=place.first) as first:
        async with Misbehaving([Serve(wire.WHOLE)], port=place.second):
            answer = await place.ask(key=key, max_tokens=50)
        assert first.requests == []
    assert (answer.status_code, answer.headers["x-aidock-model"]) == (200, "cheap")
    assert answer.headers["x-aidock-fallback"] == "quota"
    row = await place.gateway.row(answer.headers["x-request-id"])
    assert (row["model_id"], row["kind"], row["cost_microusd"]) == ("cheap", "charge", 1)
    assert await place.gateway.metric("aidock_quota_rejections_total") == 0


async def test_two_keys_share_the_load_and_one_that_is_refused_rests(place: Place) -> None:
    def used(requests: list[bytes]) -> Counter[str]:
        return Counter(key for key in KEYS for request in requests if key.encode() in request)

    async with Misbehaving([Serve(wire.WHOLE)], port=place.first) as upstream:
        for _ in range(30):
            assert (await place.ask("keyed")).status_code == 200
        assert set(used(upstream.requests)) == set(KEYS)
    async with Misbehaving([Checking(KEYS[0])], port=place.first) as upstream:
        answers = [await place.ask("keyed") for _ in range(30)]
        assert {answer.status_code for answer in answers} == {200}
        assert used(upstream.requests)[KEYS[0]] == 1, "a key that its provider refuses is not tried again and again"
    shown = await place.gateway.cli("routes", "explain", "keyed")
    assert "resting" in shown
    assert not any(key in shown for key in KEYS)


class Checking:
    """An upstream that knows one of the keys no more."""

    def __init__(self, refused: str) -> None:
        self._refused = refused.encode()

    async def play(self, peer: Any) -> None:
        while True:
            request = await peer.receive()
            body = OVERLOADED
            refusal = head(401, length=len(body)) + body
            await peer.send(refusal if self._refused in request else wire.WHOLE)


async def test_checks_find_out_that_a_deployment_is_well_again(place: Place) -> None:
    async with Misbehaving(refusing(500), port=place.first):
        for _ in range(2):
            assert (await place.ask("watched")).status_code == 502

    async def up() -> bool:
        return await place.gateway.metric("aidock_deployment_up", model="watched") == 1

    assert not await up()
    async with Misbehaving([Serve(wire.WHOLE)], port=place.first) as upstream:
        await until(lambda: any(request.startswith(b"GET /v1/alive ") for request in upstream.requests))
        explained = json.loads(await place.gateway.cli("routes", "explain", "watched", "--json"))
        assert explained["targets"][0]["health"] == "trial", "minutes before its rest would have ended"
        assert (await place.ask("watched")).status_code == 200
        await until(up)


async def test_a_reload_cures_nobody(tmp_path: Path) -> None:
    dead = f"http://127.0.0.1:{free_port()}/v1"
    config: dict[str, Any] = {
        "providers": {"dead": {"base_url": dead, "max_retries": 0, "cooldown": {"failures": 1, "seconds": 300}}},
        "models": [{"model_id": "dead", "provider": "dead"}],
    }
    with running_gateway(tmp_path, config) as gateway:
        assert (await gateway.ask("/v1/chat/completions", chat(model="dead"))).status_code == 502
        assert await gateway.metric("aidock_deployment_up", model="dead") == 0
        config["models"].append({"model_id": "twin", "provider": "dead", "upstream_model": "dead"})
        gateway.write_config(config)

        async def known() -> bool:
            return "twin" in (await gateway.ask("/v1/models")).text

        await until(known)
        assert await gateway.metric("aidock_deployment_up", model="dead") == 0
        assert await gateway.metric("aidock_deployment_up", model="twin") == 0, "it is the same deployment"

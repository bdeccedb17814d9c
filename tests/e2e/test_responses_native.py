"""The official SDK's `client.responses` over an upstream that serves responses: bytes pass, and the books know."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.providers.responses_streams import text_events, wire
from tests.support.dialects.openai_responses import WORDS, responses_upstream
from tests.support.dialects.upstream import Upstream
from tests.support.gateway import Gateway, running_gateway
from tests.support.responses_events import check, check_response, events_of
from tests.support.until import until

TEXT = "".join(WORDS)
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


@dataclass
class Scene:
    gateway: Gateway
    upstream: Upstream

    async def stream(self, text: str, **members: Any) -> httpx.Response:
        return await self.gateway.ask("/v1/responses", {"model": "native", "input": text, "stream": True, **members})

    async def row(self, answer: httpx.Response) -> dict[str, Any]:
        return await self.gateway.row(answer.headers["x-request-id"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with responses_upstream() as upstream:
        native = {"base_url": upstream.url, "api_key": "sk-upstream-0123456789", "max_retries": 0}
        config = {
            "providers": {"native": {**native, "quirks": {"operations": ["responses"]}}},
            "models": [
                {
                    "model_id": "native",
                    "provider": "native",
                    "upstream_model": "gpt-x",
                    "price": {"input": 1.0, "output": 2.0},
                }
            ],
        }
        with running_gateway(tmp_path_factory.mktemp("native"), config) as gateway:
            yield Scene(gateway, upstream)


@pytest.fixture
async def client(scene: Scene) -> AsyncIterator[AsyncOpenAI]:
    http = httpx.AsyncClient(trust_env=False, verify=False, timeout=30)
    async with AsyncOpenAI(
        base_url=f"{scene.gateway.url}/v1", api_key=scene.gateway.key, max_retries=0, http_client=http
    ) as made:
        yield made


async def test_a_response_passes_and_is_counted(scene: Scene, client: AsyncOpenAI) -> None:
    answer = await client.responses.create(model="native", input="hello", metadata={"a": "b"}, max_output_tokens=64)
    assert answer.output_text == TEXT
    assert scene.upstream.last == {"model": "gpt-x", "input": "hello", "metadata": {"a": "b"}, "max_output_tokens": 64}
    assert answer._request_id is not None
    row = await scene.gateway.row(answer._request_id)
    told = ("endpoint", "outcome", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
    assert [row[name] for name in told] == ["responses", "ok", 7, 3, 0, 2]
    assert row["cost_microusd"] == 13


async def test_a_stream_passes_byte_for_byte(scene: Scene) -> None:
    answer = await scene.stream("hello")
    assert answer.content == wire(*text_events(*WORDS, model="gpt-x"))
    check(events_of(answer.content))
    row = await scene.row(answer)
    assert (row["outcome"], row["prompt_tokens"], row["completion_tokens"], row["streamed"]) == ("ok", 7, 3, 1)


async def test_the_sdk_streams_and_gathers_the_final_response(client: AsyncOpenAI) -> None:
    async with client.responses.stream(model="native", input="hello") as stream:
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert "".join(deltas) == final.output_text == TEXT
    check_response(final.model_dump(mode="json", exclude_unset=True))


async def test_a_tool_goes_round(scene: Scene, client: AsyncOpenAI) -> None:
    first = await client.responses.create(model="native", input="tool please", tools=[WEATHER])
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("weather", '{"city":"Oslo"}')
    said: Any = [
        {"role": "user", "content": "tool please"},
        call,
        {"type": "function_call_output", "call_id": call.call_id, "output": "hello"},
        {"role": "user", "content": "hello"},
    ]
    second = await client.responses.create(model="native", input=said, tools=[WEATHER], previous_response_id=first.id)
    assert second.output_text == TEXT
    assert scene.upstream.last["previous_response_id"] == first.id
    assert scene.upstream.last["input"][1]["call_id"] == "call_1"


async def test_an_incomplete_response_is_an_ordinary_end(scene: Scene) -> None:
    events = events_of((await scene.stream("limit")).content)
    check(events)
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


@pytest.mark.parametrize("command", ["fail", "error", "cut"])
async def test_a_failure_in_the_middle_is_a_failed_response_and_the_books_know(scene: Scene, command: str) -> None:
    answer = await scene.stream(command)
    events = events_of(answer.content)
    check(events)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == "server_error"
    row = await scene.row(answer)
    assert row["outcome"] == "upstream_error"
    assert row["usage_source"] == ("upstream" if command == "fail" else "estimated")


async def test_an_upstream_that_never_closes_is_let_go(scene: Scene) -> None:
    answer = await scene.stream("open")
    check(events_of(answer.content))
    assert (await scene.row(answer))["outcome"] == "ok"


async def test_an_error_status_reaches_the_client_as_one(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.RateLimitError, match="slow down"):
        await client.responses.create(model="native", input="status")


async def test_a_client_that_leaves_stops_the_upstream_and_pays_for_what_was_said(scene: Scene) -> None:
    before = scene.upstream.left
    body = {"model": "native", "input": "slow", "stream": True}
    async with scene.gateway.client() as http, http.stream("POST", "/v1/responses", json=body) as answer:
        async for piece in answer.aiter_bytes():
            if b"output_text.delta" in piece:
                break
    await until(lambda: scene.upstream.left > before)
    row = await scene.gateway.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["usage_source"]) == ("client_gone", "estimated")
    assert 0 < row["completion_tokens"] < 200


async def test_what_cannot_be_counted_is_refused(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="background"):
        await client.responses.create(model="native", input="hello", background=True)


async def test_nothing_of_this_was_a_defect(scene: Scene) -> None:
    await scene.gateway.quiet()
    assert scene.gateway.errors() == []
    assert await scene.gateway.reconcile()

"""The official SDK's `client.responses` over an upstream that has chat completions only, and over the demo model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.support.dialects.chat_only import WORDS, chat_upstream
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
PATCH: Any = {"type": "custom", "name": "patch", "description": "Applies a patch."}


class City(BaseModel):
    city: str


@dataclass
class Scene:
    gateway: Gateway
    upstream: Upstream

    async def stream(self, text: str, **members: Any) -> httpx.Response:
        body = {"model": "big", "input": text, "stream": True, **members}
        return await self.gateway.ask("/v1/responses", body)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with chat_upstream() as upstream:
        chat = {"base_url": upstream.url, "api_key": "sk-upstream-0123456789", "max_retries": 0}
        config = {
            "providers": {
                "chat": chat,
                "apt": {**chat, "quirks": {"understands": ["reasoning_effort", "reasoning_content", "top_k"]}},
                "demo": {"dialect": "demo"},
            },
            "models": [
                {"model_id": "big", "provider": "chat", "price": {"input": 1.0, "output": 2.0}},
                {"model_id": "apt", "provider": "apt", "upstream_model": "big"},
                {"model_id": "demo", "provider": "demo"},
            ],
        }
        with running_gateway(tmp_path_factory.mktemp("chat"), config) as gateway:
            yield Scene(gateway, upstream)


@pytest.fixture
async def client(scene: Scene) -> AsyncIterator[AsyncOpenAI]:
    http = httpx.AsyncClient(trust_env=False, verify=False, timeout=30)
    async with AsyncOpenAI(
        base_url=f"{scene.gateway.url}/v1", api_key=scene.gateway.key, max_retries=0, http_client=http
    ) as made:
        yield made


MODELS = pytest.mark.parametrize("model", ["big", "demo"])


@MODELS
async def test_a_response_is_created_and_counted(scene: Scene, client: AsyncOpenAI, model: str) -> None:
    answer = await client.responses.create(model=model, input="hello", instructions="Be brief.")
    check_response(answer.model_dump(mode="json", exclude_unset=True))
    assert answer.output_text == TEXT or "You said" in answer.output_text
    assert answer._request_id is not None
    assert answer.usage is not None
    row = await scene.gateway.row(answer._request_id)
    assert (row["endpoint"], row["outcome"]) == ("responses", "ok")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (answer.usage.input_tokens, answer.usage.output_tokens)


@MODELS
async def test_a_stream_gathers_the_final_response_and_every_event_is_valid(
    scene: Scene, client: AsyncOpenAI, model: str
) -> None:
    async with client.responses.stream(model=model, input="hello") as stream:
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert "".join(deltas) == final.output_text
    check(events_of((await scene.stream("hello", model=model)).content))


@MODELS
async def test_structured_output_is_parsed(client: AsyncOpenAI, model: str) -> None:
    answer = await client.responses.parse(model=model, input="json please", text_format=City)
    assert isinstance(answer.output_parsed, City)
    async with client.responses.stream(model=model, input="json please", text_format=City) as stream:
        assert isinstance((await stream.get_final_response()).output_parsed, City)


async def test_thoughts_are_a_reasoning_item(scene: Scene, client: AsyncOpenAI) -> None:
    answer = await client.responses.create(model="big", input="hello")
    reasoning, message = answer.output
    assert reasoning.type == "reasoning"
    assert [part.text for part in reasoning.summary] == ["Hm."]
    assert message.type == "message"
    assert answer.usage is not None
    assert answer.usage.output_tokens_details.reasoning_tokens == 1
    summaries = [event for event in events_of((await scene.stream("hello")).content) if "summary" in event["type"]]
    assert [event["type"].rpartition("_")[2] for event in summaries] == [
        "part.added",
        "text.delta",
        "text.delta",
        "text.done",
        "part.done",
    ]


async def test_tools_go_round_parallel_and_custom_ones_too(scene: Scene, client: AsyncOpenAI) -> None:
    tools = [WEATHER, {**WEATHER, "name": "forecast"}]
    first = await client.responses.create(model="big", input="tool please", tools=tools)
    calls = [item for item in first.output if item.type == "function_call"]
    assert [(call.name, call.arguments) for call in calls] == [
        ("weather", '{"city":"Oslo"}'),
        ("forecast", '{"city":"Oslo"}'),
    ]
    results: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"} for call in calls]
    said: Any = [
        {"role": "user", "content": "tool please"},
        *first.output,
        *results,
        {"role": "user", "content": "hello"},
    ]
    second = await client.responses.create(model="big", input=said, tools=tools)
    assert second.output_text == TEXT
    roles = [message["role"] for message in scene.upstream.last["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "user"]
    assert [call["id"] for call in scene.upstream.last["messages"][1]["tool_calls"]] == ["call_0", "call_1"]

    patched = await client.responses.create(model="big", input="custom please", tools=[PATCH])
    (call,) = patched.output
    assert call.type == "custom_tool_call"
    assert (call.name, call.input) == ("patch", "*** Begin")
    check(events_of((await scene.stream("custom please", tools=[PATCH])).content))


async def test_the_demo_models_tool_goes_round(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model="demo", input="/tool", tools=[WEATHER])
    (call,) = first.output
    assert call.type == "function_call"
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    second = await client.responses.create(
        model="demo", input=[{"role": "user", "content": "/tool"}, call, result], tools=[WEATHER]
    )
    assert "rain" in second.output_text


async def test_a_refusal_is_a_part_of_its_own(scene: Scene, client: AsyncOpenAI) -> None:
    (message,) = (await client.responses.create(model="big", input="refuse")).output
    assert message.type == "message"
    assert [part.type for part in message.content] == ["refusal"]
    check(events_of((await scene.stream("refuse")).content))


@pytest.mark.parametrize(("command", "reason"), [("limit", "max_output_tokens"), ("filter", "content_filter")])
async def test_an_answer_that_was_cut_short_is_incomplete(scene: Scene, command: str, reason: str) -> None:
    events = events_of((await scene.stream(command)).content)
    check(events)
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": reason}
    assert events[-1]["response"]["output"][-1]["status"] == "incomplete"


@pytest.mark.parametrize("command", ["error", "cut"])
async def test_a_failure_in_the_middle_is_a_failed_response(scene: Scene, command: str) -> None:
    answer = await scene.stream(command)
    events = events_of(answer.content)
    check(events)
    assert events[-1]["type"] == "response.failed"
    row = await scene.gateway.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["usage_source"]) == ("upstream_error", "estimated")


@pytest.mark.parametrize(("model", "hints"), [("big", {}), ("apt", {"reasoning_effort": "low", "top_k": 40})])
async def test_the_cap_reaches_the_upstream_in_its_own_words_and_hints_where_it_understands_them(
    scene: Scene, client: AsyncOpenAI, model: str, hints: dict[str, Any]
) -> None:
    await client.responses.create(
        model=model,
        input="hello",
        max_output_tokens=64,
        metadata={"a": "b"},
        store=False,
        reasoning={"effort": "low", "summary": "auto"},
        extra_body={"top_k": 40},
    )
    assert scene.upstream.last == {
        "model": "big",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 64,
        **hints,
    }


async def test_errors_have_their_classes(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.RateLimitError, match="slow down"):
        await client.responses.create(model="big", input="status")
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="nobody", input="hello")
    with pytest.raises(openai.BadRequestError, match="file_search") as refused:
        await client.responses.create(
            model="big", input="hello", tools=[{"type": "file_search", "vector_store_ids": ["v"]}]
        )
    assert (refused.value.param, refused.value.code) == ("tools[0].type", "unsupported_parameter")
    with pytest.raises(openai.BadRequestError, match="whole conversation") as stored:
        await client.responses.create(model="big", input="hello", previous_response_id="resp_1")
    assert stored.value.code == "previous_response_not_found"


async def test_a_client_that_leaves_stops_the_upstream(scene: Scene) -> None:
    before = scene.upstream.left
    body = {"model": "big", "input": "slow", "stream": True}
    async with scene.gateway.client() as http, http.stream("POST", "/v1/responses", json=body) as answer:
        async for piece in answer.aiter_bytes():
            if b"output_text.delta" in piece:
                break
    await until(lambda: scene.upstream.left > before)
    row = await scene.gateway.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["usage_source"]) == ("client_gone", "estimated")


async def test_nothing_of_this_was_a_defect(scene: Scene) -> None:
    await scene.gateway.quiet()
    assert scene.gateway.errors() == []
    assert await scene.gateway.reconcile()

"""Ollama's own dialect behind a gateway: the real OpenAI SDK on one side, a strict fake on the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.support.dialects.ollama import ollama
from tests.support.dialects.served import Served, served
from tests.support.gateway import Gateway, running_gateway
from tests.support.until import until

TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("weather", "clock")
]


class Weather(BaseModel):
    city: str
    degrees: int


@dataclass
class Stage:
    gateway: Gateway
    upstream: Served
    client: OpenAI

    async def row(self, request_id: str | None) -> dict[str, Any]:
        assert request_id
        return await self.gateway.row(request_id)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with served(ollama) as upstream:
        quick = {"max_retries": 0, "first_byte_timeout": 2, "idle_timeout": 2}
        config = {
            "providers": {"local": {"dialect": "ollama", "base_url": upstream.url, **quick}},
            "models": [
                {
                    "model_id": "qwen",
                    "provider": "local",
                    "upstream_model": "qwen3:8b",
                    "price": {"input": 1.0, "output": 2.0},
                },
                {"model_id": "missing", "provider": "local"},
            ],
        }
        with running_gateway(tmp_path_factory.mktemp("ollama"), config) as gateway:
            http = httpx.Client(trust_env=False, verify=False, timeout=30)
            with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, http_client=http) as client:
                yield Stage(gateway, upstream, client)


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def test_an_answer_is_chats_and_its_usage_is_in_the_ledger(stage: Stage) -> None:
    answer = stage.client.chat.completions.create(model="qwen", messages=said("Grüße"))
    assert answer.choices[0].message.content == "You said: Grüße "
    row = await stage.row(answer._request_id)
    expected = {
        "kind": "charge",
        "outcome": "ok",
        "usage_source": "upstream",
        "prompt_tokens": 12,
        "completion_tokens": 5,
        "cost_microusd": 12 + 2 * 5,
        "upstream_model": "qwen3:8b",
    }
    assert {name: row[name] for name in expected} == expected


async def test_a_stream_is_chats_and_hides_usage_that_nobody_asked_for(stage: Stage) -> None:
    with stage.client.chat.completions.with_streaming_response.create(
        model="qwen", messages=said("one two"), stream=True
    ) as raw:
        request_id = raw.headers["x-request-id"]
        chunks = list(raw.parse())
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "You said: one two "
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    row = await stage.row(request_id)
    assert (row["streamed"], row["prompt_tokens"], row["completion_tokens"]) == (1, 12, 5)


def test_a_stream_ends_with_the_usage_that_was_asked_for(stage: Stage) -> None:
    stream = stage.client.chat.completions.create(
        model="qwen",
        messages=said("/think"),
        reasoning_effort="high",
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    thoughts = [getattr(chunk.choices[0].delta, "reasoning_content", None) for chunk in chunks if chunk.choices]
    assert "Thinking high. " in thoughts
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 7


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_go_round(stage: Stage, streamed: bool) -> None:
    messages = said("/tools")
    if streamed:
        with stage.client.chat.completions.stream(model="qwen", messages=messages, tools=TOOLS) as stream:
            answer: Any = stream.get_final_completion()
    else:
        answer = stage.client.chat.completions.create(model="qwen", messages=messages, tools=TOOLS)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert [call.function.name for call in calls] == ["weather", "clock"]
    assert json.loads(calls[0].function.arguments) == {"city": "Tromsø"}
    assert len({call.id for call in calls}) == 2
    asked: Any = choice.message.model_dump(exclude_none=True)
    results: Any = [{"role": "tool", "tool_call_id": call.id, "content": "fine"} for call in calls]
    after = stage.client.chat.completions.create(model="qwen", messages=[*messages, asked, *results], tools=TOOLS)
    assert after.choices[0].message.content == "The tools said: weather=fine, clock=fine."


def test_tools_can_be_forbidden_and_not_forced(stage: Stage) -> None:
    answer = stage.client.chat.completions.create(
        model="qwen", messages=said("/tools"), tools=TOOLS, tool_choice="none"
    )
    assert answer.choices[0].message.content == "No tools, then."
    with pytest.raises(openai.BadRequestError) as caught:
        stage.client.chat.completions.create(model="qwen", messages=said("x"), tools=TOOLS, tool_choice="required")
    assert (caught.value.param, caught.value.code) == ("tool_choice", "unsupported_parameter")


def test_structured_output_is_parsed(stage: Stage) -> None:
    answer = stage.client.chat.completions.parse(model="qwen", messages=said("/json"), response_format=Weather)
    assert answer.choices[0].message.parsed == Weather(city="Oslo", degrees=-3)


def test_pictures_are_seen(stage: Stage) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "/see"}, picture, picture]}]
    answer = stage.client.chat.completions.create(model="qwen", messages=messages)
    assert answer.choices[0].message.content == "2 pictures"


def test_a_cap_is_kept(stage: Stage) -> None:
    answer = stage.client.chat.completions.create(model="qwen", messages=said("/length"), max_completion_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("status", "raised", "code"),
    [
        (400, openai.BadRequestError, "invalid_request"),
        (401, openai.InternalServerError, "upstream_error"),
        (429, openai.RateLimitError, "rate_limit_exceeded"),
        (503, openai.InternalServerError, "upstream_error"),
    ],
)
def test_errors_have_their_classes(
    stage: Stage, status: int, raised: type[openai.APIStatusError], code: str, streamed: bool
) -> None:
    with pytest.raises(raised) as caught:
        stage.client.chat.completions.create(model="qwen", messages=said(f"/error {status}"), stream=streamed)
    assert caught.value.code == code


def test_a_model_that_was_not_pulled_is_not_found(stage: Stage) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        stage.client.chat.completions.create(model="missing", messages=said("x"))
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("streamed", [False, True])
def test_html_in_place_of_an_answer_is_a_502(stage: Stage, streamed: bool) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        stage.client.chat.completions.create(model="qwen", messages=said("/html"), stream=streamed)
    assert caught.value.status_code == 502


@pytest.mark.parametrize("command", ["/cut", "/end", "/midway", "/stall"])
async def test_a_stream_that_breaks_is_an_error_and_is_charged_for_what_came(stage: Stage, command: str) -> None:
    with stage.client.chat.completions.with_streaming_response.create(
        model="qwen", messages=said(command), stream=True
    ) as raw:
        request_id = raw.headers["x-request-id"]
        seen: list[Any] = []
        with pytest.raises(openai.APIError):
            seen.extend(chunk.choices[0].delta.content for chunk in raw.parse())
    row = await stage.row(request_id)
    assert "Half " in seen
    assert row["outcome"] == ("timeout" if command == "/stall" else "upstream_error")
    assert (row["usage_source"], row["completion_tokens"]) == ("estimated", 2)


def test_silence_is_a_timeout(stage: Stage) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        stage.client.chat.completions.create(model="qwen", messages=said("/silent"))
    assert (caught.value.status_code, caught.value.code) == (504, "upstream_timeout")


async def test_a_client_that_leaves_ends_the_call_upstream(stage: Stage) -> None:
    with stage.client.chat.completions.with_streaming_response.create(
        model="qwen", messages=said("/stall"), stream=True
    ) as raw:
        request_id = raw.headers["x-request-id"]
        next(iter(raw.parse()))
    asked = stage.upstream.last
    await until(asked.gone.is_set)
    assert (await stage.row(request_id))["outcome"] == "client_gone"


async def test_embeddings_are_the_same_packed_and_plain(stage: Stage) -> None:
    packed = stage.client.embeddings.create(model="qwen", input=["one", "three"])
    plain = stage.client.embeddings.create(model="qwen", input=["one", "three"], encoding_format="float", dimensions=2)
    assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]
    assert packed.data[1].embedding == [0.625, -0.5]
    row = await stage.row(stage.upstream.last.headers["x-request-id"])
    assert (row["usage_source"], row["prompt_tokens"], row["completion_tokens"]) == ("upstream", 6, 0)


def test_the_gateway_has_nothing_to_complain_of(stage: Stage) -> None:
    assert stage.gateway.errors() == []

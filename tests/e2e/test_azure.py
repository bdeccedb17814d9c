"""Azure OpenAI behind a gateway: the real OpenAI SDK on one side, on the other a fake as strict as Azure, by key and
by token."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.e2e.azure_stage import COST, Stage, azure_stage, said
from tests.support.dialects import azure
from tests.support.until import until

TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("weather", "clock")
]
PLACES = {
    "dated": f"/openai/deployments/our%20gpt/chat/completions?api-version={azure.VERSION}",
    "by-token": f"/openai/deployments/our%20gpt/chat/completions?api-version={azure.VERSION}",
    "undated": "/openai/v1/chat/completions?",
}
YOUNG_S = 1.0
"""For so long a token is not given up, although it is refused."""


class Weather(BaseModel):
    city: str
    degrees: int


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with azure_stage(tmp_path_factory.mktemp("azure")) as made:
        yield made


@pytest.fixture(scope="module")
def client(stage: Stage) -> Iterator[OpenAI]:
    gateway = stage.gateway
    http = httpx.Client(trust_env=False, verify=False, timeout=30)
    with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, http_client=http) as made:
        yield made


@pytest.mark.parametrize("model", PLACES)
async def test_an_answer_passes_and_its_usage_is_in_the_ledger(stage: Stage, client: OpenAI, model: str) -> None:
    answer: Any = client.chat.completions.create(model=model, messages=said("Grüße"), max_completion_tokens=9)
    assert answer.choices[0].message.content == "You said: Grüße "
    assert answer.model == "gpt-4o-2024-11-20"
    assert answer.prompt_filter_results[0]["content_filter_results"]["hate"]["severity"] == "safe"
    asked = stage.upstream.last
    assert f"{asked.path}?{asked.query}" == PLACES[model]
    row = await stage.row(answer._request_id)
    expected = {
        "kind": "charge",
        "outcome": "ok",
        "usage_source": "upstream",
        "prompt_tokens": 12,
        "completion_tokens": 5,
        "cached_tokens": 4,
        "reasoning_tokens": 2,
        "cost_microusd": COST,
        "upstream_model": azure.DEPLOYMENT,
    }
    assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize("model", PLACES)
@pytest.mark.parametrize("command", ["one two", "/late"])
async def test_a_stream_passes_with_its_filters_frames(stage: Stage, client: OpenAI, model: str, command: str) -> None:
    with client.chat.completions.with_streaming_response.create(
        model=model, messages=said(command), stream=True
    ) as raw:
        request_id = raw.headers["x-request-id"]
        chunks: list[Any] = list(raw.parse())
    assert chunks[0].choices == []
    assert chunks[0].prompt_filter_results[0]["prompt_index"] == 0
    assert all(chunk.usage is None for chunk in chunks)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    text = "".join(choice.delta.content or "" for choice in choices if choice.delta)
    assert text == ("You said: one two " if command == "one two" else "Said before it was read. ")
    assert "stop" in [choice.finish_reason for choice in choices]
    row = await stage.row(request_id)
    assert (row["usage_source"], row["cost_microusd"], row["outcome"]) == ("upstream", COST, "ok")


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_go_round(client: OpenAI, streamed: bool) -> None:
    messages = said("/tools")
    if streamed:
        with client.chat.completions.stream(model="by-token", messages=messages, tools=TOOLS) as stream:
            answer: Any = stream.get_final_completion()
    else:
        answer = client.chat.completions.create(model="by-token", messages=messages, tools=TOOLS)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    first = choice.message.tool_calls[0]
    assert [call.function.name for call in choice.message.tool_calls] == ["weather", "clock"]
    assert json.loads(first.function.arguments) == {"city": "Tromsø"}
    asked: Any = choice.message.model_dump(exclude_none=True)
    result: Any = {"role": "tool", "tool_call_id": first.id, "content": "rain"}
    after = client.chat.completions.create(model="by-token", messages=[*messages, asked, result], tools=TOOLS)
    assert after.choices[0].message.content == "The tool said: rain. "


def test_structured_output_is_parsed(client: OpenAI) -> None:
    answer = client.chat.completions.parse(model="by-token", messages=said("/json"), response_format=Weather)
    assert answer.choices[0].message.parsed == Weather(city="Oslo", degrees=-3)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_was_filtered_says_so(client: OpenAI, streamed: bool) -> None:
    answer: Any = client.chat.completions.create(model="dated", messages=said("/filter"), stream=streamed)
    choices = [choice for chunk in (answer if streamed else [answer]) for choice in chunk.choices]
    assert choices[-1].finish_reason == "content_filter"
    assert choices[-1].content_filter_results


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("status", "raised", "code"),
    [
        (400, openai.BadRequestError, "content_filter"),
        (403, openai.InternalServerError, "upstream_error"),
        (429, openai.RateLimitError, "rate_limit_exceeded"),
        (503, openai.InternalServerError, "upstream_error"),
    ],
)
def test_errors_have_their_classes(
    client: OpenAI, status: int, raised: type[openai.APIStatusError], code: str, streamed: bool
) -> None:
    with pytest.raises(raised) as caught:
        client.chat.completions.create(model="dated", messages=said(f"/error {status}"), stream=streamed)
    assert caught.value.code == code
    waits = ("2", "1480") if status == 429 else (None, None)
    headers = caught.value.response.headers
    assert (headers.get("retry-after"), headers.get("retry-after-ms")) == waits


def test_a_deployment_that_is_not_there_is_a_model_that_is_not_there(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="missing", messages=said("x"))
    assert (caught.value.code, caught.value.type) == ("model_not_found", "invalid_request_error")


def test_a_key_that_azure_refuses_is_not_the_callers_fault(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="credential") as caught:
        client.chat.completions.create(model="locked", messages=said("x"))
    assert caught.value.status_code == 502


@pytest.mark.parametrize("command", ["/cut", "/midway", "/stall"])
async def test_a_stream_that_breaks_is_an_error_and_is_charged_for_what_came(
    stage: Stage, client: OpenAI, command: str
) -> None:
    with client.chat.completions.with_streaming_response.create(
        model="by-token", messages=said(command), stream=True
    ) as raw:
        request_id = raw.headers["x-request-id"]
        with pytest.raises(openai.APIError):
            list(raw.parse())
    row = await stage.row(request_id)
    assert row["outcome"] == ("timeout" if command == "/stall" else "upstream_error")
    assert (row["usage_source"], row["completion_tokens"]) == ("estimated", 1)


@pytest.mark.parametrize(("command", "status"), [("/html", 502), ("/silent", 504)])
def test_what_is_no_answer_is_an_error_of_the_upstreams(client: OpenAI, command: str, status: int) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="by-token", messages=said(command))
    assert caught.value.status_code == status


async def test_a_client_that_leaves_ends_the_call_upstream(stage: Stage, client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(
        model="by-token", messages=said("/stall"), stream=True
    ) as raw:
        request_id = raw.headers["x-request-id"]
        next(iter(raw.parse()))
    await until(stage.upstream.last.gone.is_set)
    assert (await stage.row(request_id))["outcome"] == "client_gone"


# Other dialects


async def test_responses_are_azures_own_and_undated(stage: Stage, client: OpenAI) -> None:
    for model in ("dated", "undated"):
        answer = client.responses.create(model=model, input="Hi", store=False)
        assert answer.output_text == "You said: Hi"
        asked = stage.upstream.last
        assert (asked.path, asked.query, asked.json["model"]) == ("/openai/v1/responses", "", azure.DEPLOYMENT)
        assert (await stage.row(answer._request_id))["cost_microusd"] == COST


@pytest.mark.parametrize("command", ["/late", "/tools"])
def test_filters_frames_do_not_disturb_a_translation(client: OpenAI, command: str) -> None:
    tools: Any = [{"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}]
    with client.responses.stream(model="chat-only", input=command, store=False, tools=tools) as stream:
        answer = stream.get_final_response()
    assert answer.status == "completed"
    if command == "/late":
        assert answer.output_text == "Said before it was read. "
    else:
        assert [item.name for item in answer.output if item.type == "function_call"] == ["weather"]


# Tokens


def test_an_application_that_entra_does_not_know_is_the_administrators_affair(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="Microsoft Entra refused") as caught:
        client.chat.completions.create(model="on-stolen", messages=said("x"))
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")
    assert azure.CLIENT not in str(caught.value)


def test_another_target_serves_where_no_token_can_be_had(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="either", messages=said("x"))
    assert raw.headers["x-aidock-provider"] == "keyed"


def test_a_token_that_was_revoked_costs_one_call(stage: Stage, client: OpenAI) -> None:
    client.chat.completions.create(model="by-token", messages=said("x"))
    time.sleep(YOUNG_S)
    before = len(stage.fake.granted)
    stage.fake.revoke()
    with pytest.raises(openai.InternalServerError, match="credential"):
        client.chat.completions.create(model="by-token", messages=said("x"))
    for model in ("by-token", "undated"):  # one application, one token
        assert client.chat.completions.create(model=model, messages=said("x")).choices
    assert len(stage.fake.granted) == before + 1


def test_a_token_that_was_revoked_costs_nothing_where_a_call_may_be_tried_again(stage: Stage, client: OpenAI) -> None:
    client.chat.completions.create(model="undated", messages=said("x"))
    time.sleep(YOUNG_S)
    stage.fake.revoke()
    raw = client.chat.completions.with_raw_response.create(model="undated", messages=said("x"))
    assert raw.headers["x-aidock-attempts"] == "2"


async def test_a_token_that_ends_under_load_is_fetched_once(stage: Stage, client: OpenAI) -> None:
    fake, gateway = stage.fake, stage.gateway
    await asyncio.sleep(YOUNG_S)
    fake.lifetime = 3.0  # of which half is used
    fake.revoke()
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="by-token", messages=said("x"))
    granted, refused, began = len(fake.granted), fake.expired, time.monotonic()
    http = httpx.AsyncClient(trust_env=False, verify=False, timeout=30)
    async with AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, http_client=http
    ) as caller:

        async def call_on() -> int:
            calls = 0
            while time.monotonic() < began + 4.0:
                answer = await caller.chat.completions.create(model="by-token", messages=said("x"))
                assert answer.choices
                calls += 1
            return calls

        calls = await asyncio.gather(*[call_on() for _ in range(16)])
    took = time.monotonic() - began
    fake.lifetime = 3600.0
    assert sum(calls) > 16
    assert fake.expired == refused, "no call went out with a token that had ended"
    assert 2 <= len(fake.granted) - granted <= took / 1.5 + 1


def test_nothing_of_all_this_was_an_error_of_the_gateways_own(stage: Stage) -> None:
    assert stage.gateway.errors() == []

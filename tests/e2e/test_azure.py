"""Azure OpenAI behind a gateway: the real OpenAI SDK and its Azure client on one side, a fake as strict as Azure, by
key and by token, on the other."""

from __future__ import annotations

import asyncio
import io
import json
import time
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI
from pydantic import BaseModel

from tests.support.dialects import azure
from tests.support.dialects.azure import Azure
from tests.support.dialects.served import Served, served
from tests.support.gateway import Gateway, chat, running_gateway
from tests.support.until import until

PRICE = {"input": 1.0, "output": 2.0, "cached_input": 0.5}
COST = 8 + 4 // 2 + 2 * 5
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


@dataclass
class Stage:
    gateway: Gateway
    fake: Azure
    upstream: Served

    async def row(self, request_id: str | None) -> dict[str, Any]:
        assert request_id
        return await self.gateway.row(request_id)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    fake = Azure()
    with served(fake) as upstream, running_gateway(tmp_path_factory.mktemp("azure"), _config(upstream.url)) as gateway:
        yield Stage(gateway, fake, upstream)


def _config(url: str) -> dict[str, Any]:
    auth = {
        "kind": "entra",
        "tenant_id": azure.TENANT,
        "client_id": azure.CLIENT,
        "client_secret": azure.SECRET,
        "authority": url,
    }
    place = {"vendor": "azure", "base_url": url, "api_version": azure.VERSION}
    quick = {"max_retries": 0, "first_byte_timeout": 2, "idle_timeout": 2}
    model = {"upstream_model": azure.DEPLOYMENT, "price": PRICE}
    return {
        "providers": {
            "keyed": {**place, "api_key": azure.KEY, **quick},
            "wrong-key": {**place, "api_key": "azure-another-key", **quick},
            "entra": {**place, "auth": auth, **quick},
            "v1": {**place, "base_url": f"{url}/openai/v1", "auth": auth, **quick},
            "stolen": {**place, "auth": {**auth, "client_secret": "guessed"}, **quick},
        },
        "models": [
            {"model_id": "dated", "provider": "keyed", **model},
            {"model_id": "by-token", "provider": "entra", **model},
            {"model_id": "undated", "provider": "v1", **model},
            {"model_id": "ours/with slash", "provider": "keyed", **model},
            {"model_id": "missing", "provider": "keyed", "upstream_model": "gone"},
            {"model_id": "locked", "provider": "wrong-key", **model},
            {"model_id": "on-stolen", "provider": "stolen", **model},
        ],
        "routes": {"either": {"targets": [{"model": "on-stolen"}], "fallbacks": ["dated"]}},
    }


@pytest.fixture(scope="module")
def client(stage: Stage) -> Iterator[OpenAI]:
    gateway = stage.gateway
    http = httpx.Client(trust_env=False, verify=False, timeout=30)
    with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, http_client=http) as made:
        yield made


def azure_client(gateway: Gateway, **options: Any) -> AzureOpenAI:
    """A program made for Azure of which only the endpoint and the key were changed."""
    http = httpx.Client(trust_env=False, verify=False, timeout=30)
    if "azure_ad_token" not in options:
        options["api_key"] = gateway.key
    return AzureOpenAI(
        azure_endpoint=gateway.url, api_version="2025-01-01-preview", max_retries=0, http_client=http, **options
    )


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


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


# Clients made for Azure


@pytest.mark.parametrize("model", ["by-token", "ours/with slash", "either"])
async def test_a_client_made_for_azure_only_changes_its_endpoint(stage: Stage, model: str) -> None:
    with azure_client(stage.gateway) as caller:
        answer = caller.chat.completions.create(model=model, messages=said("Hi"))
        assert answer.choices[0].message.content == "You said: Hi "
        stream = caller.chat.completions.create(model=model, messages=said("Hi"), stream=True)
        text = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
        assert text == "You said: Hi "
    row = await stage.row(answer._request_id)
    assert (row["model_id"], row["endpoint"], row["cost_microusd"]) == (model, "chat.completions", COST)


def test_the_model_in_the_path_is_the_one_that_is_meant(stage: Stage) -> None:
    with azure_client(stage.gateway, azure_deployment="dated") as caller:
        raw = caller.chat.completions.with_raw_response.create(model="gpt-4o", messages=said("x"))
    assert raw.headers["x-aidock-model"] == "dated"
    assert stage.upstream.last.json["model"] == azure.DEPLOYMENT


def test_azures_client_may_send_its_key_as_a_token(stage: Stage) -> None:
    with azure_client(stage.gateway, azure_ad_token=stage.gateway.key) as caller:
        assert caller.chat.completions.create(model="dated", messages=said("x")).choices


async def test_a_body_need_not_name_the_model_of_the_path(stage: Stage) -> None:
    path = f"/openai/deployments/dated/chat/completions?api-version={azure.VERSION}"
    answer = await stage.gateway.ask(path, {"messages": said("x")}, headers={"idempotency-key": "one"})
    assert answer.json()["choices"][0]["message"]["content"] == "You said: x "
    again = await stage.gateway.ask(path, {"messages": said("x")}, headers={"idempotency-key": "one"})
    assert again.headers["idempotent-replayed"] == "true"
    elsewhere = path.replace("/dated/", "/by-token/")
    other = await stage.gateway.ask(elsewhere, {"messages": said("x")}, headers={"idempotency-key": "one"})
    assert other.json()["error"]["code"] == "idempotency_key_reused"


async def test_azures_client_reaches_embeddings_sound_pictures_and_models(stage: Stage) -> None:
    with azure_client(stage.gateway) as caller:
        vectors = caller.embeddings.create(model="by-token", input="x", encoding_format="float")
        assert vectors.data[0].embedding == [0.5, -0.25]
        heard = caller.audio.transcriptions.create(model="by-token", file=("a.wav", a_wav()))
        assert heard.text == "Guten Tag"
        assert caller.images.generate(model="by-token", prompt="a boat").data
        assert "by-token" in [model.id for model in caller.models.list()]
    assert (await stage.row(vectors._request_id))["prompt_tokens"] == 3


async def test_a_form_need_not_name_the_model_of_the_path(stage: Stage) -> None:
    async with stage.gateway.client() as caller:
        path = "/openai/deployments/dated/audio/transcriptions"
        answer = await caller.post(path, files={"file": ("a.wav", a_wav(), "audio/wav")})
    assert answer.json()["text"] == "Guten Tag"
    assert f'name="model"\r\n\r\n{azure.DEPLOYMENT}\r\n'.encode() in stage.upstream.last.body


async def test_azures_client_is_told_what_is_wrong_in_its_own_words(stage: Stage) -> None:
    with azure_client(stage.gateway) as caller:
        with pytest.raises(openai.NotFoundError) as missing:
            caller.chat.completions.create(model="nobody's", messages=said("x"))
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as empty:
            caller.chat.completions.create(model="dated", messages=[])
        assert empty.value.param == "messages"
    unknown = await stage.gateway.ask("/openai/deployments/dated/nothing", chat())
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    stranger = await stage.gateway.ask("/openai/deployments/dated/chat/completions", chat(), key="sk-no")
    assert stranger.status_code == 401


def a_wav() -> bytes:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(b"\1\2" * 16_000)
    return sound.getvalue()


def test_nothing_of_all_this_was_an_error_of_the_gateways_own(stage: Stage) -> None:
    assert stage.gateway.errors() == []

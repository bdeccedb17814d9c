"""Gemini behind a gateway: the real OpenAI SDK on one side, a fake as strict as Google on the other."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.support.dialects.gemini import KEY, Gemini
from tests.support.dialects.served import Served, served
from tests.support.gateway import Gateway, running_gateway
from tests.support.until import until

PRICE = {"input": 1.0, "output": 2.0, "cached_input": 0.5}
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "properties": {"city": {"type": "string"}, "unit": {"const": "celsius"}},
            },
        },
    }
    for name in ("weather", "clock")
]


class Weather(BaseModel):
    city: str
    degrees: int


@dataclass
class Stage:
    gateway: Gateway
    fake: Gemini
    upstream: Served
    client: OpenAI

    async def row(self, request_id: str | None) -> dict[str, Any]:
        assert request_id
        return await self.gateway.row(request_id)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("gemini")
    fake = Gemini()
    with served(fake) as upstream:
        fake.port = upstream.port
        with running_gateway(directory, _config(directory, fake, upstream.url)) as gateway:
            http = httpx.Client(trust_env=False, verify=False, timeout=30)
            with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, http_client=http) as client:
                yield Stage(gateway, fake, upstream, client)


def _config(directory: Path, fake: Gemini, url: str) -> dict[str, Any]:
    file = directory / "account.json"
    file.write_text(json.dumps(fake.account()))
    auth = {"kind": "service_account", "file": str(file), "location": "europe-west4"}
    stolen = directory / "stolen.json"
    stolen.write_text(json.dumps(Gemini().account() | {"token_uri": fake.account()["token_uri"]}))
    quick = {"max_retries": 0, "first_byte_timeout": 2, "idle_timeout": 2, "cooldown": {"failures": 0}}
    return {
        "providers": {
            "gemini": {"base_url": f"{url}/v1beta", "dialect": "gemini", "api_key": KEY, **quick},
            "wrong-key": {"base_url": f"{url}/v1beta", "dialect": "gemini", "api_key": "g-another-key", **quick},
            "vertex": {"base_url": f"{url}/v1", "dialect": "gemini", "auth": auth, **quick},
            "stolen": {
                "base_url": f"{url}/v1",
                "dialect": "gemini",
                "auth": {**auth, "file": str(stolen)},
                **quick,
            },
        },
        "models": [
            {"model_id": "flash", "provider": "gemini", "upstream_model": "gemini-3.6-flash", "price": PRICE},
            {"model_id": "older", "provider": "gemini", "upstream_model": "gemini-2.5-flash", "price": PRICE},
            {"model_id": "missing", "provider": "gemini"},
            {"model_id": "locked", "provider": "wrong-key", "upstream_model": "gemini-3.6-flash"},
            {"model_id": "embed", "provider": "gemini", "upstream_model": "gemini-embedding-001", "price": PRICE},
            {"model_id": "on-vertex", "provider": "vertex", "upstream_model": "gemini-3.6-flash", "price": PRICE},
            {"model_id": "on-stolen", "provider": "stolen", "upstream_model": "gemini-3.6-flash"},
            {"model_id": "predict", "provider": "vertex", "upstream_model": "text-embedding-005", "price": PRICE},
        ],
        "routes": {"either": {"targets": [{"model": "on-stolen"}], "fallbacks": ["flash"]}},
    }


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def test_an_answer_is_chats_and_its_usage_is_in_the_ledger(stage: Stage) -> None:
    answer = stage.client.chat.completions.create(model="flash", messages=said("Grüße"), max_tokens=9)
    assert answer.choices[0].message.content == "You said: Grüße "
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (12, 5)
    assert stage.upstream.last.json["generationConfig"] == {"maxOutputTokens": 9}
    row = await stage.row(answer._request_id)
    expected = {
        "kind": "charge",
        "outcome": "ok",
        "usage_source": "upstream",
        "prompt_tokens": 12,
        "completion_tokens": 5,
        "cost_microusd": 12 + 2 * 5,
        "provider": "gemini",
        "upstream_model": "gemini-3.6-flash",
    }
    assert {name: row[name] for name in expected} == expected


async def test_thoughts_and_what_was_cached_are_told_and_charged(stage: Stage) -> None:
    answer = stage.client.chat.completions.create(model="older", messages=said("/think"), reasoning_effort="low")
    message: Any = answer.choices[0].message
    assert (message.content, message.reasoning_content) == ("42", "Let me see. ")
    thinking = stage.upstream.last.json["generationConfig"]["thinkingConfig"]
    assert thinking == {"thinkingBudget": 1024, "includeThoughts": True}
    row = await stage.row(answer._request_id)
    counted = {"prompt_tokens": 12, "completion_tokens": 25, "cached_tokens": 4, "reasoning_tokens": 20}
    assert {name: row[name] for name in counted} == counted
    assert row["cost_microusd"] == 8 + 2 + 2 * 25


async def test_a_stream_is_chats_and_hides_usage_that_nobody_asked_for(stage: Stage) -> None:
    with stage.client.chat.completions.with_streaming_response.create(
        model="flash", messages=said("one two"), stream=True
    ) as raw:
        request_id = raw.headers["x-request-id"]
        chunks = list(raw.parse())
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "You said: one two "
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    row = await stage.row(request_id)
    assert (row["streamed"], row["prompt_tokens"], row["completion_tokens"], row["usage_source"]) == (
        1,
        12,
        5,
        "upstream",
    )


def test_a_stream_ends_with_the_usage_that_was_asked_for(stage: Stage) -> None:
    stream = stage.client.chat.completions.create(
        model="flash", messages=said("/think"), stream=True, stream_options={"include_usage": True}
    )
    *_, last = list(stream)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens_details is not None
    assert last.usage.completion_tokens_details.reasoning_tokens == 20


@pytest.mark.parametrize("drops", [False, True], ids=["a client that keeps all", "a client that drops signatures"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("model", ["flash", "on-vertex"])
def test_parallel_tools_go_round_with_their_signature(stage: Stage, model: str, streamed: bool, drops: bool) -> None:
    messages = said("/tools")
    if streamed:
        with stage.client.chat.completions.stream(model=model, messages=messages, tools=TOOLS) as stream:
            answer: Any = stream.get_final_completion()
    else:
        answer = stage.client.chat.completions.create(model=model, messages=messages, tools=TOOLS)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert [call.function.name for call in calls] == ["weather", "clock"]
    assert json.loads(calls[0].function.arguments) == {"city": "Tromsø"}
    assert len({call.id for call in calls}) == 2
    asked: Any = choice.message.model_dump(exclude_none=True)
    signature = asked["tool_calls"][0].pop("extra_content") if drops else asked["tool_calls"][0]["extra_content"]
    assert signature["google"]["thought_signature"] in stage.fake.handed_out
    results: Any = [{"role": "tool", "tool_call_id": call.id, "content": call.function.name} for call in calls]
    after = stage.client.chat.completions.create(
        model=model, messages=[*messages, asked, *reversed(results)], tools=TOOLS
    )
    assert after.choices[0].message.content == "The tools said: weather, clock."


def test_calls_that_another_model_made_are_taken(stage: Stage) -> None:
    call = {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages: Any = [
        *said("Weather?"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "rain"},
    ]
    answer = stage.client.chat.completions.create(model="flash", messages=messages, tools=TOOLS)
    assert answer.choices[0].message.content == "The tools said: rain."


def test_tools_can_be_forbidden(stage: Stage) -> None:
    answer = stage.client.chat.completions.create(
        model="flash", messages=said("/tools"), tools=TOOLS, tool_choice="none"
    )
    assert answer.choices[0].message.content == "No tools, then."
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("model", ["flash", "on-vertex"])
def test_structured_output_is_parsed(stage: Stage, model: str) -> None:
    answer = stage.client.chat.completions.parse(model=model, messages=said("/json"), response_format=Weather)
    assert answer.choices[0].message.parsed == Weather(city="Oslo", degrees=-3)


def test_two_answers_at_once(stage: Stage) -> None:
    answer = stage.client.chat.completions.create(model="flash", messages=said("x"), n=2)
    assert [choice.message.content for choice in answer.choices] == ["You said: x ", "You said: x "]
    stream = stage.client.chat.completions.create(model="flash", messages=said("x"), n=2, stream=True)
    assert {choice.index for chunk in stream for choice in chunk.choices} == {0, 1}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_blocked_prompt_is_a_refusal(stage: Stage, streamed: bool) -> None:
    answer: Any = stage.client.chat.completions.create(model="flash", messages=said("/block"), stream=streamed)
    reasons = [choice.finish_reason for chunk in (answer if streamed else [answer]) for choice in chunk.choices]
    assert reasons[-1] == "content_filter"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("status", "raised", "code"),
    [
        (400, openai.BadRequestError, "invalid_request"),
        (403, openai.InternalServerError, "upstream_error"),
        (404, openai.NotFoundError, "not_found"),
        (429, openai.RateLimitError, "rate_limit_exceeded"),
        (503, openai.InternalServerError, "upstream_error"),
    ],
)
def test_errors_have_their_classes(
    stage: Stage, status: int, raised: type[openai.APIStatusError], code: str, streamed: bool
) -> None:
    with pytest.raises(raised) as caught:
        stage.client.chat.completions.create(model="flash", messages=said(f"/error {status}"), stream=streamed)
    assert caught.value.code == code
    assert caught.value.response.headers.get("retry-after") == ("2" if status == 429 else None)


def test_a_model_that_google_does_not_know_is_not_found(stage: Stage) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        stage.client.chat.completions.create(model="missing", messages=said("x"))
    assert caught.value.code == "model_not_found"


def test_a_key_that_google_refuses_is_not_the_callers_fault(stage: Stage) -> None:
    with pytest.raises(openai.InternalServerError, match="credential") as caught:
        stage.client.chat.completions.create(model="locked", messages=said("x"))
    assert caught.value.status_code == 502


@pytest.mark.parametrize("streamed", [False, True])
def test_html_in_place_of_an_answer_is_a_502(stage: Stage, streamed: bool) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        stage.client.chat.completions.create(model="flash", messages=said("/html"), stream=streamed)
    assert caught.value.status_code == 502


@pytest.mark.parametrize("command", ["/cut", "/end", "/midway", "/stall"])
async def test_a_stream_that_breaks_is_an_error_and_is_charged_for_what_came(stage: Stage, command: str) -> None:
    with stage.client.chat.completions.with_streaming_response.create(
        model="flash", messages=said(command), stream=True
    ) as raw:
        request_id = raw.headers["x-request-id"]
        seen: list[Any] = []
        with pytest.raises(openai.APIError):
            seen.extend(chunk.choices[0].delta.content for chunk in raw.parse())
    row = await stage.row(request_id)
    assert "Half " in seen
    assert row["outcome"] == ("timeout" if command == "/stall" else "upstream_error")
    assert row["usage_source"] == "estimated"
    assert row["completion_tokens"] == 2


def test_silence_is_a_timeout(stage: Stage) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        stage.client.chat.completions.create(model="flash", messages=said("/silent"))
    assert (caught.value.status_code, caught.value.code) == (504, "upstream_timeout")


async def test_a_client_that_leaves_ends_the_call_upstream(stage: Stage) -> None:
    with stage.client.chat.completions.with_streaming_response.create(
        model="flash", messages=said("/stall"), stream=True
    ) as raw:
        request_id = raw.headers["x-request-id"]
        next(iter(raw.parse()))
    asked = stage.upstream.last
    await until(asked.gone.is_set)
    assert (await stage.row(request_id))["outcome"] == "client_gone"


def test_what_gemini_cannot_do_is_a_bad_request_that_names_it(stage: Stage) -> None:
    before = len(stage.upstream.asked)
    with pytest.raises(openai.BadRequestError) as caught:
        stage.client.chat.completions.create(model="flash", messages=said("x"), stop=list("abcdef"))
    assert caught.value.param == "stop"
    assert len(stage.upstream.asked) == before


def test_vertex_is_asked_with_a_token_that_many_calls_share(stage: Stage) -> None:
    for _ in range(3):
        answer = stage.client.chat.completions.create(model="on-vertex", messages=said("x"))
        assert answer.choices[0].message.content == "You said: x "
    assert len(stage.fake.tokens) == 1
    time.sleep(1)  # a younger one would not be given up
    stage.fake.tokens.clear()  # revoked: the next call fails, and the one after it has a new token
    stage.fake.tokens.add("another")
    with pytest.raises(openai.InternalServerError, match="credential"):
        stage.client.chat.completions.create(model="on-vertex", messages=said("x"))
    assert stage.client.chat.completions.create(model="on-vertex", messages=said("x")).choices


def test_an_account_whose_key_google_does_not_know_is_the_administrators_affair(stage: Stage) -> None:
    with pytest.raises(openai.InternalServerError, match="service account") as caught:
        stage.client.chat.completions.create(model="on-stolen", messages=said("x"))
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")


def test_another_target_serves_where_no_token_can_be_had(stage: Stage) -> None:
    raw = stage.client.chat.completions.with_raw_response.create(model="either", messages=said("x"))
    assert raw.headers["x-aidock-model"] == "flash"


@pytest.mark.parametrize(("model", "prompt"), [("embed", None), ("predict", 6)])
async def test_embeddings_are_the_same_packed_and_plain(stage: Stage, model: str, prompt: int | None) -> None:
    packed = stage.client.embeddings.create(model=model, input=["one", "three"])
    plain = stage.client.embeddings.create(model=model, input=["one", "three"], encoding_format="float", dimensions=2)
    assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]
    assert packed.data[1].embedding == [0.625, -0.5]
    request_id = stage.upstream.last.headers["x-request-id"]
    row = await stage.row(request_id)
    assert row["usage_source"] == ("estimated" if prompt is None else "upstream")
    assert prompt is None or row["prompt_tokens"] == prompt
    assert row["completion_tokens"] == 0


def test_the_gateway_has_nothing_to_complain_of(stage: Stage) -> None:
    assert stage.gateway.errors() == []

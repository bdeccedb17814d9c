"""The OpenAI SDK through a gateway to a fake of Anthropic."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.support.dialects.anthropic import KEY, SIGNATURE, anthropic
from tests.support.dialects.served import Served, served
from tests.support.gateway import Gateway, chat, running_gateway
from tests.support.until import until

MODEL = "claude-sonnet-4-6"
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Served]:
    with served(anthropic) as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(upstream: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {
        "providers": {"claude": {"dialect": "anthropic", "base_url": upstream.url, "api_key": KEY, "max_retries": 0}},
        "models": [
            {"model_id": "claude", "provider": "claude", "upstream_model": MODEL, "price": {"input": 1, "output": 2}},
            {"model_id": "opus", "provider": "claude", "upstream_model": "claude-opus-5-5"},
        ],
    }
    with running_gateway(tmp_path_factory.mktemp("anthropic"), config) as running:
        yield running


@pytest.fixture
def client(gateway: Gateway) -> Iterator[OpenAI]:
    http = httpx.Client(trust_env=False, verify=False, timeout=30)
    with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, http_client=http) as made:
        yield made


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def test_an_answer_and_its_row(client: OpenAI, gateway: Gateway, upstream: Served) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="claude", messages=[{"role": "developer", "content": "Be brief."}, *said("Good day")], max_tokens=77
    )
    answer = raw.parse()
    assert answer.choices[0].message.content == "Good day"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (71, 9)
    assert upstream.last.json["system"] == [{"type": "text", "text": "Be brief."}]
    assert (upstream.last.json["max_tokens"], upstream.last.headers["anthropic-version"]) == (77, "2023-06-01")
    row = await gateway.row(raw.headers["x-request-id"])
    assert (row["kind"], row["provider"], row["prompt_tokens"], row["cached_tokens"]) == ("charge", "claude", 71, 64)
    assert row["cost_microusd"] == 71 + 2 * 9


def test_a_stream_ends_with_the_usage_that_was_asked_for(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="claude", messages=said("one two three"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "one two three"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens_details is not None
    assert (chunks[-1].usage.total_tokens, chunks[-1].usage.prompt_tokens_details.cached_tokens) == (80, 64)


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_make_the_round(client: OpenAI, upstream: Served, streamed: bool) -> None:
    asked: Any = {"model": "claude", "messages": said("tools please"), "tools": [WEATHER], "tool_choice": "required"}
    if streamed:
        with client.chat.completions.stream(**asked) as stream:
            message: Any = stream.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(**asked).choices[0].message
    assert message.content == "I will look."
    assert [(call.id, call.function.arguments.replace(" ", "")) for call in message.tool_calls] == [
        ("toolu_1", '{"city":"Öslo"}'),
        ("toolu_2", "{}"),
    ]
    results = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls]
    echoed = message.model_dump()
    final = client.chat.completions.create(model="claude", messages=[*said("w"), echoed, *results], tools=[WEATHER])
    assert final.choices[0].message.content == "rain"
    kinds = [[block["type"] for block in told["content"]] for told in upstream.last.json["messages"]]
    assert kinds == [["text"], ["text", "tool_use", "tool_use"], ["tool_result", "tool_result"]]


@pytest.mark.parametrize("streamed", [False, True])
def test_thoughts_come_and_go_back_with_their_signature(client: OpenAI, upstream: Served, streamed: bool) -> None:
    asked: Any = {"model": "claude", "messages": said("think hard"), "reasoning_effort": "high"}
    if streamed:
        deltas = [chunk.choices[0].delta for chunk in client.chat.completions.create(**asked, stream=True)]
        reasoning = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        blocks = [block for delta in deltas for block in getattr(delta, "thinking_blocks", None) or []]
    else:
        answer = client.chat.completions.create(**asked)
        message: Any = answer.choices[0].message
        reasoning, blocks = message.reasoning_content, message.thinking_blocks
        assert answer.usage is not None
        assert answer.usage.completion_tokens_details is not None
        assert answer.usage.completion_tokens_details.reasoning_tokens == 4
    assert reasoning == "Hm, so."
    assert blocks == [{"type": "thinking", "thinking": "Hm, so.", "signature": SIGNATURE}]
    again: Any = [*said("x"), {"role": "assistant", "content": "y", "thinking_blocks": blocks}, *said("z")]
    client.chat.completions.create(model="claude", messages=again)
    assert upstream.last.json["messages"][1]["content"][0] == blocks[0]


def test_a_schema_is_asked_for(client: OpenAI, upstream: Served) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    client.chat.completions.create(
        model="claude",
        messages=said('{"a":"b"}'),
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert upstream.last.json["output_config"]["format"]["schema"] == {**schema, "additionalProperties": False}


def test_citations_are_annotations(client: OpenAI) -> None:
    message = client.chat.completions.create(model="claude", messages=said("cite this")).choices[0].message
    assert message.annotations is not None
    assert message.annotations[0].url_citation.url == "https://a.example"


@pytest.mark.parametrize(("word", "finish"), [("long", "length"), ("refuse", "content_filter"), ("other", "stop")])
def test_an_answer_says_why_it_ends(client: OpenAI, word: str, finish: str) -> None:
    assert client.chat.completions.create(model="claude", messages=said(word)).choices[0].finish_reason == finish


@pytest.mark.parametrize(
    ("word", "error", "status", "code"),
    [
        ("429", openai.RateLimitError, 429, "rate_limit_exceeded"),
        ("400", openai.BadRequestError, 400, "invalid_request"),
        ("404", openai.NotFoundError, 404, "not_found"),
        ("401", openai.InternalServerError, 502, "upstream_error"),
        ("500", openai.InternalServerError, 502, "upstream_error"),
        ("529", openai.InternalServerError, 503, "overloaded"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_errors_have_their_classes(
    client: OpenAI, word: str, error: type[openai.APIStatusError], status: int, code: str, streamed: bool
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(model="claude", messages=said(word), stream=streamed)
    assert (caught.value.status_code, caught.value.code) == (status, code)


def test_an_error_before_any_content_is_a_status(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="claude", messages=said("full house"), stream=True)
    assert (caught.value.status_code, caught.value.code) == (503, "overloaded")


def test_what_it_cannot_do_is_the_callers_error(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="claude", messages=said("x"), n=2)
    assert caught.value.param == "n"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="opus", messages=said("x"), tools=[WEATHER], tool_choice="required")
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize(("word", "words"), [("cut now", "broke off"), ("fail now", "more calls than it can take")])
async def test_a_stream_that_breaks_says_so_and_is_charged(
    client: OpenAI, gateway: Gateway, word: str, words: str
) -> None:
    raw = client.chat.completions.with_raw_response.create(model="claude", messages=said(word), stream=True)
    with pytest.raises(openai.APIError, match=words):
        list(raw.parse())
    row = await gateway.row(raw.headers["x-request-id"])
    assert (row["kind"], row["outcome"]) == ("charge", "upstream_error")


async def test_a_client_that_leaves_lets_the_upstream_go(gateway: Gateway, upstream: Served) -> None:
    async with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=chat("wait for it", "claude", stream=True)) as answer,
    ):
        async for line in answer.aiter_lines():
            if "wait" in line:
                break
    await until(lambda: upstream.last.gone.is_set(), 10)
    row = await gateway.row(answer.headers["x-request-id"])
    assert (row["kind"], row["outcome"]) == ("charge", "client_gone")


def test_the_upstream_is_told_nothing_of_the_client(client: OpenAI, upstream: Served, gateway: Gateway) -> None:
    client.chat.completions.create(model="claude", messages=said("Hi"))
    assert gateway.key not in json.dumps(upstream.last.headers)

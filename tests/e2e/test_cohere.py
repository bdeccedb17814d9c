"""The OpenAI SDK through a gateway to a fake of Cohere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.support.dialects.cohere import KEY, cohere
from tests.support.dialects.served import Served, served
from tests.support.gateway import Gateway, chat, running_gateway
from tests.support.until import until

WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Served]:
    with served(cohere) as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(upstream: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {
        "providers": {"cohere": {"dialect": "cohere", "base_url": upstream.url, "api_key": KEY, "max_retries": 0}},
        "models": [
            {"model_id": "command", "provider": "cohere", "price": {"input": 1, "output": 2}},
            {"model_id": "reranker", "provider": "cohere", "price": {"per_search": 0.002}},
        ],
    }
    with running_gateway(tmp_path_factory.mktemp("cohere"), config) as running:
        yield running


@pytest.fixture
def client(gateway: Gateway) -> Iterator[OpenAI]:
    http = httpx.Client(trust_env=False, verify=False, timeout=30)
    with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, http_client=http) as made:
        yield made


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def test_an_answer_and_its_row(client: OpenAI, gateway: Gateway) -> None:
    raw = client.chat.completions.with_raw_response.create(model="command", messages=said("Good day"))
    answer = raw.parse()
    assert answer.choices[0].message.content == "Good day"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (71, 9)
    await until(lambda: bool(gateway.rows("request_id = ?", raw.headers["x-request-id"])), 10)
    (row,) = gateway.rows("request_id = ?", raw.headers["x-request-id"])
    assert (row["kind"], row["provider"], row["prompt_tokens"], row["cached_tokens"]) == ("charge", "cohere", 71, 64)
    assert row["cost_microusd"] == 71 + 2 * 9


def test_a_stream(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="command", messages=said("think of it"), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "thinkofit"
    assert any(getattr(chunk.choices[0].delta, "reasoning_content", None) == "Hm." for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_make_the_round(client: OpenAI, upstream: Served, streamed: bool) -> None:
    asked: Any = {"model": "command", "messages": said("tools please"), "tools": [WEATHER], "tool_choice": "required"}
    if streamed:
        with client.chat.completions.stream(**asked) as stream:
            message = stream.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(**asked).choices[0].message
    assert message.content == "I will look."
    assert [(call.id, call.function.arguments) for call in message.tool_calls] == [
        ("weather_0", '{"city":"Öslo"}'),
        ("weather_1", '{"city":"Öslo"}'),
    ]
    results = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls]
    echoed = message.model_dump()
    final = client.chat.completions.create(model="command", messages=[*said("w"), echoed, *results], tools=[WEATHER])
    assert final.choices[0].message.content == "rain"
    assert upstream.last.json["messages"][1]["tool_plan"] == "I will look."


@pytest.mark.parametrize(
    ("word", "error", "status"),
    [
        ("429", openai.RateLimitError, 429),
        ("400", openai.BadRequestError, 400),
        ("500", openai.InternalServerError, 502),
        ("498", openai.InternalServerError, 502),
        ("fail", openai.InternalServerError, 502),
    ],
)
def test_errors_have_their_classes(client: OpenAI, word: str, error: type[openai.APIStatusError], status: int) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(model="command", messages=said(word))
    assert caught.value.status_code == status


def test_what_it_cannot_do_is_the_callers_error(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="command", messages=said("x"), n=2)
    assert caught.value.param == "n"


@pytest.mark.parametrize("word", ["cut now", "fail now"])
def test_a_stream_that_breaks_says_so(client: OpenAI, word: str) -> None:
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(model="command", messages=said(word), stream=True))


def test_embeddings(client: OpenAI) -> None:
    answer = client.embeddings.create(model="command", input=["a", "abc"])
    assert [item.embedding for item in answer.data] == [[1.0, 0.5, -1.0], [3.0, 0.5, -1.0]]
    assert answer.usage.prompt_tokens == 4


async def test_a_client_that_leaves_lets_the_upstream_go(gateway: Gateway, upstream: Served) -> None:
    async with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=chat("wait for it", "command", stream=True)) as answer,
    ):
        async for line in answer.aiter_lines():
            if "wait" in line:
                break
    await until(lambda: upstream.last.gone.is_set(), 10)
    request_id = answer.headers["x-request-id"]
    await until(lambda: bool(gateway.rows("request_id = ?", request_id)), 10)
    (row,) = gateway.rows("request_id = ?", request_id)
    assert (row["kind"], row["outcome"], row["usage_source"]) == ("charge", "client_gone", "estimated")


async def test_documents_are_ranked_and_come_back_where_they_are_wanted(gateway: Gateway, upstream: Served) -> None:
    documents = ["boats", {"text": "red boats", "title": "x"}, "a"]
    body = {"model": "reranker", "query": "red", "documents": documents, "top_n": 2, "return_documents": True}
    answer = await gateway.ask("/v1/rerank", body)
    assert [(result["index"], result["document"]) for result in answer.json()["results"]] == [
        (1, {"text": "red boats"}),
        (0, {"text": "boats"}),
    ]
    assert upstream.last.json == {
        "model": "reranker",
        "query": "red",
        "documents": ["boats", "red boats", "a"],
        "top_n": 2,
    }
    row = await gateway.row(answer.headers["x-request-id"])
    assert (row["units"], row["unit"], row["cost_microusd"], row["usage_source"]) == (1, "search", 2_000, "upstream")
    wrong = await gateway.ask("/v1/rerank", {**body, "documents": [7]})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "documents")

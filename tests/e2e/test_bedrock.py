"""The OpenAI SDK through a gateway to a fake of Bedrock that checks signatures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.support.dialects.bedrock import KEYS, bedrock
from tests.support.dialects.served import Served, served
from tests.support.gateway import Gateway, chat, running_gateway
from tests.support.until import until

WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
MODEL = "eu.anthropic.claude-sonnet-4-5-v1:0"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Served]:
    with served(bedrock) as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(upstream: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    assert KEYS.session_token is not None
    auth = {
        "kind": "aws",
        "region": KEYS.region,
        "access_key_id": KEYS.access_key_id,
        "secret_access_key": KEYS.secret_access_key.reveal(),
        "session_token": KEYS.session_token.reveal(),
    }
    provider = {"dialect": "bedrock", "base_url": upstream.url, "auth": auth, "max_retries": 0}
    price = {"input": 1, "output": 2}
    models = [
        {"model_id": "claude", "provider": "aws", "upstream_model": MODEL, "price": price},
        {"model_id": "titan", "provider": "aws", "upstream_model": "amazon.titan-embed-text-v2:0"},
    ]
    config = {"providers": {"aws": provider}, "models": models}
    with running_gateway(tmp_path_factory.mktemp("bedrock"), config) as running:
        yield running


@pytest.fixture
def client(gateway: Gateway) -> Iterator[OpenAI]:
    http = httpx.Client(trust_env=False, verify=False, timeout=30)
    with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, http_client=http) as made:
        yield made


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def test_an_answer_and_its_row(client: OpenAI, gateway: Gateway, upstream: Served) -> None:
    raw = client.chat.completions.with_raw_response.create(model="claude", messages=said("Good day"))
    assert raw.parse().choices[0].message.content == "Good day"
    assert upstream.last.path == "/model/eu.anthropic.claude-sonnet-4-5-v1%3A0/converse"
    await until(lambda: bool(gateway.rows("request_id = ?", raw.headers["x-request-id"])))
    (row,) = gateway.rows("request_id = ?", raw.headers["x-request-id"])
    assert (row["kind"], row["provider"], row["prompt_tokens"], row["cached_tokens"]) == ("charge", "aws", 71, 60)
    assert row["cost_microusd"] == 71 + 2 * 9


def test_a_stream_with_signed_thoughts(client: OpenAI, upstream: Served) -> None:
    chunks = list(client.chat.completions.create(model="claude", messages=said("think of it"), stream=True))
    deltas: list[Any] = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == "think of it "
    blocks = [block for delta in deltas for block in getattr(delta, "thinking_blocks", None) or ()]
    assert blocks == [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}]
    echoed: Any = {"role": "assistant", "content": "it", "thinking_blocks": blocks}
    client.chat.completions.create(model="claude", messages=[*said("a"), echoed, *said("b")])
    thought = upstream.last.json["messages"][1]["content"][0]["reasoningContent"]["reasoningText"]
    assert thought == {"text": "Hm.", "signature": "c2ln"}


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_make_the_round(client: OpenAI, upstream: Served, streamed: bool) -> None:
    asked: Any = {"model": "claude", "messages": said("tools please"), "tools": [WEATHER], "tool_choice": "required"}
    if streamed:
        with client.chat.completions.stream(**asked) as stream:
            message = stream.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(**asked).choices[0].message
    assert [(call.id, call.function.arguments) for call in message.tool_calls] == [
        ("tooluse_0", '{"city":"Öslo"}'),
        ("tooluse_1", '{"city":"Öslo"}'),
    ]
    results = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls]
    echoed = message.model_dump()
    client.chat.completions.create(
        model="claude", messages=[*said("w"), echoed, *results, *said("thanks")], tools=[WEATHER]
    )
    last = upstream.last.json["messages"][-1]["content"]
    assert ["toolResult" in block for block in last] == [True, True, False]


@pytest.mark.parametrize(
    ("word", "error", "status"),
    [
        ("429", openai.RateLimitError, 429),
        ("400", openai.BadRequestError, 400),
        ("500", openai.InternalServerError, 502),
    ],
)
def test_errors_have_their_classes(client: OpenAI, word: str, error: type[openai.APIStatusError], status: int) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(model="claude", messages=said(word))
    assert caught.value.status_code == status


@pytest.mark.parametrize("word", ["cut now", "trip now"])
def test_a_stream_that_breaks_says_so(client: OpenAI, word: str) -> None:
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(model="claude", messages=said(word), stream=True))


def test_embeddings(client: OpenAI) -> None:
    answer = client.embeddings.create(model="titan", input="abc")
    assert (answer.data[0].embedding, answer.usage.prompt_tokens) == ([1.0, 0.5], 3)


async def test_a_client_that_leaves_lets_the_upstream_go(gateway: Gateway, upstream: Served) -> None:
    async with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=chat("wait for it", "claude", stream=True)) as answer,
    ):
        async for line in answer.aiter_lines():
            if "wait" in line:
                break
    await until(lambda: upstream.last.gone.is_set())
    request_id = answer.headers["x-request-id"]
    await until(lambda: bool(gateway.rows("request_id = ?", request_id)))
    (row,) = gateway.rows("request_id = ?", request_id)
    assert (row["kind"], row["outcome"], row["usage_source"]) == ("charge", "client_gone", "estimated")


def test_keys_of_another_account_are_the_gateways_fault(
    upstream: Served, tmp_path_factory: pytest.TempPathFactory
) -> None:
    auth = {"kind": "aws", "region": "eu-west-1", "access_key_id": "AKIDEXAMPLE", "secret_access_key": "wrong"}
    provider = {"dialect": "bedrock", "base_url": upstream.url, "auth": auth, "max_retries": 0}
    config = {"providers": {"aws": provider}, "models": [{"model_id": "m", "provider": "aws"}]}
    with running_gateway(tmp_path_factory.mktemp("wrong"), config) as gateway:
        http = httpx.Client(trust_env=False, verify=False)
        with (
            OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, http_client=http) as client,
            pytest.raises(openai.InternalServerError, match="refused the gateway's own credential"),
        ):
            client.chat.completions.create(model="m", messages=said("x"))

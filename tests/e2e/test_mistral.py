"""The OpenAI SDK through a gateway to a fake of Mistral."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.support.dialects.mistral import KEY, mistral
from tests.support.dialects.served import Served, served
from tests.support.gateway import Gateway, chat, running_gateway
from tests.support.until import until

WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Served]:
    with served(mistral) as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(upstream: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    provider = {"vendor": "mistral", "base_url": f"{upstream.url}/v1", "api_key": KEY, "max_retries": 0}
    config = {
        "providers": {"mistral": provider},
        "models": [{"model_id": "small", "provider": "mistral", "price": {"input": 1, "output": 2}}],
    }
    with running_gateway(tmp_path_factory.mktemp("mistral"), config) as running:
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
        model="small", messages=said("Good day"), max_completion_tokens=9, seed=7
    )
    answer = raw.parse()
    assert answer.choices[0].message.content == "Good day"
    assert (upstream.last.json["max_tokens"], upstream.last.json["random_seed"]) == (9, 7)
    row = await gateway.row(raw.headers["x-request-id"])
    assert (row["kind"], row["prompt_tokens"], row["completion_tokens"], row["cost_microusd"]) == ("charge", 11, 4, 19)


def test_thoughts_are_apart_from_the_answer_streamed_and_not(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="small", messages=said("think of it"), stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "thinkofit"
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "Hm."
    message: Any = client.chat.completions.create(model="small", messages=said("think of it")).choices[0].message
    assert (message.content, message.reasoning_content) == ("think of it", "Hm.")


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_make_the_round(client: OpenAI, streamed: bool) -> None:
    asked: Any = {"model": "small", "messages": said("tools please"), "tools": [WEATHER], "tool_choice": "required"}
    if streamed:
        with client.chat.completions.stream(**asked) as stream:
            message = stream.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(**asked).choices[0].message
    assert [call.function.arguments for call in message.tool_calls] == ['{"city":"Öslo"}'] * 2
    results = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls]
    history = [*said("w"), message.model_dump(), *results]
    final = client.chat.completions.create(model="small", messages=history, tools=[WEATHER])
    assert final.choices[0].message.content == "rain"


@pytest.mark.parametrize(
    ("word", "error", "status"),
    [
        ("429", openai.RateLimitError, 429),
        ("400", openai.BadRequestError, 400),
        ("500", openai.InternalServerError, 502),
        ("fail", openai.InternalServerError, 502),
    ],
)
def test_errors_have_their_classes(client: OpenAI, word: str, error: type[openai.APIStatusError], status: int) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(model="small", messages=said(word))
    assert caught.value.status_code == status


@pytest.mark.parametrize("word", ["cut now", "fail now"])
def test_a_stream_that_breaks_says_so(client: OpenAI, word: str) -> None:
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(model="small", messages=said(word), stream=True))


async def test_a_client_that_leaves_lets_the_upstream_go(gateway: Gateway, upstream: Served) -> None:
    async with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=chat("wait for it", "small", stream=True)) as answer,
    ):
        async for line in answer.aiter_lines():
            if "wait" in line:
                break
    await until(lambda: upstream.last.gone.is_set(), 10)
    row = await gateway.row(answer.headers["x-request-id"])
    assert (row["kind"], row["outcome"], row["usage_source"]) == ("charge", "client_gone", "estimated")

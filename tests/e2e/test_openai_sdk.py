"""The official OpenAI SDK against the embedded default: nothing but a base URL and a key is set."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.support.gateway import Gateway

HELLO: Any = [{"role": "user", "content": "Hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


@pytest.fixture
def requests() -> list[httpx.Request]:
    """Every request that the client under test has sent."""
    return []


@pytest.fixture
def client(demo: Gateway, requests: list[httpx.Request]) -> Iterator[OpenAI]:
    hooks = {"request": [requests.append]}
    http = httpx.Client(event_hooks=hooks, trust_env=False, verify=False, timeout=30)
    with OpenAI(base_url=f"{demo.url}/v1", api_key=demo.key, max_retries=0, http_client=http) as made:
        yield made


@pytest.fixture
async def async_client(demo: Gateway) -> AsyncIterator[AsyncOpenAI]:
    http = httpx.AsyncClient(trust_env=False, verify=False, timeout=30)
    async with AsyncOpenAI(base_url=f"{demo.url}/v1", api_key=demo.key, max_retries=0, http_client=http) as made:
        yield made


def test_a_chat_completion_carries_text_usage_and_our_request_id(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=HELLO)
    assert 'You said: "Hello"' in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id is not None
    assert len(answer._request_id) == 36


async def test_the_async_client_gets_the_same_answer(client: OpenAI, async_client: AsyncOpenAI) -> None:
    one = client.chat.completions.create(model="demo", messages=HELLO)
    other = await async_client.chat.completions.create(model="demo", messages=HELLO)
    assert one.choices[0].message.content == other.choices[0].message.content


def test_a_stream_never_shows_a_chunk_without_choices_to_who_did_not_ask_for_usage(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="demo", messages=HELLO).choices[0].message.content
    chunks = list(client.chat.completions.create(model="demo", messages=HELLO, stream=True))
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_a_stream_ends_with_the_usage_that_was_asked_for(async_client: AsyncOpenAI) -> None:
    stream = await async_client.chat.completions.create(
        model="demo", messages=said("/long 12"), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert [bool(chunk.choices) for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


def test_the_streaming_helper_assembles_the_answer(client: OpenAI) -> None:
    with client.chat.completions.stream(model="demo", messages=said("/long 5")) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "stop"
    assert final.choices[0].message.content


def test_a_cap_on_the_output_is_kept(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=said("/long 50"), max_completion_tokens=7, n=2)
    assert [choice.finish_reason for choice in answer.choices] == ["length", "length"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 14


def test_a_tool_is_called_and_its_arguments_follow_its_schema(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=said("/tool"), tools=[WEATHER])
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"
    assert isinstance(json.loads(call.function.arguments)["city"], str)


def test_a_tool_call_can_be_streamed(client: OpenAI) -> None:
    stream = client.chat.completions.create(model="demo", messages=said("/tool"), tools=[WEATHER], stream=True)
    deltas = [delta for chunk in stream for delta in chunk.choices[0].delta.tool_calls or []]
    arguments = "".join(delta.function.arguments or "" for delta in deltas if delta.function)
    assert isinstance(json.loads(arguments)["city"], str)


def test_embeddings_are_the_same_in_base64_which_is_the_sdks_default_and_as_floats(client: OpenAI) -> None:
    packed = client.embeddings.create(model="demo", input=["one", "two"])
    plain = client.embeddings.create(model="demo", input=["one", "two"], encoding_format="float")
    assert len(packed.data) == 2
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding)
        assert math.isclose(math.fsum(number * number for number in one.embedding), 1.0, rel_tol=1e-5)


def test_older_text_completions_work_whole_and_streamed(client: OpenAI) -> None:
    whole = client.completions.create(model="demo", prompt="/long 8")
    parts = list(client.completions.create(model="demo", prompt="/long 8", stream=True))
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text


def test_models_can_be_listed_and_retrieved(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "aidock"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nothing/like/it")
    assert caught.value.code == "model_not_found"


def test_an_unknown_key_is_an_authentication_error(client: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        client.with_options(api_key="sk-aidock-nothing").chat.completions.create(model="demo", messages=HELLO)
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id


def test_an_unknown_model_is_not_found_and_the_message_suggests_the_one_meant(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="Did you mean 'demo'") as caught:
        client.chat.completions.create(model="demmo", messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_request_that_makes_no_sense_is_a_bad_request(client: OpenAI, requests: list[httpx.Request]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.with_options(max_retries=2).chat.completions.create(model="demo", messages=[])
    assert (caught.value.param, caught.value.type) == ("messages", "invalid_request_error")
    assert len(requests) == 1, "a bad request must not be repeated"


def test_a_refusal_for_now_is_repeated_as_often_as_the_client_likes(
    client: OpenAI, requests: list[httpx.Request]
) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        client.with_options(max_retries=1).chat.completions.create(model="demo", messages=said("/error 429"))
    assert caught.value.response.headers["retry-after"] == "1"
    assert len(requests) == 2


def test_a_broken_upstream_is_an_internal_server_error(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="demo", messages=said("/error 500"))
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_error")


def test_a_slow_model_meets_the_clients_own_timeout(client: OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).chat.completions.create(model="demo", messages=said("/slow 5"))


def test_a_stream_that_breaks_raises_instead_of_ending(client: OpenAI) -> None:
    stream = client.chat.completions.create(model="demo", messages=said("/cut 3"), stream=True)
    seen: list[str | None] = []
    with pytest.raises(openai.APIError, match="broke off") as caught:
        seen.extend(chunk.choices[0].delta.content for chunk in stream)
    assert any(seen)
    assert caught.value.code == "upstream_error"


def test_raw_responses_say_which_model_and_provider_answered(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="demo", messages=HELLO)
    assert raw.headers["x-aidock-model"] == "demo"
    assert raw.headers["x-aidock-provider"] == "demo"
    assert raw.headers["x-aidock-attempts"] == "1"
    assert raw.headers["x-request-id"] == raw.parse()._request_id

"""`previous_response_id` with the official SDK, where the operator lets responses be kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.support.calls import a_limit
from tests.support.dialects.chat_only import WORDS, chat_upstream
from tests.support.dialects.openai_responses import responses_upstream
from tests.support.dialects.upstream import Upstream
from tests.support.gateway import Gateway, running_gateway
from tests.support.redis_server import redis_server

TEXT = "".join(WORDS)
WEATHER: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
Connect = Callable[[str | None], AsyncOpenAI]


@dataclass
class Scene:
    gateway: Gateway
    chat: Upstream
    native: Upstream


@pytest.fixture(scope="module", params=["memory", "redis"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with ExitStack() as stack:
        chat, native = stack.enter_context(chat_upstream()), stack.enter_context(responses_upstream())
        storage = {"counters": stack.enter_context(redis_server()).url} if request.param == "redis" else {}
        key = {"api_key": "sk-upstream-0123456789", "max_retries": 0}
        config = {
            "server": {"responses_store_seconds": 600},
            "storage": storage,
            "providers": {
                "chat": {"base_url": chat.url, **key},
                "native": {"base_url": native.url, **key, "quirks": {"operations": ["responses"]}},
            },
            "models": [{"model_id": "chat", "provider": "chat"}, {"model_id": "native", "provider": "native"}],
        }
        gateway = stack.enter_context(running_gateway(tmp_path_factory.mktemp("kept"), config))
        yield Scene(gateway, chat, native)


@pytest.fixture
async def connect(scene: Scene) -> AsyncIterator[Connect]:
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=30) as http:

        def made(key: str | None) -> AsyncOpenAI:
            at = f"{scene.gateway.url}/v1"
            return AsyncOpenAI(base_url=at, api_key=key or scene.gateway.key, max_retries=0, http_client=http)

        yield made


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_goes_on_by_the_id_of_its_last_response(
    scene: Scene, connect: Connect, stream: bool
) -> None:
    client = connect(None)
    if stream:
        async with client.responses.stream(model="chat", input="hello", instructions="Be brief.") as events:
            first = await events.get_final_response()
    else:
        first = await client.responses.create(model="chat", input="hello", instructions="Be brief.")
    second = await client.responses.create(model="chat", input="hello again", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    third = await client.responses.create(model="chat", input="hello at last", previous_response_id=second.id)
    assert third.output_text == TEXT
    said = [(message["role"], message["content"]) for message in scene.chat.last["messages"]]
    assert said == [
        ("user", "hello"),
        ("assistant", TEXT),
        ("user", "hello again"),
        ("assistant", TEXT),
        ("user", "hello at last"),
    ]


async def test_a_tools_result_needs_no_more_than_the_id(scene: Scene, connect: Connect) -> None:
    client = connect(None)
    first = await client.responses.create(model="chat", input="tool please", tools=[WEATHER])
    (call,) = first.output
    assert call.type == "function_call"
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    items: Any = [result, {"role": "user", "content": "hello"}]
    second = await client.responses.create(model="chat", input=items, tools=[WEATHER], previous_response_id=first.id)
    assert second.output_text == TEXT
    assert [message["role"] for message in scene.chat.last["messages"]] == ["user", "assistant", "tool", "user"]


async def test_a_response_that_was_not_to_be_kept_is_not(connect: Connect) -> None:
    client = connect(None)
    first = await client.responses.create(model="chat", input="hello", store=False)
    with pytest.raises(openai.BadRequestError, match="responses_store_seconds") as refused:
        await client.responses.create(model="chat", input="hello", previous_response_id=first.id)
    assert refused.value.code == "previous_response_not_found"


async def test_another_user_cannot_go_on_with_it(scene: Scene, connect: Connect) -> None:
    first = await connect(None).responses.create(model="chat", input="hello")
    stranger = connect(await scene.gateway.issue("eve@example.com"))
    with pytest.raises(openai.BadRequestError, match="not kept"):
        await stranger.responses.create(model="chat", input="hello", previous_response_id=first.id)


async def test_a_kept_response_is_retrieved_and_deleted_by_its_user(scene: Scene, connect: Connect) -> None:
    client = connect(None)
    first = await client.responses.create(model="chat", input="hello")
    again = await client.responses.retrieve(first.id)
    assert again.model_dump() == first.model_dump()
    stranger = connect(await scene.gateway.issue("mallory@example.com"))
    for ask in (stranger.responses.retrieve, stranger.responses.delete):
        with pytest.raises(openai.NotFoundError):
            await ask(first.id)
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match="responses_store_seconds"):
        await client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError, match="not kept"):
        await client.responses.create(model="chat", input="hello", previous_response_id=first.id)


async def test_the_upstreams_own_responses_are_the_upstreams_to_keep(scene: Scene, connect: Connect) -> None:
    client = connect(None)
    first = await client.responses.create(model="native", input="hello")
    await client.responses.create(model="native", input="hello", previous_response_id=first.id)
    assert scene.native.last == {"model": "native", "input": "hello", "previous_response_id": first.id}


async def test_what_the_call_holds_bounds_the_whole_conversation(scene: Scene, connect: Connect) -> None:
    key = await scene.gateway.issue("ada@example.com")
    await scene.gateway.limit(key, a_limit("tokens", 1_000_000, "month", scope="user", subject="ada@example.com"))
    client = connect(key)
    long = "hello " + "x" * 5_000
    first = await client.responses.create(model="chat", input=long, max_output_tokens=100)
    second = await client.responses.create(
        model="chat", input="hello", max_output_tokens=100, previous_response_id=first.id
    )
    assert second._request_id is not None
    row = await scene.gateway.row(second._request_id)
    assert 5_000 < row["reserved_tokens"] < 6_500
    await scene.gateway.limit(key, a_limit("tokens", 3_000, "day", scope="user", subject="ada@example.com"))
    await client.responses.create(model="chat", input="hello", max_output_tokens=100)
    with pytest.raises(openai.RateLimitError):
        await client.responses.create(
            model="chat", input="hello", max_output_tokens=100, previous_response_id=second.id
        )


async def test_nothing_of_this_was_a_defect(scene: Scene) -> None:
    await scene.gateway.quiet()
    assert scene.gateway.errors() == []
    assert await scene.gateway.reconcile()

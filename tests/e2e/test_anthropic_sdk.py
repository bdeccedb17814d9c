"""The official Anthropic SDK through a gateway: nothing but a base URL and a key is set.

It meets a fake of Anthropic, one that speaks OpenAI (`plain`), and the built-in model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import anthropic as sdk
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.support.dialects.anthropic import KEY, SIGNATURE, anthropic
from tests.support.dialects.served import Asked, Served, Step, served
from tests.support.gateway import Gateway, running_gateway
from tests.support.openai_chat import openai_chat
from tests.support.until import until

NATIVE, PLAIN, DEMO = "claude-sonnet-4-6", "plain", "demo"
EVERYWHERE = pytest.mark.parametrize("model", [NATIVE, PLAIN, DEMO])
UPSTREAMS = pytest.mark.parametrize("model", [NATIVE, PLAIN])
WEATHER: Any = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def by_path(asked: Asked) -> Iterable[Step]:
    return openai_chat(asked) if asked.path.startswith("/openai/") else anthropic(asked)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Served]:
    with served(by_path) as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(upstream: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    price = {"input": 1, "output": 2}
    config = {
        "providers": {
            "claude": {"dialect": "anthropic", "base_url": upstream.url, "api_key": KEY, "max_retries": 0},
            "demo": {"dialect": "demo"},
            "other": {
                "base_url": f"{upstream.url}/openai/v1",
                "api_key": KEY,
                "max_retries": 0,
                "quirks": {"understands": ["reasoning_effort"]},
            },
        },
        "models": [
            {"model_id": NATIVE, "provider": "claude", "price": price},
            {"model_id": PLAIN, "provider": "other", "price": price},
            {"model_id": "small", "provider": "other", "supported_roles": ["user", "assistant"]},
            {"model_id": DEMO, "provider": "demo"},
        ],
    }
    with running_gateway(tmp_path_factory.mktemp("anthropic-sdk"), config) as running:
        yield running


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Anthropic]:
    with Anthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0, http_client=a_transport()) as made:
        yield made


def a_transport(requests: list[Any] | None = None) -> httpx2.Client:
    hooks = {"request": [requests.append]} if requests is not None else {}
    return httpx2.Client(trust_env=False, verify=False, timeout=30, event_hooks=hooks)


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


@EVERYWHERE
def test_a_message_carries_text_usage_and_our_request_id(client: Anthropic, model: str) -> None:
    message = client.messages.create(model=model, max_tokens=100, messages=said("Hello"), system="Be brief.")
    assert "Hello" in text_of(message)
    assert (message.role, message.type, message.stop_reason) == ("assistant", "message", "end_turn")
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 0
    assert message._request_id is not None
    assert len(message._request_id) == 36


@EVERYWHERE
def test_the_streaming_helper_assembles_the_same_message(client: Anthropic, model: str) -> None:
    whole = client.messages.create(model=model, max_tokens=100, messages=said("Hello there"))
    with client.messages.stream(model=model, max_tokens=100, messages=said("Hello there")) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == text_of(whole) == text_of(final)
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert final.usage.input_tokens == whole.usage.input_tokens


@EVERYWHERE
def test_raw_events_come_in_the_order_that_clients_rely_on(client: Anthropic, model: str) -> None:
    kinds = [e.type for e in client.messages.create(model=model, max_tokens=99, messages=said("Hello"), stream=True)]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds[1] == "content_block_start"
    assert kinds[-3] == "content_block_stop"
    assert set(kinds[2:-3]) == {"content_block_delta"}


@UPSTREAMS
@pytest.mark.parametrize("streamed", [False, True])
def test_tools_make_the_round(client: Anthropic, upstream: Served, model: str, streamed: bool) -> None:
    asked: Any = {"model": model, "max_tokens": 100, "messages": said("tools please"), "tools": [WEATHER]}
    asked["tool_choice"] = {"type": "any"}
    if streamed:
        with client.messages.stream(**asked) as stream:
            message: Any = stream.get_final_message()
    else:
        message = client.messages.create(**asked)
    calls = [block for block in message.content if block.type == "tool_use"]
    assert message.stop_reason == "tool_use"
    assert [(call.name, call.input) for call in calls] == [("weather", {"city": "Öslo"}), ("weather", {})]
    assert len({call.id for call in calls}) == 2
    results: Any = [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"} for call in calls]
    results[1]["is_error"] = True
    history = [*said("w"), {"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
    final = client.messages.create(model=model, max_tokens=100, messages=history, tools=[WEATHER])
    assert "rain" in text_of(final)
    if model == PLAIN:
        told = upstream.last.json["messages"]
        assert [turn["role"] for turn in told] == ["user", "assistant", "tool", "tool"]
        assert [turn["content"] for turn in told[2:]] == ["rain", "Error:\nrain"]


def test_a_tool_of_the_demo_model_is_called_with_arguments_that_fit(client: Anthropic) -> None:
    with client.messages.stream(model=DEMO, max_tokens=99, messages=said("/tool"), tools=[WEATHER]) as stream:
        (call,) = [block for block in stream.get_final_message().content if block.type == "tool_use"]
    assert isinstance(call.input, dict)
    assert isinstance(call.input["city"], str)


@UPSTREAMS
@pytest.mark.parametrize("streamed", [False, True])
def test_thoughts_are_shown_and_can_be_sent_back(
    client: Anthropic, upstream: Served, model: str, streamed: bool
) -> None:
    asked: Any = {"model": model, "max_tokens": 5000, "messages": said("think hard")}
    asked["thinking"] = {"type": "enabled", "budget_tokens": 2000}
    if streamed:
        with client.messages.stream(**asked) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**asked)
    thought = message.content[0]
    assert thought.type == "thinking"
    assert (thought.thinking, thought.signature) == ("Hm, so.", SIGNATURE if model == NATIVE else "")
    if model == PLAIN:
        assert upstream.last.json["reasoning_effort"] == "low"
    history: Any = [*said("x"), {"role": "assistant", "content": message.content}, *said("again")]
    assert "again" in text_of(client.messages.create(model=model, max_tokens=99, messages=history))


def test_the_own_dialects_bytes_reach_the_upstream_unchanged(client: Anthropic, upstream: Served) -> None:
    client.beta.messages.create(
        model=NATIVE,
        max_tokens=100,
        betas=["one-2026-01-01", "two-2026-01-01"],
        system=[{"type": "text", "text": "Be.", "cache_control": {"type": "ephemeral"}}],
        messages=said("Hello"),
        extra_body={"service_tier": "auto", "top_k": 5},
    )
    assert upstream.last.headers["anthropic-beta"] == "one-2026-01-01,two-2026-01-01"
    assert upstream.last.headers["anthropic-version"] == "2026-10-21"
    assert upstream.last.json["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert (upstream.last.json["top_k"], upstream.last.json["service_tier"]) == (5, "auto")


def test_another_dialect_is_told_everything_it_has_a_like_of(client: Anthropic, upstream: Served) -> None:
    mark: Any = {"type": "ephemeral"}
    client.messages.create(
        model=PLAIN,
        max_tokens=100,
        system=[{"type": "text", "text": "One.", "cache_control": mark}, {"type": "text", "text": "Two."}],
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "See", "cache_control": mark},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "cGl4ZWw="}},
                    {"type": "text", "text": "this"},
                ],
            }
        ],
        stop_sequences=["END"],
        metadata={"user_id": "ada"},
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        extra_body={"temperature": 0.5, "top_k": 3},
    )
    assert upstream.last.json == {
        "model": PLAIN,
        "max_tokens": 100,
        "messages": [
            {"role": "system", "content": "One.\n\nTwo."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "See"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,cGl4ZWw="}},
                    {"type": "text", "text": "this"},
                ],
            },
        ],
        "stop": ["END"],
        "user": "ada",
        "temperature": 0.5,
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "weather",
                    "description": "Tells the weather.",
                    "parameters": WEATHER["input_schema"],
                },
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}},
    }


def test_a_model_that_knows_no_system_is_told_by_the_user(client: Anthropic, upstream: Served) -> None:
    client.messages.create(model="small", max_tokens=9, system="Be brief.", messages=said("Hello"))
    assert upstream.last.json["messages"] == [{"role": "user", "content": "Be brief.\n\nHello"}]


async def test_tokens_are_counted_by_who_can_and_cost_nothing(client: Anthropic, gateway: Gateway) -> None:
    raw = client.messages.with_raw_response.count_tokens(model=NATIVE, messages=said("Hello"), system="Be brief.")
    assert raw.parse().input_tokens == 42
    assert "x-aidock-estimated" not in raw.headers
    row = await gateway.row(raw.headers["x-request-id"])
    assert (row["endpoint"], row["prompt_tokens"], row["completion_tokens"]) == ("messages.count_tokens", 0, 0)
    assert row["cost_microusd"] == 0
    estimated = client.messages.with_raw_response.count_tokens(model=PLAIN, messages=said("Hello " * 100))
    assert 100 <= estimated.parse().input_tokens <= 200
    assert estimated.headers["x-aidock-estimated"] == "true"
    assert gateway.rows("request_id = ?", estimated.headers["x-request-id"]) == []


@pytest.mark.parametrize(
    ("word", "error", "status", "kind"),
    [
        ("400", sdk.BadRequestError, 400, "invalid_request_error"),
        ("404", sdk.NotFoundError, 404, "not_found_error"),
        ("429", sdk.RateLimitError, 429, "rate_limit_error"),
        ("401", sdk.InternalServerError, 502, "api_error"),
        ("500", sdk.InternalServerError, 502, "api_error"),
    ],
)
@UPSTREAMS
@pytest.mark.parametrize("streamed", [False, True])
def test_errors_have_their_classes(
    client: Anthropic, model: str, word: str, error: type[sdk.APIStatusError], status: int, kind: str, streamed: bool
) -> None:
    with pytest.raises(error) as caught:
        client.messages.create(model=model, max_tokens=9, messages=said(word), stream=streamed)
    assert caught.value.status_code == status
    assert caught.value.request_id
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == kind
    assert caught.value.body["request_id"] == caught.value.request_id


def test_an_overloaded_provider_is_called_so(client: Anthropic) -> None:
    with pytest.raises(sdk.InternalServerError) as caught:
        client.messages.create(model=NATIVE, max_tokens=9, messages=said("full house"), stream=True)
    assert caught.value.status_code == 503
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "overloaded_error"


def test_our_own_refusals_have_their_classes(client: Anthropic) -> None:
    asked: Any = {"max_tokens": 9, "messages": said("Hello")}
    with pytest.raises(sdk.AuthenticationError):
        client.with_options(api_key="sk-aidock-nothing").messages.create(model=DEMO, **asked)
    with pytest.raises(sdk.NotFoundError, match="Did you mean 'demo'"):
        client.messages.create(model="demmo", **asked)
    with pytest.raises(sdk.BadRequestError, match="'max_tokens' is missing"):
        client.post("/v1/messages", body={"model": DEMO, "messages": said("x")}, cast_to=object)
    with pytest.raises(sdk.BadRequestError, match="web_search_20250305"):
        client.messages.create(model=PLAIN, tools=[{"type": "web_search_20250305", "name": "web_search"}], **asked)
    with pytest.raises(sdk.BadRequestError, match="at least one message"):
        client.messages.create(model=DEMO, max_tokens=9, messages=[])


async def test_a_quota_that_is_used_up_is_not_asked_again(gateway: Gateway) -> None:
    from tests.support.calls import a_limit

    key = await gateway.issue("spent@example.com")
    await gateway.limit(key, a_limit("requests", 1, "day", scope="user", subject="spent@example.com"))
    requests: list[Any] = []
    with Anthropic(base_url=gateway.url, api_key=key, max_retries=2, http_client=a_transport(requests)) as client:
        client.messages.create(model=DEMO, max_tokens=9, messages=said("Hello"))
        with pytest.raises(sdk.RateLimitError):
            client.messages.create(model=DEMO, max_tokens=9, messages=said("Hello"))
    assert len(requests) == 2


def test_a_refusal_for_now_is_repeated_as_often_as_the_client_likes(gateway: Gateway) -> None:
    requests: list[Any] = []
    with Anthropic(
        base_url=gateway.url, api_key=gateway.key, max_retries=1, http_client=a_transport(requests)
    ) as client:
        with pytest.raises(sdk.RateLimitError):
            client.messages.create(model=NATIVE, max_tokens=9, messages=said("429"))
        assert len(requests) == 2
        with pytest.raises(sdk.BadRequestError):
            client.messages.create(model=NATIVE, max_tokens=9, messages=said("400"))
        assert len(requests) == 3


@UPSTREAMS
@pytest.mark.parametrize("word", ["cut now please", "fail now please"])
async def test_a_stream_that_breaks_raises_instead_of_ending(
    client: Anthropic, gateway: Gateway, model: str, word: str
) -> None:
    raw = client.messages.with_raw_response.create(model=model, max_tokens=99, messages=said(word), stream=True)
    seen: list[Any] = []
    with pytest.raises(sdk.APIStatusError):
        seen.extend(raw.parse())
    assert any(event.type == "content_block_delta" for event in seen)
    assert all(event.type != "message_stop" for event in seen)
    row = await gateway.row(raw.headers["x-request-id"])
    assert (row["kind"], row["outcome"], row["status"]) == ("charge", "upstream_error", 200)


@UPSTREAMS
async def test_a_client_that_leaves_lets_the_upstream_go(gateway: Gateway, upstream: Served, model: str) -> None:
    transport = httpx2.AsyncClient(trust_env=False, verify=False)
    async with AsyncAnthropic(base_url=gateway.url, api_key=gateway.key, http_client=transport) as client:
        raw = await client.messages.with_raw_response.create(
            model=model, max_tokens=99, messages=said("wait for it"), stream=True
        )
        stream = await raw.parse()
        async for event in stream:
            if event.type == "content_block_delta":
                break
        await stream.close()
    await until(lambda: upstream.last.gone.is_set(), 10)
    row = await gateway.row(raw.headers["x-request-id"])
    assert (row["kind"], row["outcome"], row["usage_source"]) == ("charge", "client_gone", "estimated")
    assert row["completion_tokens"] > 0
    assert (row["prompt_tokens"] == 71) == (model == NATIVE), "Anthropic tells the prompt's length first"


async def test_the_ledger_has_what_the_client_was_told(client: Anthropic, gateway: Gateway) -> None:
    for model in (NATIVE, PLAIN):
        raw = client.messages.with_raw_response.create(
            model=model, max_tokens=99, messages=said("one two"), stream=True
        )
        (last,) = [event for event in raw.parse() if event.type == "message_delta"]
        usage: Any = last.usage
        row = await gateway.row(raw.headers["x-request-id"])
        told = usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
        assert (row["prompt_tokens"], row["completion_tokens"]) == (told, usage.output_tokens)
        assert (row["kind"], row["usage_source"], row["endpoint"]) == ("charge", "upstream", "messages")
        assert json.dumps(row["cost_microusd"]) == str(told + 2 * usage.output_tokens)

"""Anthropic's SDK in Node, unmodified, through a gateway to the demo model and to every fake there is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.endpoints.messages import ENDPOINT as MESSAGES
from tests.clients.installed import Program, node_with_packages, running_program
from tests.support.gateway import Gateway
from tests.wire.upstreams import UPSTREAMS, gateway_before_all

CHATTING = [name for name, it in UPSTREAMS.items() if it.can(MESSAGES, "tools")]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway_before_all(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture(scope="module")
def anthropic(gateway: Gateway) -> Iterator[Program]:
    with running_program(node_with_packages(), "anthropic.mjs", gateway, gateway.url) as program:
        yield program


async def test_an_answer_and_its_row(anthropic: Program, gateway: Gateway) -> None:
    told = await anthropic("answer")
    assert 'You said: "Hello"' in told["text"]
    assert told["stop"] == "end_turn"
    row = await gateway.row(told["request"])
    usage = told["usage"]
    assert (row["prompt_tokens"], row["completion_tokens"]) == (usage["input_tokens"], usage["output_tokens"])


@pytest.mark.parametrize("upstream", CHATTING)
async def test_a_stream_says_what_the_whole_answer_says(anthropic: Program, upstream: str) -> None:
    asked = {"model": upstream, "words": UPSTREAMS[upstream].words["hello"]}
    whole, streamed = await anthropic("answer", **asked), await anthropic("stream", **asked)
    assert whole["text"]
    assert "".join(streamed["text"].split()) == "".join(whole["text"].split())
    assert streamed["stop"] == whole["stop"] == "end_turn"
    assert streamed["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    assert (streamed["types"][0], streamed["types"][-1]) == ("message_start", "message_stop")


@pytest.mark.parametrize("upstream", CHATTING)
async def test_tools_are_called(anthropic: Program, upstream: str) -> None:
    told = await anthropic("tool_stream", model=upstream, words=UPSTREAMS[upstream].words["tools"])
    assert told["stop"] == "tool_use"
    assert {call["name"] for call in told["calls"]} == {"weather"}
    assert any(call["input"] for call in told["calls"])


async def test_a_tool_is_called_and_its_result_read(anthropic: Program) -> None:
    told = await anthropic("tool_loop", words="/tool")
    assert told["called"]["calls"] == [{"name": "weather", "input": {"city": "demo"}}]
    assert 'You said: "rain in demo"' in told["final"]["text"]


@pytest.mark.parametrize("upstream", ["demo", "anthropic"])
async def test_tokens_are_counted(anthropic: Program, upstream: str) -> None:
    assert (await anthropic("count", model=upstream, words="Good day"))["input_tokens"] > 0


@pytest.mark.parametrize(
    ("asked", "name", "status", "type"),
    [
        ({"key": "sk-aidock-nothing"}, "AuthenticationError", 401, "authentication_error"),
        ({"model": "nothing"}, "NotFoundError", 404, "not_found_error"),
        ({"messages": []}, "BadRequestError", 400, "invalid_request_error"),
        ({"words": "/error 429"}, "RateLimitError", 429, "rate_limit_error"),
        ({"words": "/error 500"}, "InternalServerError", 502, "api_error"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_errors_have_their_classes(
    anthropic: Program, asked: dict[str, Any], name: str, status: int, type: str
) -> None:
    told = await anthropic("failure", **asked)
    assert (told["class"], told["status"], told["type"]) == (name, status, type)
    assert len(told["request"]) == 36


async def test_what_is_refused_for_now_is_repeated_and_what_is_wrong_is_not(anthropic: Program) -> None:
    told = await anthropic("failure", words="/error 500", retries=1)
    assert (told["class"], told["requests"]) == ("InternalServerError", 2)
    told = await anthropic("failure", messages=[], retries=2)
    assert (told["class"], told["requests"]) == ("BadRequestError", 1)


async def test_a_slow_model_meets_the_clients_own_timeout(anthropic: Program) -> None:
    assert (await anthropic("failure", words="/slow 5", timeout=300))["class"] == "APIConnectionTimeoutError"


@pytest.mark.parametrize("upstream", CHATTING)
async def test_a_stream_that_breaks_raises_instead_of_ending(anthropic: Program, upstream: str) -> None:
    told = await anthropic("failure", model=upstream, words=UPSTREAMS[upstream].words["break"], stream=True)
    assert (told["class"], told["type"]) == ("APIError", "api_error")


async def test_a_client_that_leaves_a_stream_pays_for_what_was_made(anthropic: Program, gateway: Gateway) -> None:
    told = await anthropic("leave", words="/long 100000", max_tokens=100_000)
    row = await gateway.row(told["request"])
    assert (row["kind"], row["outcome"], row["usage_source"]) == ("charge", "client_gone", "estimated")
    assert 0 < row["completion_tokens"] < 100_000

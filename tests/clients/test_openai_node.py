"""OpenAI's SDK in Node, unmodified, through a gateway to the demo model and to every fake there is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from gateway import plugins
from tests.clients.installed import Program, node_with_packages, running_program
from tests.support.gateway import Gateway
from tests.support.until import until
from tests.wire.upstreams import UPSTREAMS, gateway_before_all

CHAT, RESPONSES = (
    next((it for it in plugins.endpoints() if it.path == path), None)
    for path in ("/v1/chat/completions", "/v1/responses")
)
CHATTING = [name for name, it in UPSTREAMS.items() if it.can(CHAT, "tools")]
RESPONDING = [name for name, it in UPSTREAMS.items() if RESPONSES is not None and it.can(RESPONSES, "tools")]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway_before_all(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture(scope="module")
def openai(gateway: Gateway) -> Iterator[Program]:
    with running_program(node_with_packages(), "openai.mjs", gateway, f"{gateway.url}/v1") as program:
        yield program


async def test_an_answer_and_its_row(openai: Program, gateway: Gateway) -> None:
    told = await openai("answer")
    assert 'You said: "Hello"' in told["content"]
    row = await gateway.row(told["request"])
    usage = told["usage"]
    assert (row["prompt_tokens"], row["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])


@pytest.mark.parametrize("upstream", CHATTING)
async def test_a_stream_says_what_the_whole_answer_says(openai: Program, upstream: str) -> None:
    asked = {"model": upstream, "words": UPSTREAMS[upstream].words["hello"]}
    whole, streamed, assembled = [await openai(deed, **asked) for deed in ("answer", "stream", "assembled")]
    assert whole["content"]
    assert "".join(streamed["content"].split()) == "".join(whole["content"].split())
    assert (streamed["choices"], streamed["usage"]) == ([], whole["usage"])
    assert assembled["content"] == streamed["content"]
    assert assembled["finish"] == whole["finish"] == "stop"


@pytest.mark.parametrize("upstream", CHATTING)
async def test_tools_are_called(openai: Program, upstream: str) -> None:
    asked = {"model": upstream, "words": UPSTREAMS[upstream].words["tools"]}
    whole, streamed = await openai("tool", **asked), await openai("tool_assembled", **asked)
    for told in (whole, streamed):
        assert told["finish"] == "tool_calls"
        assert {call["name"] for call in told["calls"]} == {"weather"}
        assert any(call["arguments"] for call in told["calls"])
    assert [call["arguments"] for call in streamed["calls"]] == [call["arguments"] for call in whole["calls"]]


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_sdks_own_loop_of_tool_calls_ends_with_an_answer(openai: Program, streamed: bool) -> None:
    told = await openai("tool_loop", words="/tool", stream=streamed)
    assert told["asked"] == [{"city": "demo"}]
    assert 'You said: "rain"' in told["content"]


async def test_structured_output_is_parsed_by_its_schema(openai: Program) -> None:
    assert await openai("structured") == {"city": "demo", "degrees": 0}


async def test_embeddings_are_the_same_in_base64_which_is_the_sdks_default_and_as_floats(openai: Program) -> None:
    told = await openai("embeddings")
    assert len(told["packed"]) == 2
    for one, other in zip(told["packed"], told["plain"], strict=True):
        assert len(one) == len(other) == 256
        assert one == pytest.approx(other)
        assert math.isclose(math.fsum(number * number for number in one), 1.0, rel_tol=1e-5)


async def test_models_are_listed_and_retrieved(openai: Program) -> None:
    told = await openai("models")
    assert set(told["listed"]) == set(UPSTREAMS)
    assert told["one"]["id"] == "demo"


@pytest.mark.parametrize(
    ("asked", "name", "status", "code"),
    [
        ({"key": "sk-aidock-nothing"}, "AuthenticationError", 401, "invalid_api_key"),
        ({"model": "nothing"}, "NotFoundError", 404, "model_not_found"),
        ({"messages": []}, "BadRequestError", 400, "invalid_request"),
        ({"words": "/error 429"}, "RateLimitError", 429, "rate_limit_exceeded"),
        ({"words": "/error 500"}, "InternalServerError", 502, "upstream_error"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_errors_have_their_classes(
    openai: Program, asked: dict[str, Any], name: str, status: int, code: str
) -> None:
    told = await openai("failure", **asked)
    assert (told["class"], told["status"], told["code"]) == (name, status, code)
    assert len(told["request"]) == 36


async def test_what_is_refused_for_now_is_repeated_and_what_is_wrong_is_not(openai: Program) -> None:
    told = await openai("failure", words="/error 429", retries=1)
    assert (told["class"], told["requests"]) == ("RateLimitError", 2)
    told = await openai("failure", messages=[], retries=2)
    assert (told["class"], told["requests"]) == ("BadRequestError", 1)


async def test_a_slow_model_meets_the_clients_own_timeout(openai: Program) -> None:
    told = await openai("failure", words="/slow 5", timeout=300)
    assert told["class"] == "APIConnectionTimeoutError"


@pytest.mark.parametrize("upstream", CHATTING)
async def test_a_stream_that_breaks_raises_instead_of_ending(openai: Program, upstream: str) -> None:
    told = await openai("failure", model=upstream, words=UPSTREAMS[upstream].words["break"], stream=True)
    assert (told["class"], told["code"]) == ("APIError", "upstream_error")


async def test_a_client_that_leaves_a_stream_pays_for_what_was_made(openai: Program, gateway: Gateway) -> None:
    told = await openai("leave", words="/long 100000")
    row = await gateway.row(told["request"])
    assert (row["kind"], row["outcome"], row["usage_source"]) == ("charge", "client_gone", "estimated")
    assert 0 < row["completion_tokens"] < 100_000


async def test_a_client_that_leaves_before_the_answer_has_its_row(openai: Program, gateway: Gateway) -> None:
    told = await openai("leave_early", words="/slow 60")
    assert told["class"] == "APIUserAbortError"
    await until(lambda: bool(gateway.rows("outcome = 'client_gone' AND status = 0 AND streamed = 0")))


@pytest.mark.parametrize("upstream", RESPONDING)
async def test_responses_whole_and_streamed(openai: Program, upstream: str) -> None:
    asked = {"model": upstream, "words": UPSTREAMS[upstream].words["hello"]}
    whole, streamed = await openai("response", **asked), await openai("response_stream", **asked)
    assert whole["text"]
    assert whole["status"] == "completed"
    assert "".join(streamed["text"].split()) == "".join(whole["text"].split())
    assert (streamed["types"][0], streamed["types"][-1]) == ("response.created", "response.completed")


@pytest.mark.parametrize("upstream", RESPONDING)
async def test_tools_are_called_by_responses(openai: Program, upstream: str) -> None:
    called = await openai("response_tool", model=upstream, words=UPSTREAMS[upstream].words["tools"])
    assert {call["name"] for call in called} == {"weather"}
    assert any(call["arguments"] for call in called)


@pytest.mark.skipif(RESPONSES is None, reason="there is no /v1/responses yet")
async def test_structured_output_by_responses(openai: Program) -> None:
    assert await openai("response_structured") == {"city": "demo", "degrees": 0}

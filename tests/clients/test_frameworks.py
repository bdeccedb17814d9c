"""LangChain and LlamaIndex, unmodified, told nothing but the gateway's address and a key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from gateway import plugins
from tests.clients.installed import Program, python_with_packages, running_program
from tests.support.gateway import Gateway
from tests.wire.upstreams import UPSTREAMS, gateway_before_all

pytestmark = pytest.mark.timeout(600)  # what it needs is installed first

FRAMEWORKS = ["langchain", "llama_index"]
RESPONSES = any(endpoint.path == "/v1/responses" for endpoint in plugins.endpoints())


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway_before_all(tmp_path_factory.mktemp("frameworks")) as running:
        yield running


@pytest.fixture(scope="module")
def programs(gateway: Gateway) -> Iterator[dict[str, Program]]:
    python = python_with_packages()
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(running_program(python, f"{name}_program.py", gateway, f"{gateway.url}/v1"))
            for name in FRAMEWORKS
        }


def asked(words: str = "Hello", model: str = "demo") -> dict[str, Any]:
    return {"model": model, "words": words}


@pytest.mark.parametrize("upstream", ["demo", "cohere"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_chat_whole_and_streamed(programs: dict[str, Program], framework: str, upstream: str) -> None:
    told = asked(UPSTREAMS[upstream].words["hello"], upstream)
    whole, streamed = await programs[framework]("answer", **told), await programs[framework]("stream", **told)
    assert whole["text"]
    assert "".join(streamed["text"].split()) == "".join(whole["text"].split())
    assert streamed["chunks"] > 2


async def test_usage_is_the_same_streamed(programs: dict[str, Program]) -> None:
    whole, streamed = await programs["langchain"]("answer", **asked()), await programs["langchain"]("stream", **asked())
    assert whole["usage"]["total_tokens"] == streamed["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_tool_is_called_and_its_result_read(programs: dict[str, Program], framework: str) -> None:
    told = await programs[framework]("tool_loop", **asked("/tool"))
    assert told["asked"] == [{"city": "demo"}]
    assert 'You said: "rain in demo"' in told["text"]


async def test_a_streamed_tool_call_is_put_together(programs: dict[str, Program]) -> None:
    assert await programs["langchain"]("tool_stream", **asked("/tool")) == [{"city": "demo"}]


@pytest.mark.parametrize(
    ("framework", "deed"),
    [("langchain", "structured"), ("langchain", "structured_by_tool"), ("llama_index", "structured")],
)
async def test_structured_output(programs: dict[str, Program], framework: str, deed: str) -> None:
    assert await programs[framework](deed, **asked()) == {"city": "demo", "degrees": 0}


async def test_embeddings(programs: dict[str, Program]) -> None:
    assert [len(each) for each in await programs["langchain"]("embeddings", **asked())] == [256, 256]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("words", "name"), [("/error 429", "RateLimitError"), ("/error 400", "BadRequestError")])
async def test_errors_have_their_classes(programs: dict[str, Program], framework: str, words: str, name: str) -> None:
    assert name in await programs[framework]("failure", **asked(words))


@pytest.mark.skipif(not RESPONSES, reason="there is no /v1/responses yet")
async def test_chat_by_responses(programs: dict[str, Program]) -> None:
    by_chat, told = await programs["langchain"]("answer", **asked()), await programs["langchain"]("response", **asked())
    assert (told["text"], told["usage"]["total_tokens"]) == (by_chat["text"], by_chat["usage"]["total_tokens"])

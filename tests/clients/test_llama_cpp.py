"""A model server that nobody here wrote: llama.cpp's own, with a tiny model, behind a gateway."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.clients.installed import HERE, python_with_packages
from tests.e2e.wire import payloads
from tests.support.gateway import Gateway, chat, free_port, running_gateway
from tests.support.until import until

pytestmark = pytest.mark.timeout(600)  # what it needs is installed first

MODEL = "llama"


class Stage(NamedTuple):
    gateway: Gateway
    server: str

    async def ask(self, text: str = "the river", **members: Any) -> httpx.Response:
        return await self.gateway.ask("/v1/chat/completions", chat(text, MODEL, **members))

    async def usage_in_ledger(self, answer: httpx.Response) -> tuple[Any, ...]:
        row = await self.gateway.row(answer.headers["x-request-id"])
        assert (row["kind"], row["outcome"], row["usage_source"]) == ("charge", "ok", "upstream")
        return row["prompt_tokens"], row["completion_tokens"], row["cached_tokens"]

    async def slot(self) -> dict[str, Any]:
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            (slot,) = (await client.get(f"{self.server}/slots")).json()
        told: dict[str, Any] = slot
        return told


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    python, directory, port = python_with_packages(), tmp_path_factory.mktemp("llama"), free_port()
    model = directory / "tiny.gguf"
    subprocess.run([python, str(HERE / "tiny_model.py"), str(model)], check=True)
    with (
        (directory / "llama.log").open("wb") as log,
        subprocess.Popen(
            [python, str(HERE / "llama_server.py"), str(model), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdin is not None
        server = process.stdout.readline().decode().strip()
        assert server, (directory / "llama.log").read_text()
        try:
            with running_gateway(directory / "gateway", _config(server)) as gateway:
                yield Stage(gateway, server)
        finally:
            process.stdin.close()


def _config(server: str) -> dict[str, Any]:
    provider = {"base_url": f"{server}/v1", "max_retries": 0}
    price = {"input": 1.0, "output": 2.0}
    models = [
        {"model_id": MODEL, "provider": "local", "price": price},
        {"model_id": "short", "provider": "local", "max_output_tokens": 5},
    ]
    quotas = [{"scope": "model", "subject": "short", "metric": "tokens", "limit": 10**9, "window": "day"}]
    return {"providers": {"local": provider}, "models": models, "quotas": quotas}


def usage_of(document: dict[str, Any]) -> tuple[Any, ...]:
    usage = document["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


async def test_it_answers_and_the_ledger_has_what_it_counted(stage: Stage) -> None:
    answer = await stage.ask(max_tokens=9)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert len(document["choices"][0]["message"]["content"].split()) == 9
    assert document["choices"][0]["finish_reason"] == "length"
    assert usage_of(document)[1] == 9
    assert await stage.usage_in_ledger(answer) == usage_of(document)


async def test_it_streams_and_the_ledger_has_what_it_counted(stage: Stage) -> None:
    answer = await stage.ask(max_tokens=9, stream=True, stream_options={"include_usage": True})
    *chunks, last, done = payloads(answer.content)
    assert done == "[DONE]"
    assert len("".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks).split()) == 9
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert usage_of(last)[1] == 9
    assert await stage.usage_in_ledger(answer) == usage_of(last)


async def test_who_did_not_ask_for_usage_sees_none_and_is_charged_the_same(stage: Stage) -> None:
    answer = await stage.ask(max_tokens=9, stream=True)
    chunks = payloads(answer.content)[:-1]
    assert all(chunk["choices"] and "usage" not in chunk for chunk in chunks)
    assert (await stage.usage_in_ledger(answer))[1] == 9


@pytest.mark.parametrize("cap", ["max_tokens", "max_completion_tokens"])
async def test_a_cap_on_the_output_is_kept(stage: Stage, cap: str) -> None:
    answer = await stage.ask(**{cap: 3})
    assert usage_of(answer.json())[1] == 3


@pytest.mark.parametrize("streamed", [False, True])
async def test_so_is_the_one_that_a_quota_sets_where_the_client_sets_none(stage: Stage, streamed: bool) -> None:
    answer = await stage.gateway.ask("/v1/chat/completions", chat("the river", "short", stream=streamed))
    assert (await stage.usage_in_ledger(answer))[1] == 5


async def test_a_stop_sequence_ends_the_answer(stage: Stage) -> None:
    whole = (await stage.ask(max_tokens=40, temperature=0, seed=1)).json()["choices"][0]["message"]["content"]
    word = whole.split()[3]
    answer = await stage.ask(max_tokens=40, temperature=0, seed=1, stop=f" {word}")
    choice = answer.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == whole.partition(f" {word}")[0]


async def test_json_by_a_schema(stage: Stage) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Öslo"]}}, "required": ["city"]}
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}}
    answer = await stage.ask(max_tokens=200, response_format=form)
    assert json.loads(answer.json()["choices"][0]["message"]["content"]) == {"city": "Öslo"}
    assert await stage.usage_in_ledger(answer) == usage_of(answer.json())


async def test_older_text_completions(stage: Stage) -> None:
    answer = await stage.gateway.ask("/v1/completions", {"model": MODEL, "prompt": "the river", "max_tokens": 4})
    assert len(answer.json()["choices"][0]["text"].split()) == 4
    assert (await stage.usage_in_ledger(answer))[1] == 4


async def test_a_prompt_beyond_its_context_is_the_callers_error(stage: Stage) -> None:
    http = httpx.AsyncClient(trust_env=False, verify=False, timeout=60)
    async with AsyncOpenAI(
        base_url=f"{stage.gateway.url}/v1", api_key=stage.gateway.key, max_retries=0, http_client=http
    ) as client:
        words: Any = [{"role": "user", "content": "x" * 70_000}]
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model=MODEL, messages=words, max_tokens=1)
    assert caught.value.code == "context_length_exceeded"


async def test_a_client_that_leaves_frees_its_slot(stage: Stage) -> None:
    most = 60_000
    async with stage.gateway.client() as client:
        body = chat("the river", MODEL, stream=True, max_tokens=most)
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if "content" in line:
                    break
            assert (await stage.slot())["is_processing"]

    async def free() -> bool:
        return not (await stage.slot())["is_processing"]

    await until(free, 5)
    assert (await stage.slot())["next_token"][0]["n_decoded"] < most
    row = await stage.gateway.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["usage_source"]) == ("client_gone", "estimated")
    assert 0 < row["completion_tokens"] < most
    again = await asyncio.wait_for(stage.ask(max_tokens=2), 10)
    assert usage_of(again.json())[1] == 2

"""What clients get is what OpenAI and Anthropic have published: every answer, every chunk of a stream, every error, of
every endpoint, from every kind of upstream."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway import plugins
from gateway.core.endpoint import Inference
from tests.support.gateway import Gateway
from tests.wire.asking import FORMS, Form, events
from tests.wire.schemas import anthropic, openai, text_completion_chunk
from tests.wire.upstreams import UPSTREAMS, Deed, fakes, gateway_before_all

ENDPOINTS = {endpoint.name: endpoint for endpoint in plugins.endpoints() if isinstance(endpoint, Inference)}
EVERY = [
    pytest.param(endpoint, deed, upstream, id=f"{endpoint}-{deed}-{upstream}")
    for endpoint in ENDPOINTS
    if endpoint in FORMS
    for deed in (*FORMS[endpoint].deeds, "refuse", "break")
    for upstream, played in UPSTREAMS.items()
    if played.can(ENDPOINTS[endpoint], deed)
]


def cases(*deeds: Deed, streamed: bool = False, tells_usage: bool = False) -> list[Any]:
    """Endpoint, deed and upstream, where the three fit."""

    def fits(endpoint: str, deed: Deed) -> bool:
        good = not streamed or ENDPOINTS[endpoint].streams
        return deed in deeds and good and (not tells_usage or FORMS[endpoint].tells_usage)

    return [case for case in EVERY if fits(*case.values[:2])]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway_before_all(tmp_path_factory.mktemp("wire")) as running:
        yield running


async def ask(gateway: Gateway, endpoint: str, deed: Deed, upstream: str, **members: Any) -> httpx.Response:
    body = FORMS[endpoint].body(deed, UPSTREAMS[upstream].words[deed])
    return await send(gateway, endpoint, {"model": upstream, **body, **members})


async def send(gateway: Gateway, endpoint: str, body: dict[str, Any], key: str | None = None) -> httpx.Response:
    path = ENDPOINTS[endpoint].path
    if not FORMS[endpoint].file:
        return await gateway.ask(path, body, key=key)
    told = {name: json.dumps(value) if isinstance(value, bool) else value for name, value in body.items()}
    async with gateway.client(key) as client:
        return await client.post(path, data=told, files={"file": ("a.wav", b"RIFF" + bytes(40_000), "audio/wav")})


def test_every_endpoint_and_every_fake_is_asked() -> None:
    assert [name for name in ENDPOINTS if name not in FORMS] == [], "tests/wire/asking.py must say how they are asked"
    assert [name for name in fakes() if name not in UPSTREAMS] == [], (
        "tests/wire/upstreams.py must say how they are asked"
    )


ANSWERS: tuple[Deed, ...] = ("hello", "tools", "json", "think")


@pytest.mark.parametrize(("endpoint", "deed", "upstream"), cases(*ANSWERS))
async def test_answers(gateway: Gateway, endpoint: str, deed: Deed, upstream: str) -> None:
    answer = await ask(gateway, endpoint, deed, upstream)
    assert answer.status_code == 200, answer.text
    form = FORMS[endpoint]
    form.published().check(form.answer, answer.json())


@pytest.mark.parametrize(("endpoint", "deed", "upstream"), cases(*ANSWERS, streamed=True))
async def test_chunks(gateway: Gateway, endpoint: str, deed: Deed, upstream: str) -> None:
    answer = await ask(gateway, endpoint, deed, upstream, stream=True)
    assert answer.status_code == 200, answer.text
    told = events(answer.content, FORMS[endpoint].mark)
    assert len(told) > 2
    for event in told:
        assert not _failed(event), event
        FORMS[endpoint].check_event(event)


@pytest.mark.parametrize(("endpoint", "deed", "upstream"), cases("hello", tells_usage=True))
async def test_chunks_with_usage(gateway: Gateway, endpoint: str, deed: Deed, upstream: str) -> None:
    answer = await ask(gateway, endpoint, deed, upstream, stream=True, stream_options={"include_usage": True})
    *_, last = told = events(answer.content, FORMS[endpoint].mark)
    for event in told:
        FORMS[endpoint].check_event(event)
    openai().check("CompletionUsage", last["usage"])


@pytest.mark.parametrize(("endpoint", "deed", "upstream"), cases("break", streamed=True))
async def test_streams_that_break(gateway: Gateway, endpoint: str, deed: Deed, upstream: str) -> None:
    answer = await ask(gateway, endpoint, deed, upstream, stream=True)
    assert answer.status_code == 200, answer.text
    told = events(answer.content, FORMS[endpoint].mark)
    assert _failed(told[-1]), told[-1]
    for event in told:
        FORMS[endpoint].check_event(event)


def _failed(event: dict[str, Any]) -> bool:
    return "error" in event or event.get("type") in ("error", "response.failed")


@pytest.mark.parametrize(("endpoint", "deed", "upstream"), cases("refuse"))
async def test_refusals_of_the_upstream(gateway: Gateway, endpoint: str, deed: Deed, upstream: str) -> None:
    answer = await ask(gateway, endpoint, deed, upstream)
    assert answer.status_code == 429, answer.text
    _check_error(FORMS[endpoint], answer)


@pytest.mark.parametrize(("endpoint", "deed", "upstream"), cases("refuse", streamed=True))
async def test_refusals_of_streams(gateway: Gateway, endpoint: str, deed: Deed, upstream: str) -> None:
    answer = await ask(gateway, endpoint, deed, upstream, stream=True)
    assert answer.status_code == 429, answer.text
    _check_error(FORMS[endpoint], answer)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_refusals_of_ours(gateway: Gateway, endpoint: str) -> None:
    form = FORMS[endpoint]
    body = {"model": "demo", **form.body("hello", "Hello")}
    refused = {
        401: await send(gateway, endpoint, body, "sk-aidock-nothing"),
        404: await send(gateway, endpoint, {**body, "model": "nothing"}),
        400: await gateway.ask(ENDPOINTS[endpoint].path, b"{"),
    }
    for status, answer in refused.items():
        assert answer.status_code in (status, 415), answer.text
        _check_error(form, answer)
    _check_error(form, await gateway.ask(ENDPOINTS[endpoint].path, {"model": "demo"}))


def _check_error(form: Form, answer: httpx.Response) -> None:
    assert answer.is_error
    assert answer.headers["content-type"] == "application/json"
    form.check_error(answer.json())


@pytest.mark.parametrize(
    "upstream", [name for name, it in UPSTREAMS.items() if it.can(ENDPOINTS["embeddings"], "hello")]
)
async def test_embeddings_in_base64(gateway: Gateway, upstream: str) -> None:
    answer = await ask(gateway, "embeddings", "hello", upstream, encoding_format="base64")
    document = answer.json()
    for item in document["data"]:  # the document knows of floats alone, and of a request that may ask for the other
        assert len(b64decode(item["embedding"], validate=True)) % 4 == 0
        item["embedding"] = [0.0]
    openai().check("CreateEmbeddingResponse", document)


async def test_the_other_forms_of_transcripts_and_speech(gateway: Gateway) -> None:
    for endpoint in ("audio.transcriptions", "audio.translations"):
        verbose = await ask(gateway, endpoint, "hello", "demo", response_format="verbose_json")
        assert verbose.json()["segments"]
        openai().check(FORMS[endpoint].answer, verbose.json())
    spoken = await ask(gateway, "audio.speech", "hello", "demo", stream_format="sse")
    told = events(spoken.content, None)
    assert len(told) > 1
    for event in told:
        openai().check("CreateSpeechResponseStreamEvent", event)


@pytest.mark.parametrize("upstream", ["demo", "openai"])
async def test_several_choices(gateway: Gateway, upstream: str) -> None:
    whole = await ask(gateway, "chat.completions", "hello", upstream, n=3)
    openai().check("CreateChatCompletionResponse", whole.json())
    streamed = await ask(gateway, "chat.completions", "hello", upstream, n=3, stream=True)
    for event in events(streamed.content, b"[DONE]"):
        FORMS["chat.completions"].check_event(event)


async def test_the_list_of_models_and_each_of_them(gateway: Gateway) -> None:
    listed = (await gateway.ask("/v1/models")).json()
    openai().check("ListModelsResponse", listed)
    assert {model["id"] for model in listed["data"]} == set(UPSTREAMS)
    one = await gateway.ask("/v1/models/demo")
    openai().check("Model", one.json())
    missing = await gateway.ask("/v1/models/nothing")
    openai().check("ErrorResponse", missing.json())


CHUNK: dict[str, Any] = {
    "id": "c",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}],
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"object": "chat.completion"},
        {"created": "1"},
        {"choices": [{"index": 0, "delta": {"content": "a"}}]},
        {"choices": [{"index": 0, "delta": {"content": 1}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "done"}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"id": "a"}]}, "finish_reason": None}]},
        {"usage": {"prompt_tokens": 1}},
    ],
    ids=json.dumps,
)
def test_a_chunk_that_is_not_as_published_is_noticed(wrong: dict[str, Any]) -> None:
    openai().check("CreateChatCompletionStreamResponse", CHUNK)
    with pytest.raises(AssertionError, match="not a CreateChatCompletionStreamResponse"):
        openai().check("CreateChatCompletionStreamResponse", {**CHUNK, **wrong})


def test_so_are_other_documents() -> None:
    with pytest.raises(AssertionError, match="param"):
        openai().check("ErrorResponse", {"error": {"message": "m", "type": "t", "code": None}})
    with pytest.raises(AssertionError, match="not a MessageStreamEvent"):
        anthropic().check("MessageStreamEvent", {"type": "message_stopped"})
    with pytest.raises(AssertionError, match="finish_reason"):
        openai().check(text_completion_chunk(), {"choices": [{"index": 0, "text": "a", "logprobs": None}]})

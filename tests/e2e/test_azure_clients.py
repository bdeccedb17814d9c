"""Clients made for Azure OpenAI in front of a gateway: only their endpoint and their key are changed."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AzureOpenAI

from tests.e2e.azure_stage import COST, Stage, azure_stage, said
from tests.support.dialects import azure
from tests.support.gateway import Gateway, chat


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with azure_stage(tmp_path_factory.mktemp("azure")) as made:
        yield made


def azure_client(gateway: Gateway, **options: Any) -> AzureOpenAI:
    """A program made for Azure of which only the endpoint and the key were changed."""
    http = httpx.Client(trust_env=False, verify=False, timeout=30)
    if "azure_ad_token" not in options:
        options["api_key"] = gateway.key
    return AzureOpenAI(
        azure_endpoint=gateway.url, api_version="2025-01-01-preview", max_retries=0, http_client=http, **options
    )


@pytest.mark.parametrize("model", ["by-token", "ours/with slash"])
async def test_a_client_made_for_azure_only_changes_its_endpoint(stage: Stage, model: str) -> None:
    with azure_client(stage.gateway) as caller:
        answer = caller.chat.completions.create(model=model, messages=said("Hi"))
        assert answer.choices[0].message.content == "You said: Hi "
        stream = caller.chat.completions.create(model=model, messages=said("Hi"), stream=True)
        text = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
        assert text == "You said: Hi "
    await stage.gateway.quiet()
    rows = stage.gateway.rows("request_id IN (?, ?)", answer._request_id, f"{answer._request_id}-2")
    booked = "dated" if model == "either" else model  # a fallback is booked under its own name
    charged = [row for row in rows if row["kind"] == "charge"]
    assert [(row["model_id"], row["endpoint"], row["cost_microusd"]) for row in charged] == [
        (booked, "chat.completions", COST)
    ]


def test_the_model_in_the_path_is_the_one_that_is_meant(stage: Stage) -> None:
    with azure_client(stage.gateway, azure_deployment="dated", azure_ad_token=stage.gateway.key) as caller:
        raw = caller.chat.completions.with_raw_response.create(model="gpt-4o", messages=said("x"))
    assert raw.headers["x-aidock-model"] == "dated"
    assert stage.upstream.last.json["model"] == azure.DEPLOYMENT


async def test_a_body_need_not_name_the_model_of_the_path(stage: Stage) -> None:
    path = f"/openai/deployments/dated/chat/completions?api-version={azure.VERSION}"
    answer = await stage.gateway.ask(path, {"messages": said("x")}, headers={"idempotency-key": "one"})
    assert answer.json()["choices"][0]["message"]["content"] == "You said: x "
    again = await stage.gateway.ask(path, {"messages": said("x")}, headers={"idempotency-key": "one"})
    assert again.headers["idempotent-replayed"] == "true"
    elsewhere = path.replace("/dated/", "/by-token/")
    other = await stage.gateway.ask(elsewhere, {"messages": said("x")}, headers={"idempotency-key": "one"})
    assert other.json()["error"]["code"] == "idempotency_key_reused"


async def test_azures_client_reaches_embeddings_sound_pictures_and_models(stage: Stage) -> None:
    with azure_client(stage.gateway) as caller:
        vectors = caller.embeddings.create(model="by-token", input="x", encoding_format="float")
        assert vectors.data[0].embedding == [0.5, -0.25]
        heard = caller.audio.transcriptions.create(model="by-token", file=("a.wav", a_wav()))
        assert heard.text == "Guten Tag"
        assert caller.images.generate(model="by-token", prompt="a boat").data
        assert "by-token" in [model.id for model in caller.models.list()]
        assert caller.responses.create(model="by-token", input="Hi", store=False).output_text == "You said: Hi"
    assert (await stage.row(vectors._request_id))["prompt_tokens"] == 3


async def test_a_form_need_not_name_the_model_of_the_path(stage: Stage) -> None:
    async with stage.gateway.client() as caller:
        path = "/openai/deployments/dated/audio/transcriptions"
        answer = await caller.post(path, files={"file": ("a.wav", a_wav(), "audio/wav")})
    assert answer.json()["text"] == "Guten Tag"
    assert f'name="model"\r\n\r\n{azure.DEPLOYMENT}\r\n'.encode() in stage.upstream.last.body


async def test_azures_client_is_told_what_is_wrong_in_its_own_words(stage: Stage) -> None:
    with azure_client(stage.gateway) as caller:
        with pytest.raises(openai.NotFoundError) as missing:
            caller.chat.completions.create(model="nobody's", messages=said("x"))
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as empty:
            caller.chat.completions.create(model="dated", messages=[])
        assert empty.value.param == "messages"
    unknown = await stage.gateway.ask("/openai/deployments/dated/nothing", chat())
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    stranger = await stage.gateway.ask("/openai/deployments/dated/chat/completions", chat(), key="sk-no")
    assert stranger.status_code == 401


def a_wav() -> bytes:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(b"\1\2" * 16_000)
    return sound.getvalue()


def test_nothing_of_all_this_was_an_error_of_the_gateways_own(stage: Stage) -> None:
    assert stage.gateway.errors() == []

"""Pictures, sound, judgements and rankings over the official OpenAI SDK, and what the ledger has of them."""

from __future__ import annotations

import base64
import io
import struct
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.support.gateway import Gateway, running_gateway

PRICES: dict[str, dict[str, float]] = {
    "pictures": {"per_image": 0.04},
    "voice": {"per_million_characters": 15.0},
    "ears": {"per_minute": 0.006},
    "token-ears": {"input": 6.0, "output": 10.0},
    "judge": {"input": 0.10},
    "ranker": {"per_search": 0.002},
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {
        "providers": {"demo": {"dialect": "demo", "quirks": {"tokens_per_second": 2000}}},
        "models": [{"model_id": name, "provider": "demo", "price": price} for name, price in PRICES.items()],
    }
    with running_gateway(tmp_path_factory.mktemp("media"), config) as made:
        yield made


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[AsyncOpenAI]:
    http = httpx.AsyncClient(trust_env=False, verify=False, timeout=30)
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, http_client=http) as made:
        yield made


def a_wav(path: Path, seconds: float, rate: int = 16_000) -> Path:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(b"\1\2" * int(seconds * rate))
    return path


async def row_of(gateway: Gateway, answer: Any) -> dict[str, Any]:
    return await gateway.row(answer._request_id)


def used(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["units"], row["unit"], row["cost_microusd"], row["usage_source"]


async def test_pictures_are_pictures_and_cost_what_each_costs(gateway: Gateway, client: AsyncOpenAI) -> None:
    answer = await client.images.generate(model="pictures", prompt="A boat", n=3)
    assert answer.data is not None
    pictures = [base64.b64decode(each.b64_json or "") for each in answer.data]
    assert len(set(pictures)) == 3
    assert all(picture.startswith(b"\x89PNG\r\n") for picture in pictures)
    row = await row_of(gateway, answer)
    assert (row["endpoint"], row["prompt_tokens"], row["completion_tokens"]) == ("images.generations", 0, 0)
    assert used(row) == (3, "image", 120_000, "upstream")


async def test_pictures_come_as_they_become_clearer(gateway: Gateway, client: AsyncOpenAI) -> None:
    stream = await client.images.generate(model="pictures", prompt="A boat", stream=True, partial_images=2)
    kinds = [event.type async for event in stream]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    row = await gateway.row(stream.response.headers["x-request-id"])
    assert used(row) == (1, "image", 40_000, "upstream")
    assert (row["streamed"], row["completion_tokens"]) == (1, 16)


async def test_speech_streams_as_sound_and_is_metered_by_its_characters(gateway: Gateway, client: AsyncOpenAI) -> None:
    text = "Everything around this answer is real. " * 20
    async with client.audio.speech.with_streaming_response.create(
        model="voice", voice="alloy", input=text, response_format="wav"
    ) as answer:
        assert answer.headers["content-type"] == "audio/wav"
        pieces = [piece async for piece in answer.iter_bytes()]
    assert len(pieces) > 3
    with wave.open(io.BytesIO(b"".join(pieces))) as sound:
        assert sound.getnframes() == len(text) * 400
    row = await gateway.row(answer.headers["x-request-id"])
    assert used(row) == (len(text), "character", -(-len(text) * 15), "upstream")
    assert row["first_token_ms"] is not None


async def test_speech_comes_as_events_too(gateway: Gateway, client: AsyncOpenAI) -> None:
    async with client.audio.speech.with_streaming_response.create(
        model="voice", voice="alloy", input="Hello there", stream_format="sse"
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        body = await answer.read()
    assert body.count(b"speech.audio.delta") >= 2
    assert b"speech.audio.done" in body
    row = await gateway.row(answer.headers["x-request-id"])
    assert used(row) == (11, "character", 165, "upstream")
    assert row["prompt_tokens"] > 0, "as it was reported"


async def test_a_recording_of_some_megabytes_is_heard_whole(
    gateway: Gateway, client: AsyncOpenAI, tmp_path: Path
) -> None:
    recording = a_wav(tmp_path / "Besprechung.wav", 150.2)
    assert recording.stat().st_size > 4_000_000
    answer = await client.audio.transcriptions.create(
        model="ears",
        file=recording,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        language="de",
    )
    assert answer.duration == 151
    assert "151 seconds" in answer.text
    row = await row_of(gateway, answer)
    assert used(row) == (151, "second", 15_100, "upstream")


@pytest.mark.parametrize(
    ("form", "kind"),
    [("text", "text/plain"), ("srt", "text/plain"), ("vtt", "text/plain"), ("json", "application/json")],
)
async def test_transcripts_come_in_the_format_that_was_asked_for(
    gateway: Gateway, client: AsyncOpenAI, tmp_path: Path, form: Any, kind: str
) -> None:
    raw = await client.audio.transcriptions.with_raw_response.create(
        model="ears", file=a_wav(tmp_path / "a.wav", 61), response_format=form
    )
    assert raw.headers["content-type"].startswith(kind)
    assert b"61 seconds" in raw.content
    row = await gateway.row(raw.headers["x-request-id"])
    assert used(row) == (61, "second", 6_100, "upstream")


async def test_a_transcript_streams(gateway: Gateway, client: AsyncOpenAI, tmp_path: Path) -> None:
    stream = await client.audio.transcriptions.create(model="ears", file=a_wav(tmp_path / "a.wav", 2), stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events[:1] + events[-1:]] == ["transcript.text.delta", "transcript.text.done"]
    said = "".join(event.delta for event in events if event.type == "transcript.text.delta")
    assert "2 seconds" in said
    row = await gateway.row(stream.response.headers["x-request-id"])
    assert (*used(row), row["streamed"]) == (2, "second", 200, "upstream", 1)


async def test_a_sound_whose_length_nobody_tells_is_an_estimate(gateway: Gateway, client: AsyncOpenAI) -> None:
    raw = await client.audio.transcriptions.with_raw_response.create(
        model="ears", file=("a.mp3", b"\xff\xfb" * 80_000, "audio/mpeg"), response_format="text"
    )
    row = await gateway.row(raw.headers["x-request-id"])
    assert used(row) == (10, "second", 1_000, "estimated")


async def test_a_model_sold_by_the_token_is_reckoned_in_tokens(
    gateway: Gateway, client: AsyncOpenAI, tmp_path: Path
) -> None:
    answer = await client.audio.transcriptions.create(model="token-ears", file=a_wav(tmp_path / "a.wav", 30))
    row = await row_of(gateway, answer)
    assert (row["units"], row["usage_source"]) == (30, "estimated")
    assert row["cost_microusd"] == row["prompt_tokens"] * 6 + row["completion_tokens"] * 10
    assert row["prompt_tokens"] >= 300


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # OpenAI's own word on this endpoint
async def test_translations_are_metered_like_transcriptions(
    gateway: Gateway, client: AsyncOpenAI, tmp_path: Path
) -> None:
    answer = await client.audio.translations.create(model="ears", file=a_wav(tmp_path / "a.wav", 3))
    row = await row_of(gateway, answer)
    assert (row["endpoint"], *used(row)) == ("audio.translations", 3, "second", 300, "upstream")


async def test_moderations_judge_every_input(gateway: Gateway, client: AsyncOpenAI) -> None:
    answer = await client.moderations.create(model="judge", input=["Hello", "please /flag this"])
    assert [result.flagged for result in answer.results] == [False, True]
    assert answer.results[1].categories.violence
    row = await row_of(gateway, answer)
    assert (row["endpoint"], row["units"], row["usage_source"]) == ("moderations", None, "estimated")
    assert row["prompt_tokens"] > 0


async def test_a_moderation_without_a_model_means_openais_own(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="omni-moderation-latest"):
        await client.moderations.create(input="Hello")


async def test_documents_are_ranked_and_a_search_is_counted(gateway: Gateway) -> None:
    body = {
        "model": "ranker",
        "query": "red boats",
        "documents": ["green trees", "red boats sail", {"text": "a red house"}] + ["grey"] * 200,
        "top_n": 2,
        "return_documents": True,
    }
    answer = await gateway.ask("/v1/rerank", body)
    results = answer.json()["results"]
    assert [result["index"] for result in results] == [1, 2]
    assert results[0]["document"] == {"text": "red boats sail"}
    row = await gateway.row(answer.headers["x-request-id"])
    assert used(row) == (3, "search", 6_000, "upstream")


async def test_embeddings_come_as_floats_or_as_the_same_floats_in_base64(gateway: Gateway, client: AsyncOpenAI) -> None:
    inputs = ["one", "two", "three"]
    packed = await client.embeddings.create(model="judge", input=inputs, encoding_format="base64")
    plain = await client.embeddings.create(model="judge", input=inputs, encoding_format="float")
    assert [each.index for each in packed.data] == [0, 1, 2]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert isinstance(one.embedding, str)
        raw = base64.b64decode(one.embedding)
        assert list(struct.unpack(f"<{len(raw) // 4}f", raw)) == pytest.approx(other.embedding)


async def test_the_books_agree_and_receipts_tell_units(gateway: Gateway, client: AsyncOpenAI) -> None:
    answer = await client.images.generate(model="pictures", prompt="A boat", n=2)
    await row_of(gateway, answer)
    receipt = (await gateway.ask(f"/api/v1/usage/{answer._request_id}")).json()
    assert receipt["units"] == {"unit": "image", "used": 2, "price": "per_image", "usd": 0.04}
    assert receipt["cost_usd"] == 0.08
    await gateway.quiet()
    found = await gateway.reconcile()
    assert found
    assert gateway.errors() == []

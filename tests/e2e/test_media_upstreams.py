"""Uploads, sound and pictures through a gateway, to upstreams that behave and misbehave."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.core.limits import Limit
from tests.support.dialects.openai_media import MP3, TEXT, MediaUpstream
from tests.support.dialects.served import Served, served
from tests.support.gateway import Gateway, running_gateway
from tests.support.processes import free_port
from tests.support.until import until

OPERATIONS = ["images/generations", "audio/speech", "audio/transcriptions", "audio/translations", "moderations"]
PRICES: dict[str, dict[str, float]] = {
    "gpt-image-1": {"input": 5.0, "output": 40.0},
    "dall-e-3": {"per_image": 0.04},
    "tts-1": {"per_million_characters": 15.0},
    "hoarse": {"per_million_characters": 15.0},
    "slow": {"per_million_characters": 15.0},
    "gpt-4o-transcribe": {"input": 6.0, "output": 10.0},
    **{name: {"per_minute": 0.006} for name in ("whisper-1", "flaky", "busy", "picky")},
}
BOUNDARY = "----formdata-0123456789"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Served]:
    with served(MediaUpstream()) as fake:
        yield fake


@pytest.fixture(scope="module")
def drain_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def gateway(upstream: Served, drain_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    quirks = {"operations": OPERATIONS}
    models = [{"model_id": name, "provider": "media", "price": price} for name, price in PRICES.items()]
    config = {
        "providers": {
            "media": {"base_url": f"{upstream.url}/v1", "api_key": "sk-upstream-0123456789", "quirks": quirks},
            "plain": {"base_url": f"{upstream.url}/v1"},
            "drain": {"base_url": f"http://127.0.0.1:{drain_port}/v1", "quirks": quirks},
        },
        "models": [
            *models,
            {"model_id": "ours", "provider": "media", "upstream_model": "whisper-1", "price": {"per_minute": 0.006}},
            {"model_id": "chatty", "provider": "plain"},
            {"model_id": "drain", "provider": "drain", "price": {"per_minute": 0.006}},
        ],
        "routes": {"ears": {"targets": [{"model": "busy"}], "fallbacks": ["ours"]}},
    }
    with running_gateway(tmp_path_factory.mktemp("media"), config) as made:
        yield made


def part(name: str, value: bytes, extra: str = "") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
    return head.encode() + value + b"\r\n"


def a_form(model: str = "whisper-1", content: bytes = b"ID3" + b"\0\1" * 100_000, **fields: str) -> bytes:
    """The file first, as Node's SDK sends it."""
    named = '; filename="Füße (1).m4a"\r\nContent-Type: audio/x-m4a'
    texts = b"".join(part(name, value.encode()) for name, value in {"model": model, **fields}.items())
    return part("file", content, named) + texts + f"--{BOUNDARY}--\r\n".encode()


FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


async def heard(gateway: Gateway, form: bytes, path: str = "transcriptions", **headers: str) -> httpx.Response:
    return await gateway.ask(f"/v1/audio/{path}", form, headers={**FORM, **headers})


async def row_of(gateway: Gateway, answer: httpx.Response) -> dict[str, Any]:
    return await gateway.row(answer.headers["x-request-id"])


def used(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["units"], row["unit"], row["cost_microusd"], row["usage_source"]


@pytest.mark.parametrize("path", ["transcriptions", "translations"])
async def test_an_upload_reaches_the_upstream_as_it_was_but_for_the_models_name(
    gateway: Gateway, upstream: Served, path: str
) -> None:
    fields = {"timestamp_granularities[]": "word", "language": "de", "prompt": "Füße", "temperature": "0"}
    form = a_form("ours", **fields)
    again = part("timestamp_granularities[]", b"segment") + form
    answer = await heard(gateway, again, path)
    assert answer.json()["text"] == TEXT
    asked = upstream.last
    assert asked.path == f"/v1/audio/{path}"
    assert asked.headers["content-type"] == FORM["content-type"]
    assert asked.headers["authorization"] == "Bearer sk-upstream-0123456789"
    assert asked.body == again.replace(b"\r\n\r\nours\r\n", b"\r\n\r\nwhisper-1\r\n")
    row = await row_of(gateway, answer)
    assert (row["model_id"], row["upstream_model"]) == ("ours", "whisper-1")
    assert used(row) == (7, "second", 700, "upstream")


async def test_an_upload_is_sent_again_and_elsewhere_where_an_upstream_has_no_room(
    gateway: Gateway, upstream: Served
) -> None:
    before = len(upstream.asked)
    answer = await heard(gateway, a_form("flaky"))
    assert (answer.status_code, answer.headers["x-aidock-attempts"]) == (200, "2")
    first, second = upstream.asked[before:]
    assert first.body == second.body == a_form("flaky")
    answer = await heard(gateway, a_form("ears"))
    assert (answer.status_code, answer.headers["x-aidock-model"]) == (200, "ours")
    assert upstream.last.body == a_form("whisper-1")


async def test_an_upstreams_refusal_keeps_its_words(gateway: Gateway) -> None:
    answer = await heard(gateway, a_form("picky"))
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "Invalid file format.")
    row = await row_of(gateway, answer)
    assert (row["kind"], row["units"], row["cost_microusd"]) == ("refund", None, 0)


async def test_text_formats_keep_their_content_type_and_are_estimated_by_the_size(gateway: Gateway) -> None:
    answer = await heard(gateway, a_form(response_format="vtt", content=b"ID3" + b"\0" * 31_997))
    assert answer.headers["content-type"] == "text/vtt; charset=utf-8"
    assert answer.text.startswith("WEBVTT")
    assert used(await row_of(gateway, answer)) == (2, "second", 200, "estimated")


async def test_tokens_that_are_reported_are_what_a_transcript_costs(gateway: Gateway) -> None:
    for fields in ({}, {"stream": "true"}):
        answer = await heard(gateway, a_form("gpt-4o-transcribe", **fields))
        row = await row_of(gateway, answer)
        assert (row["prompt_tokens"], row["completion_tokens"], row["usage_source"]) == (50, 4160, "upstream")
        assert row["cost_microusd"] == 50 * 6 + 4160 * 10
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_a_model_that_ignores_the_wish_for_a_stream_answers_whole(gateway: Gateway) -> None:
    answer = await heard(gateway, a_form(stream="true"))
    assert (answer.headers["content-type"], answer.json()["text"]) == ("application/json", TEXT)


@pytest.mark.parametrize("stream", [False, True])
async def test_images_cost_their_tokens_where_the_upstream_tells_them(gateway: Gateway, stream: bool) -> None:
    body = {"model": "gpt-image-1", "prompt": "A boat", "stream": stream, "quality": "high"}
    answer = await gateway.ask("/v1/images/generations", body)
    row = await row_of(gateway, answer)
    assert (row["prompt_tokens"], row["completion_tokens"], row["units"]) == (50, 4160, 1)
    assert row["cost_microusd"] == 50 * 5 + 4160 * 40
    if stream:
        assert [line for line in answer.text.splitlines() if line.startswith("event")] == [
            "event: image_generation.partial_image",
            "event: image_generation.completed",
        ]


async def test_an_upstream_that_is_asked_for_sound_gets_the_clients_bytes(gateway: Gateway, upstream: Served) -> None:
    body = b'{"model":"tts-1" , "input":"H\\u00e9llo","voice":"alloy","speed":1.10}'
    answer = await gateway.ask("/v1/audio/speech", body)
    assert (answer.headers["content-type"], answer.content) == ("audio/mpeg", MP3 * 3)
    assert upstream.last.body == body
    assert used(await row_of(gateway, answer)) == (5, "character", 75, "upstream")


async def test_sound_that_breaks_off_cannot_be_taken_for_whole_and_is_charged(gateway: Gateway) -> None:
    body = {"model": "hoarse", "input": "x" * 1000, "voice": "alloy"}
    got: list[bytes] = []

    async def listen(answer: httpx.Response) -> None:
        async for piece in answer.aiter_raw():
            got.append(piece)  # noqa: PERF401  what came before the break must not be lost

    async with gateway.client() as client, client.stream("POST", "/v1/audio/speech", json=body) as answer:
        with pytest.raises(httpx.RemoteProtocolError):
            await listen(answer)
    assert b"".join(got) == MP3 * 2
    row = await row_of(gateway, answer)
    assert (row["outcome"], row["status"], *used(row)) == (
        "upstream_error",
        200,
        1000,
        "character",
        15_000,
        "estimated",
    )


async def test_sound_comes_while_it_is_made_and_stops_when_nobody_listens(gateway: Gateway, upstream: Served) -> None:
    body = {"model": "slow", "input": "x" * 1000, "voice": "alloy"}
    async with gateway.client() as client, client.stream("POST", "/v1/audio/speech", json=body) as answer:
        pieces = answer.aiter_raw()
        got = b""
        while len(got) < 2 * len(MP3):
            got += await anext(pieces)
    assert got == MP3 * 2
    asked = upstream.last
    assert await asyncio.to_thread(asked.gone.wait, 10), "the upstream was let go"
    row = await row_of(gateway, answer)
    assert (row["outcome"], *used(row)) == ("client_gone", 1000, "character", 15_000, "estimated")


async def test_a_client_that_leaves_in_the_middle_of_its_upload_leaves_nothing(
    gateway: Gateway, upstream: Served
) -> None:
    before, rows = len(upstream.asked), len(gateway.rows())
    gone = await gateway.metric("aidock_client_disconnects_total", phase="sending")
    form = a_form(content=b"\0" * 4_000_000)
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {gateway.key}\r\n"
    head += f"content-type: {FORM['content-type']}\r\ncontent-length: {len(form)}\r\n\r\n"
    writer.write(head.encode() + form[:2_000_000])
    await writer.drain()
    await until(lambda: bool(spools(gateway)))
    writer.transport.abort()

    async def noticed() -> bool:
        return await gateway.metric("aidock_client_disconnects_total", phase="sending") == gone + 1

    await until(noticed)
    await until(lambda: not spools(gateway))
    assert (len(upstream.asked), len(gateway.rows())) == (before, rows)


def spools(gateway: Gateway) -> list[str]:
    """Files that the gateway holds open and that have no name any more."""
    found = []
    for descriptor in Path(f"/proc/{gateway.pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if target.endswith("(deleted)"):
            found.append(target)
    return found


async def test_forms_that_are_none_are_a_400_in_openais_words(gateway: Gateway) -> None:
    sent = [
        (a_form(), {"content-type": "multipart/form-data"}),
        (b'{"model": "whisper-1"}', {"content-type": "application/json"}),
        (a_form()[:-30], {}),
        (a_form().replace(b'name="file"', b'name="fail"'), {}),
        (part("model", b"whisper-1") + f"--{BOUNDARY}--\r\n".encode(), {}),
        (part("model", b"dear") + a_form(), {}),
        (part("a", b"1") * 10_000 + a_form(), {}),
        (a_form("whisper-1", stream="maybe"), {}),
        (a_form(""), {}),
    ]
    for form, headers in sent:
        answer = await heard(gateway, form, **headers)
        assert answer.status_code == 400, form[:100]
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert (await heard(gateway, a_form("nobody"))).status_code == 404


async def test_a_model_whose_provider_lacks_an_endpoint_says_so(gateway: Gateway) -> None:
    answer = await heard(gateway, a_form("chatty"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_endpoint")
    answer = await gateway.ask("/v1/moderations", {"model": "chatty", "input": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_endpoint")


async def test_an_upload_with_an_idempotency_key_is_heard_once(gateway: Gateway, upstream: Served) -> None:
    key = {"idempotency-key": "k-1"}
    first = await heard(gateway, a_form(), **key)
    before = len(upstream.asked)
    second = await heard(gateway, a_form(), **key)
    assert (second.content, second.headers["idempotent-replayed"]) == (first.content, "true")
    assert len(upstream.asked) == before
    assert (await heard(gateway, a_form(content=b"another"), **key)).status_code == 422


async def test_a_budget_has_room_for_exactly_as_many_images_as_it_has_room_for(gateway: Gateway) -> None:
    user = "painter@example.com"
    key = await gateway.issue(user)
    await gateway.limit(key, Limit("user", user, "cost", "total", 7 * 40_000, "deny"))
    body = {"model": "dall-e-3", "prompt": "A boat"}
    answers = await asyncio.gather(*[gateway.ask("/v1/images/generations", body, key=key) for _ in range(30)])
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [429] * 23
    assert {a.json()["error"]["code"] for a in answers if a.status_code == 429} == {"insufficient_quota"}
    level = (await gateway.me(key))["limits"]["cost", "total"]
    assert (level["used"], level["remaining"]) == (0.28, 0.0)
    await gateway.quiet()
    rows = gateway.rows("user = ?", user)
    assert [used(row) for row in rows] == [(1, "image", 40_000, "upstream")] * 7


class Drain:
    """An upstream that takes uploads slowly and keeps nothing of them."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        left = size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        while left:
            piece = await reader.read(262_144)
            if not piece:
                break
            left -= len(piece)
            await asyncio.sleep(0.001)
        self.taken.append(size - left)
        body = json.dumps({"text": TEXT, "usage": {"type": "duration", "seconds": 7}}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()


async def test_twenty_large_uploads_at_once_stay_out_of_memory(gateway: Gateway, drain_port: int) -> None:
    content = os.urandom(1 << 20)
    size = 20

    async def pieces() -> AsyncIterator[bytes]:
        named = '; filename="a.mp3"\r\nContent-Type: audio/mpeg'
        yield part("file", b"", named)[:-2]
        for _ in range(size):
            yield content
        yield b"\r\n" + part("model", b"drain") + f"--{BOUNDARY}--\r\n".encode()

    async def upload(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/v1/audio/transcriptions", content=pieces(), headers=FORM)

    drain = Drain()
    server = await asyncio.start_server(drain.accept, "127.0.0.1", drain_port)
    async with server, gateway.client(timeout=60) as client:
        before = memory(gateway)
        uploads = asyncio.gather(*[upload(client) for _ in range(20)])
        most = before
        while not uploads.done():
            most = max(most, memory(gateway))
            await asyncio.sleep(0.02)
        answers = await uploads
    assert [answer.status_code for answer in answers] == [200] * 20
    assert all(taken > size << 20 for taken in drain.taken)
    assert most - before < 80 * 2**20, "twenty files would be 400 MiB"
    await until(lambda: not spools(gateway))


def memory(gateway: Gateway) -> int:
    """Bytes that the gateway's process has in memory."""
    pages = int(Path(f"/proc/{gateway.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def test_the_books_agree_in_the_end(gateway: Gateway) -> None:
    await gateway.quiet()
    await gateway.reconcile()
    assert gateway.errors() == []

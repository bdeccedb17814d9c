"""What is counted is what happened, with any number of workers, and neither metrics nor logs tell secrets."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import Gateway, chat, running_gateway
from tests.support.raw_http import Guarded
from tests.support.redis_server import redis_server
from tests.support.until import until

CHAT = "/v1/chat/completions"
CALLS = 200
JUNK = 2000
AT_ONCE = 20
PUBLISHED_S = 5.0
"""How soon every worker knows what the others have counted: a tick, on a machine that does other things too."""


async def test_counters_say_exactly_what_was_called(demo: Gateway) -> None:
    department = "counted"
    key = await demo.issue("counted@example.com", department=department)
    for _ in range(3):
        await demo.ask(CHAT, chat("Hello"), key=key)
    streamed = [await demo.ask(CHAT, chat("/long 7", stream=True), key=key) for _ in range(2)]
    await demo.ask(CHAT, chat("/error 500"), key=key)
    await demo.ask(CHAT, chat(model="nothing"), key=key)
    await demo.ask("/v1/embeddings", {"model": "demo", "input": "one two"}, key=key)
    await demo.quiet()

    async def requests(**labels: str) -> float:
        return await demo.metric("aidock_requests_total", department=department, **labels)

    assert await requests() == 8
    assert await requests(endpoint="chat.completions", code="200", streamed="false", model="demo") == 3
    assert await requests(endpoint="chat.completions", code="200", streamed="true", model="demo") == 2
    assert await requests(code="502", provider="demo") == 1
    assert await requests(code="404", model="") == 1
    assert await requests(endpoint="embeddings") == 1
    rows = demo.rows("department = ?", department)
    assert len(rows) == 7
    for kind in ("prompt", "completion"):
        counted = await demo.metric("aidock_tokens_total", kind=kind, department=department)
        assert counted == sum(row[f"{kind}_tokens"] or 0 for row in rows)
    assert all(answer.status_code == 200 for answer in streamed)
    assert await demo.metric("aidock_journal_depth") == 0
    assert await demo.metric("aidock_ledger_rows_total") == len(demo.rows())


async def test_a_model_name_that_nobody_configured_makes_no_series(demo: Gateway) -> None:
    await demo.ask(CHAT, chat(model="nobody"))
    before = len(await demo.samples())

    async def guess(count: int) -> None:
        peer = await Guarded(demo.port, None).connect()  # type: ignore[arg-type]  # only the port is used
        for _ in range(count):
            body = json.dumps(chat(model=secrets.token_hex(8))).encode()
            head = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {demo.key}\r\n"
            await peer.send(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            assert (await peer.reply()).status == 404
        peer.close()

    await asyncio.gather(*(guess(JUNK // AT_ONCE) for _ in range(AT_ONCE)))
    assert len(await demo.samples()) == before


async def test_a_scrape_of_any_worker_counts_the_calls_of_all(tmp_path: Path) -> None:
    with redis_server() as redis:
        config = {"server": {"workers": 2}, "storage": {"counters": redis.url}}
        with running_gateway(tmp_path, config) as gateway:

            async def call(count: int) -> set[str]:
                """On a connection of its own, so that both workers get some."""
                async with gateway.client() as client:
                    answers = [await client.post(CHAT, json=chat()) for _ in range(count)]
                return {answer.headers["x-request-id"] for answer in answers}

            answered = set().union(*await asyncio.gather(*(call(CALLS // AT_ONCE) for _ in range(AT_ONCE))))
            assert len(answered) == CALLS

            async def counted(name: str, **labels: str) -> list[float]:
                """What several scrapes say, of whichever worker takes them."""
                return [await gateway.metric(name, **labels) for _ in range(6)]

            async def all_agree() -> bool:
                return await counted("aidock_requests_total", code="200") == [CALLS] * 6

            await until(all_agree, PUBLISHED_S)
            assert await counted("aidock_tokens_total", kind="prompt") == [2 * CALLS] * 6
            await until(lambda: len(gateway.rows()) == CALLS)
            journals = [path for path in (gateway.data / "journal").iterdir() if path.is_dir()]
            assert len(journals) == 2
            assert gateway.errors() == []


@pytest.mark.parametrize("stream", [False, True])
async def test_neither_logs_nor_data_hold_a_prompt_an_answer_or_a_key(demo: Gateway, stream: bool) -> None:
    canary = f"canary-{secrets.token_hex(8)}"
    key = await demo.issue("secretive@example.com")
    orders = ("", "/error 500 ", "/error 400 ", "/cut 2 ", "/error 600 ")
    for order in orders:
        await demo.ask(CHAT, chat(f"{order}{canary}", stream=stream, user=canary), key=key)
    await demo.ask(CHAT, f'{{"model": "{canary}"'.encode(), key=key)
    await demo.ask(CHAT, chat(model=canary), key=key)
    with pytest.raises(httpx.TimeoutException):
        async with demo.client(key, timeout=0.2) as client:
            await client.post(CHAT, json=chat(f"/slow 9 {canary}", stream=stream))
    await demo.quiet()
    await asyncio.sleep(0.2)  # the log is written behind
    secret = key.removeprefix("sk-aidock-")[12:]
    for path in (demo.directory / "log", demo.directory / "stderr", *demo.data.rglob("*")):
        if path.is_file():
            held = path.read_bytes()
            assert canary.encode() not in held, path
            assert secret.encode() not in held, path
            assert demo.key.encode() not in held, path


async def test_every_call_is_a_log_line_with_its_id(demo: Gateway) -> None:
    answers = [await demo.ask(CHAT, chat()) for _ in range(3)]
    ids = {answer.headers["x-request-id"] for answer in answers}

    def logged() -> set[str]:
        return {line["http.request.id"] for line in demo.log() if line["log.logger"] == "aidock.calls"}

    await until(lambda: ids <= logged())
    lines = [line for line in demo.log() if line.get("http.request.id") in ids]
    assert len(lines) == 3
    assert {line["event.outcome"] for line in lines} == {"ok"}
    assert all(line["gen_ai.usage.output_tokens"] > 0 for line in lines)

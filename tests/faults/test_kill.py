"""A gateway that is killed under load: nothing that a client has was lost, and nothing is in the ledger twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import httpx

from gateway.ledger.directory import START, JournalDirectory
from gateway.ledger.frames import INTENT, decode_intent
from gateway.ledger.reader import Reader
from tests.support.gateway import Gateway, chat, running_gateway

CLIENTS = 12
LOAD_S = 2.0


async def call_on_and_on(gateway: Gateway, number: int, whole: set[str]) -> None:
    """Call until the gateway is gone; note the calls whose last byte arrived."""
    body = chat("/long 8", stream=True) if number % 2 else chat("Hello")
    async with gateway.client() as client:
        while True:
            try:
                async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    content = await answer.aread()
            except httpx.TransportError:
                return
            assert answer.status_code == 200
            if number % 2:
                assert content.endswith(b"data: [DONE]\n\n")
            else:
                assert json.loads(content)["usage"]
            whole.add(answer.headers["x-request-id"])


def journalled(gateway: Gateway) -> set[str]:
    """The calls that a dead gateway's journals say were begun."""
    begun: set[str] = set()
    for path in (gateway.data / "journal").iterdir():
        if path.is_dir():
            begun |= _intents(path)
    return begun


def _intents(path: Path) -> set[str]:
    home = JournalDirectory(path)
    try:
        reader, stop = Reader(home, START), home.end()
        begun: set[str] = set()
        while not reader.position.reaches(stop):
            frames = reader.read(stop, 500)
            begun |= {decode_intent(payload).request_id for kind, _, payload in frames if kind == INTENT}
        reader.close()
    finally:
        home.release()
    return begun


async def test_a_kill_under_load_loses_no_answered_call_and_charges_none_twice(tmp_path: Path) -> None:
    whole: set[str] = set()
    begun: set[str] = set()
    with running_gateway(tmp_path) as gateway:
        for _ in range(2):
            load = [asyncio.create_task(call_on_and_on(gateway, number, whole)) for number in range(CLIENTS)]
            await asyncio.sleep(LOAD_S)
            gateway.kill()
            await asyncio.gather(*load)
            begun |= journalled(gateway) | {row["request_id"] for row in gateway.rows()}
            await asyncio.to_thread(gateway.start)
        await gateway.quiet()
        rows = gateway.rows()
        print(f"{len(whole)} answered, {len(begun)} begun, {Counter(row['kind'] for row in rows)}")
        sums = gateway.daily_sums()
        assert gateway.errors() == []
    assert len(whole) > 10 * CLIENTS
    counted = Counter(row["request_id"] for row in rows)
    assert set(counted.values()) == {1}
    assert counted.keys() == begun
    charged = {row["request_id"] for row in rows if row["kind"] == "charge"}
    assert whole <= charged
    assert {row["kind"] for row in rows} <= {"charge", "orphan"}
    assert all(row["status"] == 0 and row["usage_source"] is None for row in rows if row["kind"] == "orphan")
    assert sums == {
        "requests": len(rows),
        "refunds": 0,
        "prompt_tokens": sum(row["prompt_tokens"] or 0 for row in rows),
        "completion_tokens": sum(row["completion_tokens"] or 0 for row in rows),
        "cost_microusd": 0,
    }

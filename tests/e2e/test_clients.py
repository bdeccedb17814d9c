"""Clients that leave: the upstream is let go at once, what was produced is in the ledger, and nothing stays held."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.core.limits import Limit
from tests.e2e import wire
from tests.e2e.conftest import Proxying
from tests.support.gateway import Gateway, chat, running_gateway
from tests.support.misbehaving import Expect, Peer, Send, Step, Wait, chunk
from tests.support.redis_server import redis_server
from tests.support.until import until

LET_GO_S = 0.2
BUSY_BOX_S = 0.3
"""What other programs on the machine may add to the above."""


@dataclass
class UntilGone:
    """Wait for the gateway to leave, and note when it did."""

    gone_at: float | None = field(default=None, init=False)

    async def play(self, peer: Peer) -> None:
        try:
            while await peer.reader.read(65_536):
                pass
        finally:
            self.gone_at = time.monotonic()


@dataclass
class Caller:
    """A client at the level of bytes, which can leave at any moment."""

    gateway: Gateway
    key: str
    received: bytes = b""

    async def ask(self, body: dict[str, Any]) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        payload = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {self.key}\r\n"
        self.writer.write(f"{head}content-length: {len(payload)}\r\n\r\n".encode() + payload)

    async def read_until(self, mark: bytes) -> None:
        while mark not in self.received:
            data = await self.reader.read(65_536)
            assert data, f"the stream ended early: {self.received!r}"
            self.received += data

    def leave(self) -> float:
        """Close; the moment of it."""
        self.writer.close()
        return time.monotonic()

    def vanish(self) -> None:
        """Close with a RST, which cannot be taken for a client that has merely said all it has to say."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


async def let_go(upstream: UntilGone, left_at: float) -> None:
    await until(lambda: upstream.gone_at is not None)
    assert upstream.gone_at is not None
    took = upstream.gone_at - left_at
    print(f"the upstream was let go after {took * 1000:.1f} ms")
    assert took < LET_GO_S + BUSY_BOX_S


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_leaving_before_the_first_byte_lets_go_and_charges_the_prompt(proxying: Proxying, streamed: bool) -> None:
    user, key = await proxying.new_user()
    watch = UntilGone()
    async with proxying.upstream([Expect(), watch]) as upstream:
        caller = Caller(proxying.gateway, key)
        await caller.ask(chat(model="priced", stream=streamed))
        await until(lambda: bool(upstream.requests))
        await let_go(watch, caller.leave())
    row = await proxying.gateway.last_row(user)
    assert (row["kind"], row["outcome"], row["status"]) == ("charge", "client_gone", 0)
    assert (row["usage_source"], row["completion_tokens"]) == ("estimated", 0)
    assert row["cost_microusd"] == row["prompt_tokens"] > 0


async def test_leaving_inside_a_stream_lets_go_and_charges_what_was_produced(proxying: Proxying) -> None:
    user, key = await proxying.new_user()
    watch = UntilGone()
    begun = wire.STREAM_HEAD + chunk(b"".join(wire.delta(word) for word in ("one ", "two ", "three")))
    async with proxying.upstream([Expect(), Send(begun), watch]):
        caller = Caller(proxying.gateway, key)
        await caller.ask(chat(model="priced", stream=True))
        await caller.read_until(b"three")
        await let_go(watch, caller.leave())
    row = await proxying.gateway.last_row(user)
    assert (row["kind"], row["outcome"], row["status"]) == ("charge", "client_gone", 200)
    assert (row["usage_source"], row["completion_tokens"]) == ("estimated", 3)
    assert row["cost_microusd"] == row["prompt_tokens"] + 2 * 3
    assert row["first_token_ms"] is not None


async def test_leaving_inside_a_plain_answer_lets_go(proxying: Proxying) -> None:
    user, key = await proxying.new_user()
    watch = UntilGone()
    async with proxying.upstream([Expect(), Send(wire.WHOLE[:-20]), watch]) as upstream:
        caller = Caller(proxying.gateway, key)
        await caller.ask(chat(model="priced"))
        await until(lambda: bool(upstream.requests))
        await asyncio.sleep(0.05)
        await let_go(watch, caller.leave())
    assert (await proxying.gateway.last_row(user))["outcome"] == "client_gone"


async def test_a_draining_upstream_is_read_to_its_end_and_charged_as_it_reports(proxying: Proxying) -> None:
    user, key = await proxying.new_user()
    rest = chunk(wire.delta("lo") + wire.delta("", "stop") + wire.usage_event() + wire.DONE) + chunk(b"")
    script: list[Step] = [Expect(), Send(wire.STREAM_HEAD + chunk(wire.delta("Hel"))), Wait(0.3), Send(rest)]
    async with proxying.upstream(script):
        caller = Caller(proxying.gateway, key)
        await caller.ask(chat(model="draining", stream=True))
        await caller.read_until(b"Hel")
        caller.leave()
        row = await proxying.gateway.last_row(user)
    assert (row["outcome"], row["usage_source"], row["completion_tokens"]) == ("client_gone", "upstream", 5)
    assert row["cost_microusd"] == wire.COST_OF_USAGE


async def test_the_only_place_of_a_client_that_left_is_free_at_once(proxying: Proxying) -> None:
    gateway = proxying.gateway
    user, key = await proxying.new_user()
    await gateway.limit(key, Limit("user", user, "parallel", "none", 1))
    watch = UntilGone()
    async with proxying.upstream([Expect(), watch], [Expect(), Send(wire.WHOLE)]) as upstream:
        caller = Caller(gateway, key)
        await caller.ask(chat(model="priced"))
        await until(lambda: bool(upstream.requests))
        refused = await gateway.ask("/v1/chat/completions", chat(model="priced"), key=key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        await let_go(watch, caller.leave())
        served = await gateway.ask("/v1/chat/completions", chat(model="priced"), key=key)
    assert served.status_code == 200


async def test_leaving_while_the_counters_are_asked_reaches_no_upstream_and_holds_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("counted")
    with redis_server() as redis:
        config = {"storage": {"counters": redis.url}, "quotas": [{"scope": "global", "metric": "parallel", "limit": 1}]}
        with running_gateway(directory, config) as gateway:
            assert (await gateway.ask("/v1/chat/completions", chat())).status_code == 200
            redis.pause()
            caller = Caller(gateway, gateway.key)
            await caller.ask(chat("/long 1000", stream=True))
            await asyncio.sleep(0.05)
            caller.vanish()
            await asyncio.sleep(0.1)
            redis.resume()
            await until(_free(gateway))
            assert (await gateway.ask("/v1/chat/completions", chat())).status_code == 200
            await gateway.quiet()
            kinds = [(row["outcome"], row["kind"], row["attempts"]) for row in gateway.rows()]
            assert sorted(kinds) == [("client_gone", "refund", 1), ("ok", "charge", 1), ("ok", "charge", 1)]
            assert gateway.errors() == []


def _free(gateway: Gateway) -> Callable[[], Any]:
    async def free() -> bool:
        return (await gateway.me())["limits"]["parallel", "none"]["used"] == 0

    return free


async def test_a_hundred_clients_that_leave_at_random_leave_books_that_agree(demo: Gateway) -> None:
    user = "crowd@example.com"
    key = await demo.issue(user)
    await demo.limit(
        key,
        Limit("user", user, "requests", "month", 10_000),
        Limit("user", user, "tokens", "month", 10**9),
        Limit("user", user, "parallel", "none", 1000),
    )
    chance = random.Random(7)

    async def come_and_go(number: int) -> bytes:
        await asyncio.sleep(chance.random() * 0.5)
        caller = Caller(demo, key)
        await caller.ask(chat(f"/long {chance.randint(1, 40)}", stream=number % 3 > 0))
        try:
            async with asyncio.timeout(chance.random() * 0.6):
                await caller.read_until(b"[DONE]")
        except TimeoutError:
            pass
        except AssertionError:
            assert b"[DONE]" in caller.received or number % 3 == 0
        caller.leave()
        return caller.received

    replies = await asyncio.gather(*(come_and_go(number) for number in range(100)))
    await demo.quiet()
    rows = demo.rows("user = ?", user)
    ids = [row["request_id"] for row in rows]
    assert len(ids) == len(set(ids))
    assert {_request_id(reply) for reply in replies if b"\r\n\r\n" in reply} <= set(ids)
    assert {row["outcome"] for row in rows} <= {"ok", "client_gone"}
    used = {metric: limit["used"] for (metric, _), limit in (await demo.me(key))["limits"].items()}
    assert used == {
        "requests": sum(row["kind"] == "charge" for row in rows),
        "tokens": sum((row["prompt_tokens"] or 0) + (row["completion_tokens"] or 0) for row in rows),
        "parallel": 0,
    }
    assert demo.errors() == []


def _request_id(reply: bytes) -> str:
    return reply.partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()

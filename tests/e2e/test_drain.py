"""The end of a gateway: announced, awaited, and survived by its books."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import httpx

from tests.e2e import wire
from tests.support.gateway import Gateway, chat, running_gateway
from tests.support.until import until

CHAT = "/v1/chat/completions"


async def stream_begun(gateway: Gateway, text: str) -> asyncio.Task[httpx.Response]:
    """A streamed call that is under way."""
    task = asyncio.create_task(gateway.ask(CHAT, chat(text, stream=True)))

    async def running() -> bool:
        return await gateway.metric("aidock_inflight_requests") >= 1

    await until(running)
    return task


async def test_the_first_signal_is_announced_and_lets_streams_finish(tmp_path: Path) -> None:
    with running_gateway(tmp_path, environ={"AIDOCK_SERVER__DRAIN_NOTICE": "2"}) as gateway:
        streaming = await stream_begun(gateway, "/long 160")
        gateway.signal(signal.SIGTERM)

        async def not_ready() -> bool:
            return (await gateway.ask("/readyz")).status_code == 503

        await until(not_ready, 1.5)
        assert (await gateway.ask("/livez")).status_code == 200
        assert (await gateway.ask(CHAT, chat())).status_code == 200, "during the notice calls are still taken"

        async def refused() -> bool:
            try:
                await gateway.ask("/livez")
            except httpx.ConnectError:
                return True
            except (httpx.RemoteProtocolError, httpx.ReadError):
                pass  # it had connected, but not asked yet, when the listener closed
            return False

        await until(refused)
        assert not streaming.done(), "the stream was to outlive the listener"
        answer = await streaming
        assert answer.content.endswith(wire.DONE)
        assert await gateway.ended() == 0
        assert [row["outcome"] for row in gateway.rows()] == ["ok", "ok"]
        assert answer.headers["x-request-id"] in {row["request_id"] for row in gateway.rows()}
        assert gateway.errors() == []


async def test_what_outlives_the_grace_is_told_and_charged(tmp_path: Path) -> None:
    with running_gateway(tmp_path, environ={"AIDOCK_SERVER__DRAIN_SECONDS": "0.3"}) as gateway:
        streaming = await stream_begun(gateway, "/long 4000")
        waiting = asyncio.create_task(gateway.ask(CHAT, chat("/slow 60")))
        await asyncio.sleep(0.3)
        gateway.signal(signal.SIGTERM)
        streamed, plain = await asyncio.gather(streaming, waiting)
        assert await gateway.ended() == 0
    *_, last = wire.payloads(streamed.content)
    assert last["error"]["code"] == "server_shutdown"
    assert wire.DONE not in streamed.content
    assert (plain.status_code, plain.json()["error"]["code"]) == (503, "server_shutdown")
    rows = {row["request_id"]: row for row in gateway.rows()}
    assert len(rows) == 2
    charged = rows[streamed.headers["x-request-id"]]
    assert (charged["kind"], charged["usage_source"], charged["status"]) == ("charge", "estimated", 200)
    assert charged["completion_tokens"] > 0
    refunded = rows[plain.headers["x-request-id"]]
    assert (refunded["kind"], refunded["status"]) == ("refund", 503)


async def test_the_second_signal_ends_at_once_and_the_next_start_finds_what_was_lost(tmp_path: Path) -> None:
    with running_gateway(tmp_path) as gateway:
        streaming = await stream_begun(gateway, "/long 4000")
        gateway.signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        asked_at = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended() == 1
        assert time.monotonic() - asked_at < 2
        (broken,) = await asyncio.gather(streaming, return_exceptions=True)
        assert isinstance(broken, httpx.TransportError)
        assert gateway.rows() == []
        await asyncio.to_thread(gateway.start)
        (row,) = gateway.rows()
        assert (row["kind"], row["status"], row["cost_microusd"]) == ("orphan", 0, 0)
        assert (await gateway.ask(CHAT, chat())).status_code == 200
        assert gateway.errors() == []

"""A configuration that changes under a running gateway: seen within two seconds, or refused with its place named."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.support.gateway import Gateway, chat, running_gateway
from tests.support.until import until

TAKEN_UP_S = 2.0
BUSY_BOX_S = 3.0
LOCKED_OUT_S = 40.0
"""Each writer waits for SQLite's lock for five seconds, one after the other, before it gives up."""
BROKEN = "models:\n  - model_id: a\n    provider: demo\n    colour: blue\n"


def config(*models: str, **members: Any) -> dict[str, Any]:
    served = [{"model_id": model, "provider": "demo", "display_name": "${file:secret}"} for model in models]
    return {"providers": {"demo": {"dialect": "demo"}}, "models": served, **members}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("reload")
    (directory / "secret").write_text("first")
    with running_gateway(directory, config("a")) as running:
        yield running


async def begin_with(gateway: Gateway, *models: str, **members: Any) -> None:
    """Have a configuration in force, without waiting for its file to be looked at."""
    gateway.write_config(config(*models, **members))
    gateway.signal(signal.SIGHUP)
    await until(lists(gateway, *models))


def lists(gateway: Gateway, *models: str) -> Callable[[], Awaitable[bool]]:
    async def listed() -> bool:
        data = (await gateway.ask("/v1/models")).json()["data"]
        return [model["id"] for model in data] == list(models)

    return listed


async def test_a_changed_file_is_in_force_within_two_seconds_and_streams_go_on(gateway: Gateway) -> None:
    await begin_with(gateway, "a")
    streaming = asyncio.create_task(gateway.ask("/v1/chat/completions", chat("/long 120", model="a", stream=True)))
    await asyncio.sleep(0.3)
    gateway.write_config(config("b", "c"))
    written_at = time.monotonic()
    await until(lists(gateway, "b", "c"), TAKEN_UP_S + BUSY_BOX_S)
    took = time.monotonic() - written_at
    print(f"in force after {took:.1f} s")
    assert not streaming.done(), "the stream was to be longer than the change"
    assert (await gateway.ask("/v1/chat/completions", chat(model="a"))).status_code == 404
    assert (await gateway.ask("/v1/chat/completions", chat(model="b"))).status_code == 200
    answer = await streaming
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert answer.content.count(b'"content"') == 121
    assert (await gateway.row(answer.headers["x-request-id"]))["model_id"] == "a"


async def test_a_broken_file_changes_nothing_and_its_fault_is_named_by_line_and_column(gateway: Gateway) -> None:
    await begin_with(gateway, "a")
    gateway.write_config(BROKEN)
    place = f"{gateway.config_file.name}:4:"

    async def told() -> bool:
        return place in (await gateway.ask("/readyz?verbose")).text

    await until(told, TAKEN_UP_S + BUSY_BOX_S)
    ready = await gateway.ask("/readyz?verbose")
    assert ready.status_code == 200, "the configuration before still serves"
    assert "colour" in ready.text
    assert await gateway.metric("aidock_config_last_reload_successful") == 0
    assert (await gateway.ask("/v1/chat/completions", chat(model="a"))).status_code == 200
    assert any(place in line["message"] for line in gateway.errors())

    gateway.write_config(config("a", "d"))
    await until(lists(gateway, "a", "d"), TAKEN_UP_S + BUSY_BOX_S)
    assert await gateway.metric("aidock_config_last_reload_successful") == 1
    assert place not in (await gateway.ask("/readyz?verbose")).text


async def test_sighup_reads_again_what_no_file_time_gives_away(gateway: Gateway) -> None:
    await begin_with(gateway, "a")
    (gateway.directory / "secret").write_text("second")
    gateway.signal(signal.SIGHUP)

    async def renamed() -> bool:
        return (await gateway.ask("/v1/models/a")).json()["display_name"] == "second"

    await until(renamed, TAKEN_UP_S + BUSY_BOX_S)


async def test_a_new_cap_on_calls_at_once_binds_those_that_come_after(gateway: Gateway) -> None:
    await begin_with(gateway, "a", "capped", server={"max_inflight": 1, "max_queue": 0})
    streaming = asyncio.create_task(gateway.ask("/v1/chat/completions", chat("/long 20", model="a", stream=True)))

    async def running() -> bool:
        return await gateway.metric("aidock_inflight_requests") == 1

    await until(running)
    refused = await gateway.ask("/v1/chat/completions", chat(model="a"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert refused.headers["retry-after"] == "1"
    assert (await streaming).status_code == 200
    assert (await gateway.ask("/v1/chat/completions", chat(model="a"))).status_code == 200


async def test_limits_and_prices_that_change_while_the_database_is_away_are_in_force_when_it_is_back(
    gateway: Gateway,
) -> None:
    await begin_with(gateway, "a")
    calls = {"scope": "model", "subject": "e", "metric": "requests", "limit": 1, "window": "day"}
    with closing(sqlite3.connect(gateway.data / "aidock.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        gateway.write_config(config("a", "e", quotas=[calls]))
        await until(lists(gateway, "a", "e"), TAKEN_UP_S + BUSY_BOX_S)

        async def waits() -> bool:
            return "limits wait to be counted up" in (await gateway.ask("/readyz?verbose")).text

        await until(waits)
        await until(lambda: any("limits wait" in line["message"] for line in gateway.log()), LOCKED_OUT_S)
        other.execute("ROLLBACK")

    async def in_force() -> bool:
        return not await waits()

    await until(in_force, LOCKED_OUT_S)
    statuses = [(await gateway.ask("/v1/chat/completions", chat(model="e"))).status_code for _ in range(2)]
    assert statuses == [200, 429]
    await gateway.reconcile()


async def test_places_that_a_reload_adds_go_to_those_who_wait(gateway: Gateway) -> None:
    async def waiting() -> bool:
        return await gateway.metric("aidock_queue_depth") == 1

    async def nobody_waits() -> bool:
        return not await waiting()

    await begin_with(gateway, "a", server={"max_inflight": 1})
    ask = chat("/long 120", model="a", stream=True)
    calls = [asyncio.create_task(gateway.ask("/v1/chat/completions", ask)) for _ in range(2)]
    await until(waiting)
    await begin_with(gateway, "a", "b", server={"max_inflight": 2})
    await until(nobody_waits)
    assert not any(call.done() for call in calls), "no place came free"
    assert [call.status_code for call in await asyncio.gather(*calls)] == [200, 200]

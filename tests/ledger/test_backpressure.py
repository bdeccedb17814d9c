"""A gateway whose database is away and whose journal is full: it makes no call that it cannot enter in its books."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.billing_upstream import Plan, billing_upstream
from tests.support.gateway import Gateway, chat, running_gateway
from tests.support.postgres_server import PostgresServer
from tests.support.until import until

BOUND = 65_536
_AT_ONCE = 8

GoesAway = Callable[[Gateway], AbstractContextManager[None]]


@contextmanager
def locked(gateway: Gateway) -> Iterator[None]:
    """Another process holds SQLite's write lock and does not let go."""
    with closing(sqlite3.connect(gateway.data / "aidock.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.fixture(params=["SQLite locked", "PostgreSQL stopped"])
def away(
    request: pytest.FixtureRequest,
) -> Iterator[tuple[dict[str, Any], GoesAway]]:
    """Where the database is, and how it goes away for a while."""
    if request.param == "SQLite locked":
        yield {}, locked
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.database()

    @contextmanager
    def stopped(_gateway: Gateway) -> Iterator[None]:
        server.stop()
        yield
        server.start()

    yield {"database": url}, stopped
    server.drop(url)


async def ask(gateway: Gateway, plan: Plan, nonce: str, **members: Any) -> tuple[int, str]:
    """Status, and the error's code or the request's id."""
    body = chat(plan.text(nonce), model="billed", max_tokens=8, **members)
    answer = await gateway.ask("/v1/chat/completions", body)
    return answer.status_code, answer.headers["x-request-id"] if answer.is_success else answer.json()["error"]["code"]


async def test_no_upstream_is_called_when_neither_journal_nor_database_can_take_the_intent(
    tmp_path: Path, away: tuple[dict[str, Any], GoesAway]
) -> None:
    storage, goes_away = away
    with billing_upstream() as upstream:
        provider = {"base_url": upstream.url, "api_key": "sk-upstream-0123456789abcdef", "max_retries": 0}
        config = {
            "storage": {**storage, "journal_bytes": BOUND},
            "providers": {"billed": provider},
            "models": [{"model_id": "billed", "provider": "billed", "price": {"input": 1.0, "output": 2.0}}],
        }
        with running_gateway(tmp_path, config) as gateway:
            status, first = await ask(gateway, Plan(), "before")
            assert status == 200
            await gateway.quiet()
            with goes_away(gateway):
                running = asyncio.create_task(ask(gateway, Plan(chunks=9, stall=2), "running", stream=True))
                await until(lambda: upstream.open == 1)
                answers = await until_refused(gateway)
                refused = [answer for status, answer in answers if status != 200]
                assert set(refused) == {"accounting_unavailable"}
                taken = {answer for status, answer in answers if status == 200} | {first}
                asked_before = len(upstream.bills)
                assert asked_before == len(taken) + 1, "an upstream was called for a call that was refused"
                more = await asyncio.gather(*(ask(gateway, Plan(), f"refused{n}") for n in range(20)))
                assert Counter(more) == {(503, "accounting_unavailable"): 20}
                assert len(upstream.bills) == asked_before
                assert sum(file.stat().st_size for file in (gateway.data / "journal").glob("*/*.seg")) <= BOUND
                ready = await gateway.ask("/readyz?verbose")
                assert (ready.status_code, "full" in ready.text) == (503, True)
                assert (await gateway.ask("/livez")).status_code == 200
                running.cancel()  # its client leaves; what was accepted is booked all the same
                await asyncio.wait([running])
                await until(lambda: not upstream.open)

            async def welcome() -> bool:
                return (await ask(gateway, Plan(), "after"))[0] == 200

            await until(welcome, 30)
            await gateway.quiet()
            booked = {row["request_id"]: row["kind"] for row in gateway.rows()}
            assert taken <= booked.keys()
            assert booked.keys() == upstream.book.keys()
            assert set(booked.values()) == {"charge"}
            ready = await gateway.ask("/readyz?verbose")
            assert ready.status_code == 200, ready.text
            await gateway.reconcile()


async def until_refused(gateway: Gateway) -> list[tuple[int, str]]:
    """Calls, a few at a time, until every one of a few is refused: what some held in reserve has room for others."""
    answers: list[tuple[int, str]] = []
    while not answers or any(status == 200 for status, _ in answers[-_AT_ONCE:]):
        assert len(answers) < 2000, "the journal has no bound"
        answers += await asyncio.gather(*(ask(gateway, Plan(), f"n{len(answers) + n}") for n in range(_AT_ONCE)))
    return answers

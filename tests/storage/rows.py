"""Ledger rows to try things with, and what a database holds of them."""

from __future__ import annotations

import random
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select

from gateway.core.records import OutcomeRecord
from gateway.storage import daily, ledger
from gateway.storage.engine import Database
from gateway.storage.tables import LEDGER, USAGE_DAILY
from tests.ledger.support import CREATED_AT, outcome

BERLIN = ZoneInfo("Europe/Berlin")
NOON = CREATED_AT
_USUAL: dict[str, Any] = {
    "user": "ada@example.com",
    "key_id": "AbCdEf012345",
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "cached_tokens": 10,
    "cost_microusd": 1_500,
    "price_version": "v1",
}


def row(request_id: str = "r1", **changes: Any) -> OutcomeRecord:
    return outcome(request_id, **{**_USUAL, **changes})


def orphan(request_id: str = "r1", **changes: Any) -> OutcomeRecord:
    """What a call leaves that nobody saw the end of."""
    nothing = dict.fromkeys(("prompt_tokens", "completion_tokens", "cached_tokens", "usage_source", "first_token_ms"))
    unknown = {"kind": "orphan", "status": 0, "outcome": "upstream_error", "cost_microusd": 0, "latency_ms": 0}
    return row(request_id, **{**nothing, **unknown, **changes})


def many(count: int, seed: int = 7) -> list[OutcomeRecord]:
    """Rows of every kind over three days, several of each grouping."""
    dice = random.Random(seed)
    return [
        row(
            f"{seed}-{number}",
            kind=dice.choice(["charge", "charge", "charge", "refund", "orphan", "adjust"]),
            created_at=NOON + dice.random() * 3 * 86_400,
            user=f"user{dice.randrange(5)}@example.com",
            department=f"department {dice.randrange(3)}",
            key_id=f"key{dice.randrange(6)}",
            model_id=f"model-{dice.randrange(3)}",
            prompt_tokens=dice.choice([None, dice.randrange(10_000)]),
            completion_tokens=dice.randrange(-50, 5_000),
            cost_microusd=dice.randrange(-500, 100_000),
            units=number if number % 3 else None,
            unit="second" if number % 3 else None,
            saved_microusd=dice.choice([0, dice.randrange(100_000)]),
        )
        for number in range(count)
    ]


async def insert(database: Database, *rows: OutcomeRecord) -> int:
    """In one transaction; how many were new."""
    async with database.write() as session:
        return await ledger.insert_rows(session, rows, BERLIN)


async def dump(database: Database) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Everything in the ledger and in the daily sums."""
    async with database.read() as session:
        rows = (await session.execute(select(LEDGER).order_by(*LEDGER.primary_key))).all()
        days = (await session.execute(select(USAGE_DAILY).order_by(*USAGE_DAILY.primary_key))).all()
    return [tuple(r) for r in rows], [tuple(d) for d in days]


async def assert_daily_sums_equal_the_ledger(database: Database) -> None:
    _, days = await dump(database)
    async with database.write() as session:
        await daily.rebuild(session, BERLIN)
    assert (await dump(database))[1] == days

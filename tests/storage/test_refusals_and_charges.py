"""Refusals in shadow add up, and charges are read page by page with their adjustments."""

from __future__ import annotations

from datetime import UTC

import pytest

from gateway.storage import api_keys, charges, ledger, shadow
from gateway.storage.engine import Database
from gateway.storage.shadow import Refused, Tally
from tests.ledger.support import CREATED_AT, outcome
from tests.support.database import issue_key

ADA = Refused("2026-11-01", "quota", "user", "ada", "tokens", "day", "research", "ada", "k1", "m")
EVE = ADA._replace(day="2026-11-02", user="eve", subject="eve")


async def test_tallies_add_up_and_keep_the_latest_moment(database: Database) -> None:
    for tallies in ({ADA: Tally(2, 20.5), EVE: Tally(1, 5.0)}, {ADA: Tally(3, 10.0)}):
        async with database.write() as session:
            await shadow.add(session, tallies)
    async with database.read() as session:
        assert await shadow.report(session, ["user", "key"]) == [
            {"user": "ada", "key": "k1", "refused": 5, "last_at": 20.5},
            {"user": "eve", "key": "k1", "refused": 1, "last_at": 5.0},
        ]
        assert await shadow.report(session, []) == [{"refused": 6, "last_at": 20.5}]
        assert [row["user"] for row in await shadow.report(session, ["user"], "2026-11-02", "2026-11-02")] == ["eve"]
        assert await shadow.report(session, [], "2027-01-01") == []


async def test_nothing_to_add_is_nothing(database: Database) -> None:
    async with database.write() as session:
        await shadow.add(session, {})
    async with database.read() as session:
        assert await shadow.report(session, ["policy"]) == []


async def test_charges_come_with_their_adjustments_in_the_order_of_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charges, "PAGE", 2)
    end = outcome("a", prompt_tokens=100, completion_tokens=10, cached_tokens=5, cost_microusd=50)
    end = end._replace(units=3, unit="image")
    orphan = outcome(
        "b", kind="orphan", prompt_tokens=None, completion_tokens=None, cost_microusd=0, created_at=CREATED_AT + 1
    )
    more = end._replace(kind="adjust", prompt_tokens=1, completion_tokens=None, cached_tokens=None, cost_microusd=-7)
    more = more._replace(units=1)
    rows = [
        end,
        orphan,
        end._replace(request_id="c", created_at=CREATED_AT + 1),
        end._replace(request_id="d", kind="refund", created_at=CREATED_AT + 2),
        end._replace(request_id="e", created_at=CREATED_AT + 3),
        more._replace(number=1),
        more._replace(number=2),
    ]
    async with database.write() as session:
        await ledger.insert_rows(session, rows, UTC)
    found = []
    async with database.read() as session:
        while page := await charges.page(session, CREATED_AT, CREATED_AT + 3, None, found[-1] if found else None):
            assert len(page) <= 2
            found += page
    assert [call.end.request_id for call in found] == ["a", "b", "c"]
    assert found[0] == (end, 102, 10, 5, 36, 2, 5, "image")
    assert found[1][1:] == (None, 0, 0, 0, 0, 0, None)
    assert found[2].adjusted == 0
    async with database.read() as session:
        assert await charges.page(session, 0.0, CREATED_AT + 9, "another") == []


async def test_holders_are_found_by_key_and_by_user_with_their_role(database: Database) -> None:
    texts = [await issue_key(database) for _ in range(2)]
    names = {text.removeprefix("sk-aidock-")[:12] for text in texts}
    async with database.read() as session:
        found = await api_keys.holders_by_user(session, "ada@example.com")
        assert {holder.public_id for holder in found} == names
        one = await api_keys.holder_of(session, found[0].public_id)
        assert one == found[0]
        assert one is not None
        assert (one.user, one.role) == ("ada@example.com", "user")
        assert await api_keys.holder_of(session, "nobody") is None

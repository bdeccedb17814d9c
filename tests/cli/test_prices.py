"""`aidock prices`: what tokens cost, and what past calls would."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from gateway.storage import ledger
from gateway.storage.engine import Database
from tests.cli.command import Shell
from tests.ledger.support import outcome

NOON = datetime(2026, 11, 3, 12, tzinfo=UTC).timestamp()
DAYS = ("--from", "2026-11-01", "--to", "2026-11-30")
CONFIG = """
models:
  - model_id: fast
    base_url: http://127.0.0.1:1/v1
    price:
      - {input: 1, output: 2}
      - {from: 2026-11-03, input: 3, output: 4, cached_input: 0.5}
"""


def fill(shell: Shell, *request_ids: str) -> None:
    async def work() -> None:
        database = Database.open(f"sqlite:///{shell.data / 'aidock.db'}", shell.data)
        rows = [
            outcome(each, created_at=NOON, model_id="fast", provider="fast", upstream_model="fast", cost_microusd=120)
            for each in request_ids
        ]
        rows = [row._replace(prompt_tokens=100, completion_tokens=10) for row in rows]
        async with database.write() as session:
            await ledger.insert_rows(session, rows, ZoneInfo("UTC"))
        await database.close()

    asyncio.run(work())


def configured(shell: Shell) -> dict[str, str]:
    return {"AIDOCK_CONFIG": str(shell.write("aidock.yaml", CONFIG))}


def test_prices_are_listed_with_the_day_from_which_they_hold(shell: Shell) -> None:
    env = configured(shell)
    first, second = shell.ok("prices", "list", "--json", env=env).json
    version = first.pop("version")
    assert version.startswith("aidock.yaml:always:")
    units = dict.fromkeys(("per_image", "per_minute", "per_million_characters", "per_search"))
    assert first == {"model": "fast", "input": 1.0, "cached_input": 1.0, "output": 2.0, **units, "from": None}
    assert (second["from"], second["input"], second["cached_input"]) == ("2026-11-03", 3.0, 0.5)
    assert shell.ok("prices", "list", env=env).out.splitlines()[2].split()[:5] == [
        "fast",
        "3",
        "0.5",
        "4",
        "2026-11-03",
    ]


def test_the_difference_is_shown_before_anything_is_written(shell: Shell) -> None:
    env = configured(shell)
    fill(shell, "r1", "r2")
    shown = shell.ok("prices", "reprice", *DAYS, "--json", env=env)
    expected: dict[str, Any] = {
        "model": "fast",
        "day": "2026-11-03",
        "calls": 2,
        "changed": 2,
        "unpriced": 0,
        "charged_usd": 0.00024,
        "would_cost_usd": 0.00068,
        "difference_usd": 0.00044,
    }
    assert shown.json == {"adjusted": 0, "differences": [expected]}
    assert "nothing was written" in shown.err
    assert shell.ok("usage", "--request", "r1", "--json").json["adjustments"] == []
    assert shell.ok("prices", "reprice", *DAYS, "--model", "slow", "--json", env=env).json["differences"] == []


def test_without_a_terminal_it_writes_only_when_told_yes(shell: Shell) -> None:
    env = configured(shell)
    fill(shell, "r1", "r2")
    refused = shell.aidock("prices", "reprice", *DAYS, "--apply", env=env)
    assert (refused.code, refused.out) == (2, "")
    assert "needs --yes" in refused.err
    applied = shell.ok("prices", "reprice", *DAYS, "--apply", "--yes", "--json", env=env)
    assert (applied.json["adjusted"], applied.json["differences"][0]["difference_usd"]) == (2, 0.00044)
    assert "2 calls were adjusted" in applied.err
    again = shell.ok("prices", "reprice", *DAYS, "--apply", "--yes", "--json", env=env)
    (same,) = again.json["differences"]
    assert (again.json["adjusted"], same["changed"], same["charged_usd"]) == (0, 0, 0.00068)
    assert "charged what it would cost" in again.err
    receipt = shell.ok("usage", "--request", "r2", "--json").json
    assert [each["cost_usd"] for each in receipt["adjustments"]] == [0.00022]
    assert receipt["adjustments"][0]["prices"]["input"] == 3.0, "and what the version means is remembered"
    (month,) = shell.ok("usage", "--by", "model", "--json").json
    assert (month["requests"], month["cost_usd"]) == (2, 0.00068)


def test_days_in_the_wrong_order_are_refused(shell: Shell) -> None:
    refused = shell.aidock("prices", "reprice", "--from", "2026-11-02", "--to", "2026-11-01")
    assert (refused.code, "--to is before --from" in refused.err) == (2, True)

"""`aidock quotas explain`: the exit code is the answer, the words are the gateway's own."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gateway.core.limits import Limit
from gateway.identity.keys import PREFIX
from gateway.storage import ledger
from gateway.storage.engine import Database
from tests.cli.command import Shell
from tests.ledger.support import outcome
from tests.support.gateway import chat, running_gateway
from tests.support.redis_server import redis_server

ADA = ("--user", "ada@example.com", "--model", "demo")
QUOTA = ("user", "ada@example.com", "tokens")


def prepared(shell: Shell) -> str:
    """Ada, with a budget of 1000 tokens a day; the public id of her key."""
    shell.ok("departments", "create", "research")
    shell.ok("users", "create", "ada@example.com", "--department", "research")
    key = shell.ok("keys", "create", "--user", "ada@example.com").out.strip()
    shell.ok("quotas", "set", *QUOTA, "1000", "day")
    return key.removeprefix(PREFIX)[:12]


def spend(shell: Shell, tokens: int) -> None:
    async def work() -> None:
        database = Database.open(f"sqlite:///{shell.data / 'aidock.db'}", shell.data)
        row = outcome("r1", user="ada@example.com", created_at=time.time(), prompt_tokens=tokens, completion_tokens=0)
        async with database.write() as session:
            await ledger.insert_rows(session, [row], ZoneInfo("UTC"))
        await database.close()

    asyncio.run(work())


def test_without_a_gateway_limits_stand_where_the_ledger_says(shell: Shell) -> None:
    key = prepared(shell)
    passes = shell.ok("quotas", "explain", *ADA, "--max-tokens", "500")
    assert passes.out.startswith("The call would pass.\n")
    assert key in passes.out
    spend(shell, 700)
    refused = shell.aidock("quotas", "explain", *ADA, "--max-tokens", "500", "--json")
    assert refused.code == 1
    (limit,) = refused.json["limits"]
    assert (limit["limit"], limit["used"], limit["remaining"], limit["needed"]) == (1000, 700, 300, 501)
    assert (limit["verdict"], refused.json["decision"]["decided_by"]) == ("no_room", "quota")
    shown = shell.aidock("quotas", "explain", *ADA, "--prompt-tokens", "400")
    assert (shown.code, shown.err) == (1, "")
    assert "refused by quota: 429 insufficient_quota\nQuota of user ada@example.com used up: limit 1000" in shown.out


def test_a_cap_that_can_shrink_lets_the_call_pass_and_one_that_the_client_set_does_not(shell: Shell) -> None:
    prepared(shell)
    spend(shell, 700)
    answer = shell.ok("quotas", "explain", *ADA, "--prompt-tokens", "100", "--json").json
    assert answer["demand"]["output_cap"] == 200, "as the gateway would tell the upstream"
    assert answer["limits"][0]["needed"] == 300
    capped = ("--prompt-tokens", "100", "--max-tokens", "201")
    assert shell.aidock("quotas", "explain", *ADA, *capped).code == 1


def test_a_question_that_cannot_be_answered_says_why(shell: Shell) -> None:
    key = prepared(shell)
    for words, code, said in (
        (("--model", "demo"), 2, "Say who would call"),
        (("--user", "ad@example.com", "--model", "demo"), 1, "Did you mean 'ada@example.com'?"),
        (("--user", "eve@example.com", "--key", key, "--model", "demo"), 1, "There is no API key"),
        ((*ADA, "--endpoint", "chat"), 2, "there is no endpoint 'chat'"),
    ):
        result = shell.aidock("quotas", "explain", *words)
        assert (result.code, result.out, result.traceback) == (code, "", False)
        assert said in result.err
    unknown = shell.aidock("quotas", "explain", "--key", key, "--model", "dmo", "--json")
    assert (unknown.code, unknown.json["decision"]["code"]) == (1, "model_not_found")
    shell.ok("keys", "revoke", key)
    dead = shell.aidock("quotas", "explain", "--key", key, "--model", "demo", "--json")
    assert (dead.code, dead.json["decision"]["status"]) == (1, 401)


@pytest.mark.parametrize("counters", ["memory", "redis"])
async def test_beside_a_gateway_it_knows_what_running_calls_hold(tmp_path: Path, counters: str) -> None:
    with ExitStack() as stack:
        environ = {}
        if counters == "redis":
            environ["REDIS_URL"] = stack.enter_context(redis_server()).url
        slow = {"demo": {"dialect": "demo", "quirks": {"tokens_per_second": 1}}}
        config = {"providers": slow, "models": [{"model_id": "demo", "provider": "demo"}]}
        gateway = stack.enter_context(running_gateway(tmp_path, config, environ))
        user = "admin@localhost"
        await gateway.limit(
            gateway.key, Limit("user", user, "parallel", "none", 1), Limit("user", user, "tokens", "day", 100_000)
        )
        async with gateway.client() as client:
            body = chat("Write a long story", stream=True, max_tokens=500)
            async with client.stream("POST", "/v1/chat/completions", json=body) as running:
                assert running.status_code == 200
                question = ("quotas", "explain", "--user", user, "--model", "demo", "--json")
                beside = json.loads(await gateway.cli(*question, check=False))
                inside = (await gateway.ask("/api/v1/quotas/explain", {"model": "demo"})).json()
        used = {limit["metric"]: limit["used"] for limit in beside["limits"]}
        assert used["parallel"] == 1
        assert used["tokens"] > 500
        assert beside["decision"]["decided_by"] == "concurrency"
        for answer in (beside, inside):
            for limit in answer["limits"]:
                del limit["resets_in_seconds"]
        assert {**beside, "note": None} == inside, "the command's answer is the gateway's own"

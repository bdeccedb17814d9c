"""`POST /api/v1/quotas/explain`: about oneself, and for administrators about anybody."""

from __future__ import annotations

import json
from typing import Any

from gateway.core.limits import Limit
from gateway.identity.keys import PREFIX
from tests.admin.conftest import ADA, EVE, ROOT, Office
from tests.support.calls import a_limit
from tests.support.database import issue_key

BUDGET = Limit("user", EVE, "tokens", "day", 100)


async def explained(office: Office, caller: str = ADA, **question: Any) -> dict[str, Any]:
    answer = await office.ask("/quotas/explain", {"model": "m", **question}, user=caller)
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


def public_id(office: Office, user: str) -> str:
    return office.keys[user].removeprefix(PREFIX)[:12]


async def test_without_a_name_it_is_about_the_caller_and_her_key(office: Office) -> None:
    said = await explained(office)
    assert (said["user"], said["key"], said["note"]) == (ADA, public_id(office, ADA), None)
    assert said["decision"]["allowed"] is True
    assert (await explained(office, user=ADA, key=public_id(office, ADA)))["user"] == ADA


async def test_an_administrator_asks_about_anybody_and_reads_the_refusal_they_would(office: Office) -> None:
    await office.limit(BUDGET)
    said = await explained(office, ROOT, user="Eve@Example.com", prompt_tokens=90, max_tokens=20)
    decision = said["decision"]
    assert (said["user"], said["department"]) == (EVE, "research")
    assert (decision["decided_by"], decision["status"], decision["code"]) == ("quota", 429, "insufficient_quota")
    assert decision["message"].startswith(f"Quota of user {EVE} used up: limit 100 tokens per day, 0 tokens used")
    assert decision["limit"]["needed"] == 110
    assert (await explained(office, ROOT, user=EVE, prompt_tokens=80, max_tokens=20))["decision"]["allowed"] is True


async def test_to_everybody_else_there_are_no_others(office: Office) -> None:
    bodies = [{"user": EVE}, {"user": "nobody@example.com"}, {"key": public_id(office, EVE)}, {"key": "0" * 12}]
    said = [await office.ask("/quotas/explain", {"model": "m", **body}) for body in bodies]
    assert {answer.status_code for answer in said} == {404}
    plain = [answer.text.replace(str(*body.values()), "") for answer, body in zip(said, bodies, strict=True)]
    assert plain[0] == plain[1]
    assert plain[2] == plain[3]
    assert (
        "Did you mean"
        in (await office.ask("/quotas/explain", {"model": "m", "user": "evee@example.com"}, user=ROOT)).text
    )


async def test_a_user_with_several_keys_is_told_whose_limits_were_left_out(office: Office) -> None:
    await issue_key(office.database, user=EVE)
    key = public_id(office, EVE)
    await office.limit(a_limit("requests", 0, "day", scope="key", subject=key))
    said = await explained(office, ROOT, user=EVE)
    assert (said["key"], said["decision"]["allowed"]) == (None, True)
    assert "2 keys" in said["note"]
    assert (await explained(office, ROOT, user=EVE, key=key))["decision"]["allowed"] is False


async def test_an_example_is_measured_as_it_was_written(office: Office) -> None:
    await office.limit(a_limit("tokens", 10_000, "day", scope="user", subject=ADA))
    spaced = b'{"messages":   [ {"role": "user",    "content": "\\u00e9\\u00e9"} ], "max_tokens": 7}'
    answer = (await office.ask("/quotas/explain", b'{"model": "m", "body": %b}' % spaced)).json()
    written = len(spaced)
    assert answer["demand"]["prompt_tokens"] == written
    assert answer["limits"][0]["needed"] == written + 7
    wrong = await explained(office, body={"messages": [], "model": "m"})
    assert (wrong["decision"]["decided_by"], wrong["decision"]["status"]) == ("request", 400)


async def test_nothing_secret_is_in_an_answer(office: Office) -> None:
    await office.limit(BUDGET)
    text = json.dumps(await explained(office, ROOT, user=EVE))
    assert not any(key in text for key in office.keys.values())
    assert "127.0.0.1" not in text

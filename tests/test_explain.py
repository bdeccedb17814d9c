"""An explanation is the chain's own answer: what it says is what the call is then told."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.errors import GatewayError, invalid_api_key
from gateway.core.limits import Actual, Claim, LimitSet
from gateway.core.money import Price, PriceSchedule
from gateway.core.ports import StoreUnavailable
from gateway.core.principal import Principal
from gateway.endpoints import images_generations
from gateway.explain import Question, explain
from gateway.identity import callers
from gateway.identity.callers import Asked
from gateway.identity.keys import PREFIX
from gateway.storage import api_keys, departments, users
from gateway.storage.engine import Database
from gateway.storage.errors import NotFound
from tests.support.calls import ADA, CHAT, EMBEDDINGS, HELLO, a_limit, a_model, a_route, a_target, priced
from tests.support.database import issue_key, ready_database
from tests.support.stage import Answer, Stage, whole_answer

BODY = json.dumps(HELLO).encode()
ASKED = Asked(ADA)


def without_time(message: str) -> str:
    """A refusal's message less the seconds that pass between asking and calling."""
    return message.partition(" It resets")[0].partition(" Try again")[0]


async def asked(stage: Stage, question: Question, whom: Asked = ASKED) -> dict[str, Any]:
    return await explain(whom, question, stage.world, stage.store, stage.directory.limits)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    limits = LimitSet(rate=(a_limit("requests", 3, "minute"),), quota=(a_limit("cost", 1_000_000, "day"),))
    route = a_route(a_target(a_model(prices=priced(1_000_000, 2_000_000))))
    made = Stage(tmp_path, Answer([whole_answer()]), route=route, limits=limits)
    yield made
    await made.close()


async def test_it_names_every_limit_with_what_is_used_left_and_needed(stage: Stage) -> None:
    await stage.play(HELLO)
    answer = await asked(stage, Question("m", CHAT, None, 100, 50))
    assert answer["decision"]["allowed"] is True
    assert [(each["policy"], each["verdict"]) for each in answer["policies"]] == [
        ("rate_limit", "passes"),
        ("concurrency", "passes"),
        ("quota", "passes"),
    ]
    requests, cost = answer["limits"]
    assert (requests["limit"], requests["used"], requests["remaining"], requests["needed"]) == (3, 1, 2, 1)
    assert (requests["policy"], requests["action"], requests["verdict"]) == ("rate_limit", "deny", "fits")
    assert 0 < requests["resets_in_seconds"] <= 60
    assert (cost["limit"], cost["used"], cost["needed"]) == (1.0, 0.000013, 0.0002), "in dollars"
    assert answer["demand"] == {
        "prompt_tokens": 100,
        "output_cap": 50,
        "choices": 1,
        "tokens": 150,
        "cost_usd": 0.0002,
    }


async def test_asking_takes_nothing(stage: Stage) -> None:
    before = await stage.used()
    for _ in range(10):
        assert (await asked(stage, Question("m", CHAT, BODY)))["decision"]["allowed"]
    assert await stage.used() == before
    assert stage.transport.requests == []
    assert stage.journal.intents == []


async def test_the_deciding_rule_comes_with_the_very_words_of_the_refusal(stage: Stage) -> None:
    for _ in range(3):
        await stage.play(HELLO)
    decision = (await asked(stage, Question("m", CHAT, BODY)))["decision"]
    refused = await stage.play(HELLO)
    assert (
        (decision["status"], decision["code"])
        == (refused.status, refused.error["code"])
        == (429, "rate_limit_exceeded")
    )
    assert decision["message"].partition("Try again")[0] == refused.error["message"].partition("Try again")[0]
    assert decision["decided_by"] == "rate_limit"
    assert (decision["limit"]["used"], decision["limit"]["verdict"]) == (3, "no_room")


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    amounts=st.tuples(*[st.sampled_from([0, 1, 40, 60, 100, 5_000])] * 4),
    used=st.integers(0, 100),
    members=st.fixed_dictionaries({}, optional={"max_tokens": st.integers(1, 100), "n": st.integers(1, 3)}),
    estimate=st.sampled_from(["strict", "balanced"]),
    shadow=st.sampled_from(["", "quota", "rate_limit", "model_access"]),
    models=st.sampled_from([None, frozenset({"m"}), frozenset({"other"})]),
    action=st.sampled_from(["deny", "warn"]),
)
async def test_what_is_explained_is_what_happens(
    tmp_path: Path,
    amounts: tuple[int, ...],
    used: int,
    members: dict[str, int],
    estimate: str,
    shadow: str,
    models: frozenset[str] | None,
    action: str,
) -> None:
    requests, tokens, cost, parallel = amounts
    limits = LimitSet(
        rate=(a_limit("requests", requests, "minute"), a_limit("tokens", 5_000, "minute")),
        quota=(a_limit("tokens", tokens, "total", action=action), a_limit("cost", cost, "total")),
        parallel=(a_limit("parallel", parallel),),
    )
    policies: dict[str, dict[str, object]] = {"model_access": {}, "rate_limit": {}, "concurrency": {}}
    policies["quota"] = {"estimate": estimate} | ({"default_output_tokens": 50} if estimate == "strict" else {})
    if shadow:
        policies[shadow] = policies[shadow] | {"shadow": True}
    route = a_route(a_target(a_model(prices=priced(1_000_000, 1_000_000))))
    stage = Stage(tmp_path, Answer([whole_answer()]), route=route, limits=limits, policies=policies)
    stage.directory.principal = caller = Principal("k1", ADA.user, ADA.department, models)
    past = [Claim(limit, 0) for limit in limits.quota]
    stage.store.settle("before", past, stage.store.now(), Actual(1, used, used))
    body = HELLO | members
    answer = await asked(stage, Question("m", CHAT, json.dumps(body).encode()), Asked(caller))
    peer = await stage.play(body)
    decision = answer["decision"]
    assert decision["allowed"] == (peer.status == 200)
    if not decision["allowed"]:
        assert (decision["status"], decision["code"]) == (peer.status, peer.error["code"])
        assert without_time(decision["message"]) == without_time(peer.error["message"])
    else:
        held = {(each.policy, each.metric, each.window): each.amount for each in stage.journal.outcomes[0].decisions}
        unit = {"cost": 1_000_000}
        explained = {
            (each["policy"], each["metric"], each["window"]): round(each["needed"] * unit.get(each["metric"], 1))
            for each in answer["limits"]
        }
        assert explained == held
        objecting = {each["policy"] for each in answer["limits"] if each["verdict"] == "would_refuse"}
        objecting |= {each["policy"] for each in answer["policies"] if each["verdict"] == "would_refuse"}
        assert bool(objecting) == bool(stage.in_shadow)
    await stage.close()


# What the question is about


async def test_a_request_that_makes_no_sense_is_told_so_as_the_call_would_be(stage: Stage) -> None:
    for body, message in (
        (b'{"model": "m"}', "'messages' is missing."),
        (b'{"model": "m", "messages": []}', "'messages' must"),
    ):
        decision = (await asked(stage, Question("m", CHAT, body)))["decision"]
        assert (decision["decided_by"], decision["status"]) == ("request", 400)
        assert decision["message"].startswith(message)
    unknown = (await asked(stage, Question("n", CHAT)))["decision"]
    assert (unknown["decided_by"], unknown["status"], unknown["code"]) == ("request", 404, "model_not_found")
    assert "Did you mean" not in unknown["message"] or "'m'" in unknown["message"]


async def test_an_endpoint_without_output_needs_none(stage: Stage) -> None:
    demand = (await asked(stage, Question("m", EMBEDDINGS, None, 10, 500)))["demand"]
    assert (demand["tokens"], demand["output_cap"]) == (10, None)


async def test_a_key_that_opens_nothing_ends_the_question(stage: Stage) -> None:
    answer = await asked(stage, Question("m", CHAT), Asked(ADA, invalid_api_key("It was revoked.")))
    assert answer["decision"] == {
        "allowed": False,
        "decided_by": "api_key",
        "limit": None,
        "status": 401,
        "code": "invalid_api_key",
        "message": "It was revoked.",
    }
    assert answer["limits"] == []


async def test_a_policy_that_refuses_is_the_last_that_is_asked(tmp_path: Path) -> None:
    stage = Stage(tmp_path, policies={"rate_limit": {}, "model_access": {}, "quota": {}})
    caller = Principal("k1", ADA.user, ADA.department, frozenset({"other"}))
    answer = await asked(stage, Question("m", CHAT), Asked(caller))
    assert [each["verdict"] for each in answer["policies"]] == ["passes", "refuses", "not_asked"]
    assert answer["decision"]["decided_by"] == "model_access"
    await stage.close()


class Silent:
    async def peek(self, limits: Any) -> Any:
        raise StoreUnavailable("away")


async def test_counters_that_are_away_are_no_answer(stage: Stage) -> None:
    with pytest.raises(GatewayError) as refused:
        await explain(Asked(ADA), Question("m", CHAT), stage.world, Silent(), stage.directory.limits)
    assert (refused.value.status, refused.value.code) == (503, "accounting_unavailable")


# Whom it is about


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = await ready_database(tmp_path)
    yield made
    await made.close()


def public_id(key: str) -> str:
    return key.removeprefix(PREFIX)[:12]


async def about(database: Database, user: str | None, key: str | None = None) -> Asked:
    async with database.read() as session:
        if key is not None:
            return await callers.by_key(session, key, user, time.time())
        return await callers.by_user(session, user or "", time.time())


async def test_a_user_with_one_key_is_asked_about_with_it(database: Database) -> None:
    key = public_id(await issue_key(database, models=["m"]))
    found = await about(database, "Ada@example.com")
    assert found.principal == Principal(key, "ada@example.com", "research", frozenset({"m"}))
    assert key in found.note
    assert await about(database, None, key) == Asked(found.principal)


async def test_a_user_with_several_keys_is_asked_about_as_such_and_the_answer_says_so(database: Database) -> None:
    keys = [public_id(await issue_key(database, models=["m"])) for _ in range(2)]
    found = await about(database, "ada@example.com")
    assert found.principal == Principal("", "ada@example.com", "research")
    assert "2 keys" in found.note
    async with database.write() as session:
        await api_keys.revoke(session, keys[0])
    assert (await about(database, "ada@example.com")).principal.key_id == keys[1], "a dead key is none"
    dead = await about(database, "ada@example.com", keys[0])
    assert dead.refused is not None
    assert "was revoked" in dead.refused.message


async def test_whoever_cannot_call_at_all_is_told_why(database: Database) -> None:
    await issue_key(database)
    async with database.write() as session:
        await users.deactivate(session, "ada@example.com")
    found = await about(database, "ada@example.com")
    assert found.refused is not None
    assert "deactivated" in found.refused.message
    async with database.write() as session:
        await users.reactivate(session, "ada@example.com")
        await departments.update(session, "research", archived=True)
    assert "archived" in str((await about(database, "ada@example.com")).refused)


async def test_a_key_of_somebody_else_and_an_unknown_user_are_not_found(database: Database) -> None:
    key = public_id(await issue_key(database))
    await issue_key(database, user="eve@example.com")
    with pytest.raises(NotFound, match=f"no API key '{key}' of user 'eve@example.com'"):
        await about(database, "eve@example.com", key)
    with pytest.raises(NotFound, match=r"no user 'ad@example.com'. Did you mean 'ada@example.com'"):
        await about(database, "ad@example.com")


@pytest.mark.parametrize(("body", "images"), [(None, 1), (b'{"prompt": "A boat", "n": 3}', 3)])
async def test_what_is_measured_in_units_is_told_in_units(tmp_path: Path, body: bytes | None, images: int) -> None:
    sold = PriceSchedule(((0.0, Price(version="p1", per_image=40_000_000_000)),))
    limits = LimitSet(quota=(a_limit("cost", 100_000, "day"),))
    stage = Stage(tmp_path, route=a_route(a_target(a_model(prices=sold))), limits=limits)
    endpoint = replace(images_generations.ENDPOINT, operation="embeddings")  # which the stage's provider serves
    answer = await asked(stage, Question("m", endpoint, body))
    demand = answer["demand"]
    assert (demand["units"], demand["unit"], demand["cost_usd"]) == (images, "image", images * 0.04)
    assert answer["decision"]["allowed"] is (images < 3), "a budget of ten cents"
    await stage.close()


async def test_a_caller_whose_budget_ends_is_told_of_the_cheaper_model_that_serves_it(tmp_path: Path) -> None:
    """What the explanation says is what the call is then told, also where the route has a model for this case."""
    limits = LimitSet(quota=(a_limit("cost", 100, "day"),))
    dear = a_target(a_model(prices=priced(10**9, 10**9)))
    cheap = a_target(a_model("cheap", prices=priced(1_000, 1_000)), upstream="cheap")
    for quota, allowed in (([cheap], True), ([], False)):
        made = Stage(tmp_path, Answer([whole_answer()]), route=a_route(dear, fallbacks={"quota": quota}), limits=limits)
        answer = await asked(made, Question("m", CHAT, BODY))
        assert answer["decision"]["allowed"] is allowed
        assert (answer["begins"], answer["fallback"]) == (("cheap", "quota") if allowed else ("m", None))
        peer = await made.play(HELLO)
        assert (peer.status == 200) is allowed
        if allowed:
            (row,) = made.journal.outcomes
            assert row.model_id == answer["begins"]
            assert row.reserved_cost / 1e6 == answer["demand"]["cost_usd"]
        await made.close()

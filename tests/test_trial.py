"""A policy in shadow is asked about every call and obeyed in none."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from gateway import plugins
from gateway.core.body import Body
from gateway.core.call import Call
from gateway.core.errors import GatewayError, invalid_request
from gateway.core.limits import Claim, Level, LimitSet
from gateway.core.ports import OnStoreError
from gateway.core.principal import Principal
from gateway.trial import Trial
from tests.support.calls import HELLO, a_call, a_limit, a_route
from tests.support.stage import Answer, Stage, whole_answer

EVERY_LIMIT = LimitSet(
    rate=(a_limit("requests", 10, "minute"),), quota=(a_limit("tokens", 10),), parallel=(a_limit("parallel", 2),)
)


class Meddler:
    """Changes all that a policy can lay its hands on, and then refuses."""

    name = "meddler"
    on_store_error: OnStoreError = "deny"

    def check(self, call: Call) -> None:
        call.demand.cap_output(1)
        call.demand.reserve_likely(1.0, 1)
        call.model_id = "another"
        call.route = a_route(name="another")
        call.headers.append((b"x-meddled", b"1"))
        call.body = Body(b'{"model": "another"}')
        call.limits = LimitSet()
        raise invalid_request("No.")

    def claims(self, call: Call) -> Sequence[Claim]:
        return [Claim(a_limit("requests", 0), 1)]

    def denied(self, call: Call, level: Level) -> GatewayError:
        return invalid_request("denied")


class Broken(Meddler):
    name = "broken"

    def check(self, call: Call) -> None:
        raise KeyError("a defect")


def state(call: Call) -> tuple[Any, ...]:
    demand = replace(call.demand)
    return demand, dict(demand.amounts), call.model_id, call.route, list(call.headers), call.body, call.limits


def test_what_a_policy_in_shadow_does_to_a_call_is_forgotten() -> None:
    call = a_call(limits=EVERY_LIMIT)
    trial = Trial(Meddler())
    before = state(call)
    trial.check(call)
    claims = trial.claims(call)
    assert state(call) == before
    assert call.shadowed == ("meddler",)
    assert [claim.limit.action for claim in claims] == ["shadow"]


@pytest.mark.parametrize("name", sorted(plugins.names("policies")))
def test_every_policy_in_shadow_claims_what_it_would_without_refusing_anything(name: str) -> None:
    settings: dict[str, object] = {"default_output_tokens": 77} if name == "quota" else {}
    policy, trial = plugins.policy(name, settings), plugins.policy(name, settings | {"shadow": True})
    real, call = a_call(limits=EVERY_LIMIT), a_call(limits=EVERY_LIMIT)
    policy.check(real)
    trial.check(call)
    assert call.demand == a_call(limits=EVERY_LIMIT).demand
    enforced, counted = policy.claims(real), trial.claims(call)
    assert [claim.amount for claim in counted] == [claim.amount for claim in enforced]
    assert all(claim.limit.action == "shadow" for claim in counted)
    assert (trial.name, trial.on_store_error) == (name, "allow")


def test_a_limit_is_the_same_object_at_every_call_and_one_that_refuses_nobody_stays_itself() -> None:
    warning = a_limit("requests", 5, "day", action="warn")
    limits = LimitSet(quota=(a_limit("tokens", 10), warning))
    trial = plugins.policy("quota", {"shadow": True})
    first, second = (trial.claims(a_call(limits=limits)) for _ in range(2))
    assert first[0].limit is second[0].limit
    assert first[1].limit is warning


def test_limits_that_come_and_go_do_not_pile_up() -> None:
    trial = plugins.policy("quota", {"shadow": True})
    lasting = a_limit("tokens", 1)
    kept = trial.claims(a_call(limits=LimitSet(quota=(lasting,))))[0].limit
    for amount in range(2, 12_000):
        trial.claims(a_call(limits=LimitSet(quota=(a_limit("tokens", amount), lasting))))
    assert isinstance(trial, Trial)
    assert len(trial._shadows._lately) + len(trial._shadows._before) <= 10_000
    assert trial.claims(a_call(limits=LimitSet(quota=(lasting,))))[0].limit is kept


def test_a_defect_of_a_policy_in_shadow_costs_no_call_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    trial = Trial(Broken())
    with caplog.at_level(logging.ERROR, "aidock.policies"):
        for _ in range(3):
            call = a_call()
            trial.check(call)
            assert list(trial.claims(call)) == []
            assert call.shadowed == ()
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is not None


def test_a_policy_is_in_shadow_only_where_its_entry_says_so() -> None:
    assert isinstance(plugins.policy("rate_limit", {"shadow": True, "expected_output_tokens": 5}), Trial)
    assert not isinstance(plugins.policy("rate_limit", {"shadow": False}), Trial)


# In the pipeline


@pytest.fixture
def used_up() -> LimitSet:
    return LimitSet(rate=(a_limit("requests", 0, "minute"),), quota=(a_limit("tokens", 5),))


async def test_a_call_passes_unchanged_where_every_policy_that_objects_is_in_shadow(
    tmp_path: Any, used_up: LimitSet
) -> None:
    shadow = {"shadow": True}
    stage = Stage(
        tmp_path, Answer([whole_answer()]), limits=used_up, policies={"rate_limit": dict(shadow), "quota": dict(shadow)}
    )
    peer = await stage.play(HELLO)
    assert peer.status == 200
    assert json.loads(stage.transport.requests[0].body) == HELLO
    (call,) = stage.in_shadow
    over = [each.policy for each in call.decisions if each.used > each.limit]
    assert over == ["rate_limit", "quota"]
    assert b"x-ratelimit-limit-requests" not in peer.headers
    assert (await stage.used())["tokens", "month"] == 10, "and what it used is counted"
    await stage.close()


async def test_the_same_limits_refuse_where_the_policy_is_enforced(tmp_path: Any, used_up: LimitSet) -> None:
    stage = Stage(
        tmp_path, Answer([whole_answer()]), limits=used_up, policies={"rate_limit": {"shadow": True}, "quota": {}}
    )
    peer = await stage.play(HELLO)
    assert (peer.status, peer.error["code"]) == (429, "insufficient_quota")
    assert stage.in_shadow == [], "who is refused for real is not in the report of who would be"
    await stage.close()


async def test_a_model_off_the_list_is_served_while_the_list_is_in_shadow(tmp_path: Any) -> None:
    stage = Stage(tmp_path, Answer([whole_answer()]), policies={"model_access": {"shadow": True}})
    stage.directory.principal = Principal("k1", "ada@example.com", "research", frozenset({"other"}))
    assert (await stage.play(HELLO)).status == 200
    assert [call.shadowed for call in stage.in_shadow] == [("model_access",)]
    await stage.close()


async def test_a_store_that_is_away_stops_no_call_on_behalf_of_a_policy_in_shadow(
    tmp_path: Any, used_up: LimitSet
) -> None:
    stage = Stage(tmp_path, Answer([whole_answer()]), limits=used_up, policies={"quota": {"shadow": True}})
    stage.store.away = True
    assert (await stage.play(HELLO)).status == 200
    await stage.close()

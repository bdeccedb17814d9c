"""What is refused before an upstream is asked costs nothing, holds nothing and leaves no intent."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.core.limits import LimitSet
from tests.support.calls import HELLO, a_limit, a_model, a_route, a_target, priced
from tests.support.stage import FakePeer, Stage

STREAM = HELLO | {"stream": True}


async def refused(stage: Stage, body: dict[str, Any] | bytes | FakePeer) -> FakePeer:
    """Play a call that must not be made."""
    peer = await stage.play(body)
    assert stage.transport.exchanges == []
    assert stage.journal.intents == []
    assert stage.metric("aidock_inflight_requests") == 0
    assert set((await stage.used()).values()) <= {0}
    await stage.close()
    return peer


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{", "invalid_request", None),
        (b"[]", "invalid_request", None),
        (b"\xff\xfe", "invalid_request", None),
        (b"[" * 100_000, "invalid_request", None),
        ({"messages": []}, "invalid_request", "model"),
        ({"model": 7, "messages": []}, "invalid_request", "model"),
        ({"model": "m"}, "invalid_request", "messages"),
        ({"model": "m", "messages": []}, "invalid_request", "messages"),
        ({"model": "m", "messages": None}, "invalid_request", "messages"),
        (HELLO | {"stream": "yes"}, "invalid_request", "stream"),
        (HELLO | {"max_tokens": -1}, "invalid_request", "max_tokens"),
        (HELLO | {"max_tokens": 1e99}, "invalid_request", "max_tokens"),
        (HELLO | {"n": 0}, "invalid_request", "n"),
        (HELLO | {"n": 129}, "invalid_request", "n"),
    ],
)
async def test_a_body_that_makes_no_sense_is_a_400_that_names_the_member(
    tmp_path: Path, body: Any, code: str, param: str | None
) -> None:
    stage = Stage(tmp_path)
    peer = await refused(stage, body)
    assert peer.status == 400
    assert (peer.error["code"], peer.error["param"]) == (code, param)
    assert peer.headers[b"x-should-retry"] == b"false"
    assert stage.metric("aidock_requests_total", code="400") == 1


async def test_an_unknown_model_is_a_404_with_a_suggestion_and_no_series_of_its_own(tmp_path: Path) -> None:
    stage = Stage(tmp_path, route=a_route(name="gpt-4o-mini"))
    peer = await refused(stage, HELLO | {"model": "gpt-4o-mimi"})
    assert (peer.status, peer.error["code"]) == (404, "model_not_found")
    assert "Did you mean 'gpt-4o-mini'?" in peer.error["message"]
    assert stage.metric("aidock_requests_total", model="", code="404") == 1
    assert b"mimi" not in stage.metrics.exposition()[0]


async def test_a_body_past_the_cap_is_a_413(tmp_path: Path) -> None:
    peer = await refused(Stage(tmp_path), HELLO | {"user": "x" * 2**20})
    assert (peer.status, peer.error["code"]) == (413, "request_too_large")


async def test_two_different_keys_are_a_400_and_none_is_a_401(tmp_path: Path) -> None:
    for headers, status in (([], 401), ([(b"x-api-key", b"a"), (b"api-key", b"b")], 400)):
        stage = Stage(tmp_path)
        peer = stage.peer(HELLO)
        peer.scope["headers"] = headers
        assert (await refused(stage, peer)).status == status


async def test_a_client_that_leaves_while_it_sends_is_counted_and_nothing_else(tmp_path: Path) -> None:
    stage = Stage(tmp_path, limits=LimitSet(quota=(a_limit(),)))
    peer = stage.peer(HELLO)
    stage.plot.twist("receive", peer.leave)
    await refused(stage, peer)
    assert peer.sent == []
    assert stage.metric("aidock_client_disconnects_total", phase="sending") == 1


async def test_as_many_calls_as_may_run_leave_no_room_for_another(tmp_path: Path) -> None:
    peer = await refused(Stage(tmp_path, max_inflight=0), HELLO)
    assert (peer.status, peer.error["code"]) == (503, "overloaded")
    assert peer.headers[b"retry-after"] == b"1"


async def test_a_full_journal_is_a_503_with_nothing_held_and_no_exchange_made(tmp_path: Path) -> None:
    stage = Stage(tmp_path, limits=LimitSet(quota=(a_limit(amount=100_000),), parallel=(a_limit("parallel", 3),)))
    stage.journal.full = True
    peer = await refused(stage, HELLO)
    assert (peer.status, peer.error["code"]) == (503, "accounting_unavailable")
    assert "settle" in stage.plot.told


async def test_counters_that_are_away_stop_what_a_budget_binds(tmp_path: Path) -> None:
    stage = Stage(tmp_path, limits=LimitSet(quota=(a_limit(),)))
    stage.store.away = True
    peer = await refused(stage, HELLO)
    assert (peer.status, peer.error["code"]) == (503, "accounting_unavailable")
    assert peer.headers[b"retry-after"] == b"1"


@pytest.mark.parametrize(
    ("limits", "policies"),
    [
        (LimitSet(rate=(a_limit("requests", 5, "minute"),)), {"rate_limit": {}, "quota": {}}),
        (LimitSet(quota=(a_limit(amount=100_000),)), {"quota": {"on_store_error": "allow"}}),
    ],
    ids=["only a rate binds", "the quota says allow"],
)
async def test_counters_that_are_away_let_through_what_no_denying_policy_claims(
    tmp_path: Path, limits: LimitSet, policies: dict[str, dict[str, object]]
) -> None:
    stage = Stage(tmp_path, limits=limits, policies=policies)
    stage.store.away = True
    peer = await stage.play(STREAM)
    assert peer.status == 200
    assert stage.metric("aidock_quota_allowed_unmetered_total") == 1
    (row,) = stage.journal.outcomes
    assert not any(decision.counted for decision in row.decisions), "its receipt says that nobody counted then"
    assert await stage.used() == {
        (limit.metric, limit.window): 1
        if limit.metric == "requests"
        else (row.prompt_tokens or 0) + (row.completion_tokens or 0)
        for limit in (*limits.rate, *limits.quota)
    }, "what it used is counted when it ends"
    await stage.close()


async def test_a_full_rate_says_when_to_come_back_and_a_used_up_quota_not_to_retry(tmp_path: Path) -> None:
    stage = Stage(tmp_path, limits=LimitSet(rate=(a_limit("requests", 1, "minute"),)))
    assert (await stage.play(STREAM)).status == 200
    peer = await stage.play(STREAM)
    assert (peer.status, peer.error["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(peer.headers[b"retry-after"]) <= 60
    assert b"x-should-retry" not in peer.headers
    assert stage.metric("aidock_quota_rejections_total", scope="department", metric="requests") == 1
    await stage.close()

    stage = Stage(tmp_path, limits=LimitSet(quota=(a_limit("requests", 1, "total"),)))
    assert (await stage.play(STREAM)).status == 200
    peer = await stage.play(STREAM)
    assert (peer.status, peer.error["code"]) == (429, "insufficient_quota")
    assert peer.headers[b"x-should-retry"] == b"false"
    assert b"retry-after" not in peer.headers, "a total never resets"
    assert len(stage.journal.intents) == 1
    await stage.close()


async def test_a_cap_that_nobody_chose_shrinks_to_what_is_left_and_is_told_upstream(tmp_path: Path) -> None:
    quota = a_limit("tokens", 400)
    stage = Stage(tmp_path, limits=LimitSet(quota=(quota,)))
    peer = await stage.play(STREAM)
    assert peer.status == 200
    (intent,) = stage.journal.intents
    assert intent.reserved_tokens == 400
    prompt = len(json.dumps(STREAM))
    assert b'_tokens":%d' % (400 - prompt) in stage.transport.requests[0].body
    await stage.close()


async def test_what_the_smaller_ask_is_refused_for_is_what_the_caller_is_told(tmp_path: Path) -> None:
    limits = LimitSet(quota=(a_limit("tokens", 400), a_limit("requests", 0, "day")))
    peer = await refused(Stage(tmp_path, limits=limits), HELLO)
    assert (peer.status, peer.error["code"]) == (429, "insufficient_quota")
    assert "requests" in peer.error["message"]


async def test_a_limit_that_only_warns_is_counted_past_and_refuses_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, limits=LimitSet(quota=(a_limit("requests", 0, action="warn"),)))
    peer = await stage.play(STREAM)
    assert peer.status == 200
    assert stage.metric("aidock_quota_over_limit_total", action="warn") == 1
    assert not [name for name in peer.headers if name.startswith(b"x-ratelimit")]
    await stage.close()


async def test_demands_beyond_what_counters_hold_are_refused_or_counted_but_never_a_500(tmp_path: Path) -> None:
    """The most that a body can ask for: a batch of prompts, 128 candidates each, of 2^31 tokens."""
    from tests.support.calls import COMPLETIONS

    route = a_route(a_target(a_model(prices=priced(60_000_000, 600_000_000))))
    body = {"model": "m", "prompt": [""] * 50_000, "n": 128, "max_tokens": 2**31}
    stage = Stage(tmp_path, route=route, limits=LimitSet(quota=(a_limit("cost", 10**12), a_limit("tokens", 10**9))))
    peer = await stage.play(body, COMPLETIONS)
    assert (peer.status, peer.error["code"]) == (429, "insufficient_quota")
    assert stage.journal.intents == []
    await stage.close()

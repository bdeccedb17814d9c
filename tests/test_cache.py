"""Who is given what again, and what the books say of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.core.deployment import CacheRule, Route, Target
from gateway.core.limits import LimitSet
from gateway.core.principal import Principal
from gateway.endpoints import responses
from gateway.idempotency.memory import MemoryAnswers
from gateway.idempotency.redis import RedisAnswers
from gateway.idempotency.seam import Answer, AnswerCache, StoreUnavailable
from tests.support.calls import ADA, COMPLETIONS, HELLO, a_limit, a_model, a_route, a_target, priced
from tests.support.redis_server import RedisServer, redis_server
from tests.support.stage import DONE, FakePeer, Hang, Stage, event, streamed, whole_answer
from tests.support.stage import Answer as Script
from tests.support.until import until

STREAM = HELLO | {"stream": True}
PLAIN = Script([whole_answer()])
RULE = CacheRule(600)
PRICES = priced(1_000_000, 2_000_000)
COST = 7 * 1 + 3 * 2
"""What an answer of the stage costs, in micro-dollars."""
CACHED = b"x-aidock-cache"


def a_cached(rule: CacheRule = RULE) -> Route:
    return a_route(a_target(a_model(prices=PRICES)), cache=rule)


def asking(stage: Stage, body: dict[str, Any] | bytes = HELLO, wish: str | None = "use", **more: str) -> FakePeer:
    peer = stage.peer(body)
    headers: Any = peer.scope["headers"]
    headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in more.items()]
    if wish is not None:
        headers.append((CACHED, wish.encode()))
    return peer


async def play(stage: Stage, body: dict[str, Any] | bytes = HELLO, wish: str | None = "use", **more: str) -> FakePeer:
    return await stage.play(asking(stage, body, wish, **more))


def cached(peer: FakePeer) -> str | None:
    found = peer.headers.get(CACHED)
    return None if found is None else found.decode()


def calls(stage: Stage) -> int:
    return len(stage.transport.exchanges)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[AnswerCache]:
    if request.param == "memory":
        yield MemoryAnswers()
        return
    server: RedisServer = request.getfixturevalue("redis")
    opened = RedisAnswers(server.url, prefix="cached", decision_s=5.0)
    yield opened
    await opened.close()
    server.ask("FLUSHALL")


@pytest.mark.parametrize(("body", "script"), [(HELLO, PLAIN), (STREAM, streamed())], ids=["plain", "streamed"])
async def test_the_same_again_is_answered_alike_and_calls_nobody(
    tmp_path: Path, body: Any, script: Script, store: AnswerCache
) -> None:
    stage = Stage(tmp_path, script, route=a_cached(), cached=store)
    first, again = await play(stage, body), await play(stage, body)
    assert (first.status, again.status, calls(stage)) == (200, 200, 1)
    assert again.body == first.body
    assert (cached(first), cached(again)) == ("miss", "hit")
    assert b"age" not in first.headers
    assert 0 <= int(again.headers[b"age"]) < 60
    for name in (b"content-type", b"x-aidock-model"):
        assert again.headers[name] == first.headers[name]
    assert again.headers.get(b"cache-control") == first.headers.get(b"cache-control")
    assert again.headers[b"x-request-id"] != first.headers[b"x-request-id"]
    assert (again.headers[b"x-aidock-provider"], again.headers[b"x-aidock-attempts"]) == (b"cache", b"0")
    await stage.close()


async def test_a_hit_is_a_call_of_its_own_that_used_one_request(tmp_path: Path) -> None:
    limits = LimitSet(
        rate=(a_limit("requests", 9, "minute"),),
        quota=(a_limit("tokens", 10_000, "day"), a_limit("cost", 10_000, "day"), a_limit("requests", 9, "day")),
        parallel=(a_limit("parallel", 1),),
    )
    stage = Stage(tmp_path, PLAIN, route=a_cached(), limits=limits)
    await play(stage)
    before = await stage.used()
    hit = await play(stage)
    assert cached(hit) == "hit"
    after = await stage.used()
    assert {key: after[key] - before[key] for key in after} == {
        ("requests", "minute"): 1,
        ("requests", "day"): 1,
        ("tokens", "day"): 0,
        ("cost", "day"): 0,
        ("parallel", "none"): 0,
    }
    assert hit.headers[b"x-ratelimit-remaining-requests"] == b"7"
    made, given = stage.journal.outcomes
    assert (made.cost_microusd, made.saved_microusd, made.provider) == (COST, 0, "corp")
    assert (given.kind, given.outcome, given.status, given.provider) == ("charge", "ok", 200, "cache")
    assert (given.model_id, given.upstream_model, given.price_version) == ("m", "m", made.price_version)
    assert (given.prompt_tokens, given.completion_tokens, given.cost_microusd) == (0, 0, 0)
    assert (given.saved_microusd, given.attempts) == (COST, 0)
    assert (given.reserved_tokens, given.reserved_cost) == (0, 0)
    assert [intent.request_id for intent in stage.journal.intents] == [made.request_id, given.request_id]
    assert stage.metric("aidock_cache_hits_total", model="m") == 1
    assert stage.metric("aidock_cache_misses_total", model="m") == 1
    assert stage.metric("aidock_cache_saved_usd_total", model="m") == pytest.approx(COST / 1_000_000)
    assert stage.metric("aidock_requests_total", provider="cache", code="200") == 1
    assert stage.metric("aidock_cost_usd_total") == pytest.approx(COST / 1_000_000)
    assert stage.metric("aidock_inflight_requests") == 0
    await stage.close()


async def test_limits_on_requests_bind_hits_and_a_budget_that_is_used_up_does_not(tmp_path: Path) -> None:
    limits = LimitSet(quota=(a_limit("tokens", 300, "day"), a_limit("requests", 3, "day")))
    stage = Stage(tmp_path, PLAIN, route=a_cached(), limits=limits)
    first = await play(stage, HELLO | {"max_tokens": 10})
    assert (first.status, cached(first)) == (200, "miss")
    assert (await play(stage, HELLO | {"max_tokens": 1000})).status == 429
    assert cached(await play(stage, HELLO | {"max_tokens": 10})) == "hit"
    assert cached(await play(stage, HELLO | {"max_tokens": 10})) == "hit"
    refused = await play(stage, HELLO | {"max_tokens": 10})
    assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")
    assert calls(stage) == 1
    await stage.close()


@pytest.mark.parametrize(
    ("rule", "wish", "told"),
    [
        (None, "use", [None, None]),
        (RULE, None, [None, None]),
        (RULE, "off", [None, None]),
        (RULE, "use", ["miss", "hit"]),
        (RULE, "refresh", ["miss", "miss"]),
        (CacheRule(600, always=True), None, ["miss", "hit"]),
        (CacheRule(600, always=True), "off", [None, None]),
    ],
)
async def test_the_model_allows_and_the_request_asks(
    tmp_path: Path, rule: CacheRule | None, wish: str | None, told: list[str | None]
) -> None:
    stage = Stage(tmp_path, PLAIN, route=a_route(cache=rule))
    assert [cached(await play(stage, wish=wish)) for _ in range(2)] == told
    assert calls(stage) == 2 - told.count("hit")
    await stage.close()


@pytest.mark.parametrize("wish", ["", "yes", "USE", "use,off"])
async def test_another_wish_is_a_400(tmp_path: Path, wish: str) -> None:
    stage = Stage(tmp_path, PLAIN, route=a_cached())
    refused = await play(stage, wish=wish)
    assert (refused.status, refused.error["code"]) == (400, "invalid_request")
    assert "x-aidock-cache" in refused.error["message"]
    assert (stage.journal.intents, calls(stage)) == ([], 0)
    await stage.close()


async def test_two_wishes_are_a_400(tmp_path: Path) -> None:
    stage = Stage(tmp_path, PLAIN, route=a_cached())
    assert (await stage.play(asking(stage, x_aidock_cache="use"))).status == 400
    await stage.close()


async def test_a_refresh_takes_the_place_of_what_was_kept(tmp_path: Path, store: AnswerCache) -> None:
    scripts = [Script([whole_answer().replace(b"Hi there", word)]) for word in (b"old", b"new")]
    stage = Stage(tmp_path, *scripts, route=a_cached(), cached=store)
    await play(stage)
    assert b"old" in (await play(stage)).body
    assert b"new" in (await play(stage, wish="refresh")).body
    again = await play(stage)
    assert (cached(again), b"new" in again.body, calls(stage)) == ("hit", True, 2)
    await stage.close()


async def test_a_refresh_that_fails_leaves_what_was_kept_and_one_too_large_to_keep_leaves_nothing(
    tmp_path: Path, store: AnswerCache
) -> None:
    large = Script([whole_answer().replace(b"Hi there", b"x" * 2**20)])
    stage = Stage(tmp_path, PLAIN, Script([b"{}"], status=500), large, PLAIN, route=a_cached(), cached=store)
    await play(stage)
    assert (await play(stage, wish="refresh")).status == 502
    assert cached(await play(stage)) == "hit"
    assert len((await play(stage, wish="refresh")).body) > 2**20
    assert cached(await play(stage)) == "miss"
    assert cached(await play(stage)) == "hit"
    await stage.close()


BOB = Principal("k2", "bob@example.com", "research")
EVE = Principal("k3", "eve@example.com", "sales")


@pytest.mark.parametrize(
    ("scope", "told"),
    [("user", ["miss", "miss", "miss"]), ("department", ["miss", "hit", "miss"]), ("everyone", ["miss", "hit", "hit"])],
)
async def test_nobody_is_given_an_answer_beyond_its_scope(
    tmp_path: Path, scope: Any, told: list[str], store: AnswerCache
) -> None:
    stage = Stage(tmp_path, PLAIN, route=a_cached(CacheRule(600, scope)), cached=store)
    found = []
    for caller in (ADA, BOB, EVE):
        stage.directory.principal = caller
        found.append(cached(await play(stage)))
    assert found == told
    assert [row.user for row in stage.journal.outcomes] == [ADA.user, BOB.user, EVE.user]
    await stage.close()


@pytest.mark.parametrize(("store_it", "told"), [(True, ["miss", "hit", "miss"]), (False, ["miss", "hit", "hit"])])
async def test_a_response_that_its_user_can_continue_is_for_that_user(
    tmp_path: Path, *, store_it: bool, told: list[str]
) -> None:
    stage = Stage(tmp_path, PLAIN, route=a_cached(CacheRule(600, "everyone")))
    body = {"model": "m", "input": "Hello", "store": store_it}
    found = []
    for caller in (ADA, ADA, EVE):
        stage.directory.principal = caller
        found.append(cached(await stage.play(asking(stage, body), responses.ENDPOINT)))
    assert found == told
    await stage.close()


async def test_a_user_with_the_name_of_a_department_is_not_that_department(tmp_path: Path) -> None:
    kept = MemoryAnswers()
    told = []
    for scope, caller in (("user", Principal("k", "x", "y")), ("department", Principal("k", "y", "x"))):
        stage = Stage(tmp_path, PLAIN, route=a_cached(CacheRule(600, scope)), cached=kept)  # type: ignore[arg-type]
        stage.directory.principal = caller
        told.append(cached(await play(stage)))
        await stage.close()
    assert told == ["miss", "miss"]


async def test_a_key_that_may_not_use_the_model_gets_a_404_although_the_answer_is_kept(tmp_path: Path) -> None:
    stage = Stage(tmp_path, PLAIN, route=a_cached(CacheRule(600, "everyone")), policies={"model_access": {}})
    assert (await play(stage)).status == 200
    stage.directory.principal = Principal("k2", "bob@example.com", "research", frozenset({"other"}))
    refused = await play(stage)
    assert (refused.status, refused.error["code"], cached(refused)) == (404, "model_not_found", None)
    await stage.close()


@pytest.mark.parametrize(
    "other",
    [
        json.dumps(HELLO, indent=1).encode(),
        json.dumps(HELLO | {"temperature": 0}).encode(),
        json.dumps(HELLO | {"messages": [{"role": "user", "content": "hello"}]}).encode(),
        json.dumps(HELLO | {"stream": False}).encode(),
    ],
    ids=["whitespace", "another member", "another letter", "a default"],
)
async def test_another_body_is_another_call(tmp_path: Path, other: bytes) -> None:
    stage = Stage(tmp_path, PLAIN, route=a_cached())
    assert [cached(await play(stage, body)) for body in (HELLO, other, HELLO, other)] == ["miss", "miss", "hit", "hit"]
    await stage.close()


async def test_a_stream_and_a_whole_answer_are_kept_apart(tmp_path: Path) -> None:
    stage = Stage(tmp_path, PLAIN, streamed(), route=a_cached())
    bodies = [HELLO, STREAM, HELLO, STREAM]
    peers = [await play(stage, body) for body in bodies]
    assert [cached(peer) for peer in peers] == ["miss", "miss", "hit", "hit"]
    assert peers[3].body.endswith(DONE)
    assert peers[3].headers[b"content-type"].startswith(b"text/event-stream")
    await stage.close()


async def test_another_endpoint_configuration_or_beta_is_another_call(tmp_path: Path) -> None:
    stage = Stage(tmp_path, PLAIN, route=a_cached())
    body = {"model": "m", "prompt": "Hello", "messages": HELLO["messages"]}
    assert cached(await play(stage, body)) == "miss"
    assert cached(await stage.play(asking(stage, body), COMPLETIONS)) == "miss"
    assert cached(await play(stage, body, openai_beta="assistants=v2")) == "miss"
    assert cached(await play(stage, body, anthropic_beta="context-1m")) == "miss"
    assert cached(await play(stage, body, traceparent="00-1-2-01")) == "hit"
    object.__setattr__(stage.world.snapshot, "hash", "c2")
    assert cached(await play(stage, body)) == "miss"
    await stage.close()


async def test_a_caller_whose_answers_a_budget_cuts_short_shares_them_with_nobody_else(tmp_path: Path) -> None:
    kept = MemoryAnswers()
    rule = CacheRule(600, "everyone")
    told = []
    for limits in (LimitSet(quota=(a_limit("tokens", 100_000),)), LimitSet()):
        stage = Stage(tmp_path, PLAIN, route=a_cached(rule), limits=limits, cached=kept)
        told += [cached(await play(stage)), cached(await play(stage))]
        await stage.close()
    assert told == ["miss", "hit", "miss", "hit"]


async def test_an_answer_that_the_end_of_a_budget_has_cut_short_is_not_kept(tmp_path: Path) -> None:
    limits = LimitSet(quota=(a_limit("tokens", 500, "day"),))
    stage = Stage(tmp_path, PLAIN, route=a_cached(), limits=limits)
    assert [cached(await play(stage)) for _ in range(2)] == ["miss", "miss"]
    assert calls(stage) == 2
    await stage.close()


@pytest.mark.parametrize(
    ("script", "body", "status"),
    [
        (Script([b'{"error": {"message": "no such tool"}}'], status=400), HELLO, 400),
        (Script([b'{"error": {"message": "busy"}}'], status=429), HELLO, 429),
        (Script([b"{}"], status=500), HELLO, 502),
        (Script([b"no answer"]), HELLO, 502),
        (Script([event("Hi"), b"", b""]), STREAM, 200),
    ],
    ids=["400", "429", "500", "unreadable", "broken stream"],
)
async def test_only_whole_and_good_answers_are_kept(tmp_path: Path, script: Script, body: Any, status: int) -> None:
    stage = Stage(tmp_path, script, streamed() if body is STREAM else PLAIN, route=a_cached())
    failed = await play(stage, body)
    assert (failed.status, cached(failed)) == (status, "miss")
    again = await play(stage, body)
    assert (again.status, cached(again), calls(stage)) == (200, "miss", 2)
    await stage.close()


@pytest.mark.parametrize("point", ["start", "read 1", "read 2", "read 4"])
async def test_the_answer_to_a_client_that_left_is_not_kept(tmp_path: Path, point: str) -> None:
    stage = Stage(tmp_path, streamed(), streamed(), route=a_cached())
    peer = asking(stage, STREAM)
    stage.plot.twist(point, peer.leave)
    await stage.play(peer)
    assert cached(await play(stage, STREAM)) == "miss"
    await stage.close()


async def test_an_answer_past_a_mebibyte_is_not_kept(tmp_path: Path) -> None:
    stage = Stage(tmp_path, streamed("x" * 600_000, "y" * 600_000), route=a_cached())
    for _ in range(2):
        peer = await play(stage, STREAM)
        assert (cached(peer), len(peer.body) > 1_200_000) == ("miss", True)
    await stage.close()


async def test_what_is_kept_has_been_filtered_and_the_prompt_is_the_masked_one(tmp_path: Path) -> None:
    secret = Script([whole_answer().replace(b"Hi there", b"Write to eve@example.com")])
    stage = Stage(tmp_path, secret, route=a_cached(), policies={"masking": {}})
    bodies = [HELLO | {"messages": [{"role": "user", "content": f"I am {name}@example.com"}]} for name in "ab"]
    first, again = [await play(stage, body) for body in bodies]
    assert (cached(first), cached(again)) == ("miss", "hit"), "both prompts say [EMAIL_1]"
    assert again.body == first.body
    assert b"[EMAIL]" in again.body
    assert b"eve@example.com" not in again.body
    await stage.close()


async def test_a_policy_that_refuses_the_prompt_refuses_it_however_often_it_was_answered(tmp_path: Path) -> None:
    kept = MemoryAnswers()
    stage = Stage(tmp_path, PLAIN, route=a_cached(), cached=kept)
    await play(stage)
    await stage.close()
    rules: dict[str, object] = {"rules": [{"name": "greetings", "words": ["hello"]}]}
    stage = Stage(tmp_path, PLAIN, route=a_cached(), cached=kept, policies={"content_rules": rules})
    refused = await play(stage)
    assert (refused.status, refused.error["code"]) == (400, "content_filter")
    await stage.close()


async def test_of_many_at_once_each_is_answered_and_the_books_agree(tmp_path: Path, store: AnswerCache) -> None:
    limits = LimitSet(quota=(a_limit("requests", 1000, "day"), a_limit("tokens", 10**6, "day"), a_limit("cost", 10**6)))
    stage = Stage(tmp_path, *[PLAIN] * 60, route=a_cached(), limits=limits, cached=store)
    first = await asyncio.gather(*(play(stage) for _ in range(20)))
    peers = first + await asyncio.gather(*(play(stage) for _ in range(40)))
    assert all(peer.status == 200 for peer in peers)
    made = [cached(peer) for peer in peers].count("miss")  # a store that is slow on a busy machine counts as one
    assert made < 60
    assert calls(stage) == made
    rows = stage.journal.outcomes
    assert await stage.used() == {
        ("requests", "day"): 60,
        ("tokens", "day"): sum((row.prompt_tokens or 0) + (row.completion_tokens or 0) for row in rows),
        ("cost", "month"): sum(row.cost_microusd for row in rows),
    }
    assert sum(row.saved_microusd for row in rows) == (60 - made) * COST
    await stage.close()


class Away(MemoryAnswers):
    """A store that answers only the verbs that it may."""

    def __init__(self, *verbs: str) -> None:
        super().__init__()
        self.verbs = verbs
        self.asked: list[str] = []

    def _ask(self, verb: str) -> None:
        self.asked.append(verb)
        if verb not in self.verbs:
            raise StoreUnavailable("away")

    async def find(self, scope: str, by: float | None = None) -> Answer | None:
        self._ask("find")
        return await super().find(scope, by)

    async def put(self, scope: str, answer: Answer | None, for_s: int) -> None:
        self._ask("put")
        await super().put(scope, answer, for_s)


async def test_a_store_that_is_away_is_a_miss_and_is_not_asked_again(tmp_path: Path) -> None:
    away = Away()
    stage = Stage(tmp_path, PLAIN, route=a_cached(), cached=away)
    peer = await play(stage)
    assert (peer.status, cached(peer), away.asked) == (200, "miss", ["find"])
    await stage.close()


async def test_an_answer_that_cannot_be_kept_reaches_its_client_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(tmp_path, PLAIN, route=a_cached(), cached=Away("find"))
    peer = await play(stage)
    assert (peer.status, peer.complete, cached(peer)) == (200, True, "miss")
    assert "could not be kept in the cache" in caplog.text
    await stage.close()


class Slow(MemoryAnswers):
    """Takes until the last moment it may."""

    async def find(self, scope: str, by: float | None = None) -> Answer | None:
        assert by is not None
        await asyncio.sleep(by - asyncio.get_running_loop().time())
        raise StoreUnavailable("timeout")


async def test_a_store_that_stands_still_leaves_time_for_the_reservation(tmp_path: Path) -> None:
    limits = LimitSet(quota=(a_limit("requests", 1000, "day"),))
    stage = Stage(tmp_path, PLAIN, route=a_cached(), cached=Slow(), limits=limits)
    peer = asking(stage)
    began = asyncio.get_running_loop().time()
    waited: list[float] = []
    stage.plot.twist("reserve", lambda: waited.append(asyncio.get_running_loop().time() - began))
    await stage.play(peer)
    assert peer.status == 200
    assert 0.05 < waited[0] < 0.25
    await stage.close()


async def test_a_hit_that_cannot_be_entered_in_the_books_is_not_given(tmp_path: Path) -> None:
    limits = LimitSet(quota=(a_limit("requests", 5, "day"),))
    stage = Stage(tmp_path, PLAIN, route=a_cached(), limits=limits)
    await play(stage)
    stage.journal.full = True
    refused = await play(stage)
    assert (refused.status, refused.error["code"]) == (503, "accounting_unavailable")
    assert await stage.used() == {("requests", "day"): 1}
    stage.journal.full = False
    assert cached(await play(stage)) == "hit"
    await stage.close()


async def test_while_the_counters_are_away_a_hit_is_decided_as_any_call(tmp_path: Path) -> None:
    stage = Stage(tmp_path, PLAIN, route=a_cached(), limits=LimitSet(quota=(a_limit("requests", 5, "day"),)))
    await play(stage)
    stage.store.away = True
    assert (await play(stage)).status == 503
    await stage.close()


async def test_an_idempotency_key_outranks_the_cache_and_both_may_be_in_a_request(tmp_path: Path) -> None:
    stage = Stage(tmp_path, PLAIN, route=a_cached())
    first = await play(stage, idempotency_key="k-1")
    replayed = await play(stage, idempotency_key="k-1")
    hit = await play(stage, idempotency_key="k-2")
    replayed_hit = await play(stage, idempotency_key="k-2")
    plain = await play(stage)
    assert [cached(peer) for peer in (first, replayed, hit, replayed_hit, plain)] == [
        "miss",
        "miss",
        "hit",
        "hit",
        "hit",
    ]
    assert [b"idempotent-replayed" in peer.headers for peer in (first, replayed, hit, replayed_hit, plain)] == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert len({peer.body for peer in (first, replayed, hit, replayed_hit, plain)}) == 1
    assert b"age" not in replayed_hit.headers, "that was true then"
    assert len(stage.journal.outcomes) == 3
    await stage.close()


def at(name: str) -> Target:
    """A model and its provider."""
    return a_target(a_model(name, prices=PRICES), upstream=name * 3)


async def test_a_route_keeps_the_answer_of_whichever_of_its_targets_gave_it(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path, Script([b"{}"], status=503), PLAIN, route=a_route(at("a"), at("b"), weights=(1, 0), cache=RULE)
    )
    first, again = await play(stage), await play(stage)
    assert (cached(first), cached(again)) == ("miss", "hit")
    assert first.headers[b"x-aidock-model"] == again.headers[b"x-aidock-model"] == b"b"
    assert [(row.kind, row.provider, row.upstream_model) for row in stage.journal.outcomes] == [
        ("refund", "aaa", "a"),
        ("charge", "bbb", "b"),
        ("charge", "cache", "b"),
    ]
    assert stage.journal.outcomes[-1].saved_microusd == COST
    await stage.close()


async def test_the_answer_of_a_fallback_is_for_now_and_is_not_kept(tmp_path: Path) -> None:
    route = a_route(at("a"), fallbacks=[at("b")], cache=RULE)
    stage = Stage(tmp_path, Script([b"{}"], status=503), PLAIN, Script([whole_answer()]), route=route)
    first, again = await play(stage), await play(stage)
    assert (first.headers[b"x-aidock-model"], again.headers[b"x-aidock-model"]) == (b"b", b"a")
    assert (cached(first), cached(again), cached(await play(stage))) == ("miss", "miss", "hit")
    await stage.close()


async def test_a_hit_that_finds_no_room_goes_to_the_fallback_for_that_and_pays_for_it(tmp_path: Path) -> None:
    route = a_route(at("a"), fallbacks={"quota": [at("b")]}, cache=RULE)
    stage = Stage(tmp_path, PLAIN, route=route, limits=LimitSet(quota=(a_limit("requests", 1, "day"),)))
    await play(stage)
    stage.directory.of_model["b"] = LimitSet(quota=(a_limit("tokens", 10_000, "day"),))
    moved = await play(stage)
    assert (moved.status, moved.headers[b"x-aidock-model"], cached(moved)) == (200, b"b", None)
    row = stage.journal.outcomes[-1]
    assert (row.model_id, row.provider, row.cost_microusd, row.saved_microusd) == ("b", "bbb", COST, 0)
    assert row.reserved_tokens > 10
    await stage.close()


async def test_a_cancelled_call_keeps_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Script([Hang()]), PLAIN, route=a_cached())
    peer = asking(stage)
    first = asyncio.create_task(stage.play(peer))
    await until(lambda: "hang" in stage.plot.told)
    next(task for task in asyncio.all_tasks() if "Pipeline.serve" in repr(task)).cancel()
    await first
    assert cached(await play(stage)) == "miss"
    await stage.close()


async def test_an_answer_lapses(tmp_path: Path) -> None:
    now = 0.0
    stage = Stage(tmp_path, PLAIN, route=a_cached(CacheRule(10)), cached=MemoryAnswers(clock=lambda: now))
    told = [cached(await play(stage)), cached(await play(stage))]
    now = 11.0
    assert [*told, cached(await play(stage))] == ["miss", "hit", "miss"]
    await stage.close()

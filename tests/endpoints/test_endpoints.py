"""What queries and probes answer, from a desk and a health that a test sets."""

import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gateway import plugins
from gateway.attempt import Carrier
from gateway.conversations.kept import Conversations
from gateway.conversations.memory import MemoryConversations
from gateway.core.body import Body
from gateway.core.endpoint import Inference, Probe, Query
from gateway.core.errors import GatewayError
from gateway.core.limits import Claim, Limit, LimitSet
from gateway.core.ports import StoreUnavailable
from gateway.core.principal import Principal
from gateway.desk import Desk
from gateway.endpoints import chat_completions, livez, me, metrics, model, models, readyz
from gateway.quotas.memory import MemoryStore
from gateway.quotas.windows import Calendar
from gateway.world import World
from providers.openai import PROVIDER
from tests.support.calls import ADA, CHAT, a_limit, a_model, a_route, a_target

LIMITS = LimitSet(
    rate=(a_limit("requests", 5, "minute"),), quota=(a_limit("cost", 12_500_000),), parallel=(a_limit("parallel", 2),)
)


class Snapshot:
    def __init__(self) -> None:
        large = a_model("org/large", context_window=8192, max_output_tokens=100)
        self.routes = {
            "small": a_route(name="small"),
            "org/large": a_route(a_target(large), name="org/large"),
            "smart": a_route(a_target(large), name="smart"),
        }


NOWHERE: Any = None  # these questions never reach an upstream
CARRIERS = {"corp": Carrier(PROVIDER, NOWHERE)}


KEPT = Conversations(MemoryConversations())


class Away(MemoryStore):
    async def peek(self, limits: Any) -> Any:
        raise StoreUnavailable("away")


def a_desk(rest: str = "", *, principal: Principal = ADA, store: MemoryStore | None = None) -> Desk:
    names = ("model_access", "rate_limit", "concurrency", "quota")
    snapshot: Any = Snapshot()
    world = World(snapshot, [plugins.policy(name, {}) for name in names], CARRIERS)
    return Desk(
        principal, rest, world, store or MemoryStore(Calendar(ZoneInfo("UTC"))), lambda model_id: LIMITS, CHAT, KEPT
    )


async def answered(endpoint: Query, desk: Desk) -> Any:
    reply = await endpoint.answer(desk)
    assert (reply.status, reply.content_type) == (200, b"application/json")
    return json.loads(reply.body)


async def test_models_are_those_the_chain_would_let_this_caller_use() -> None:
    everything = await answered(models.ENDPOINT, a_desk())
    assert [card["id"] for card in everything["data"]] == ["small", "org/large", "smart"]
    assert everything["object"] == "list"
    listed = Principal("k2", "eve@example.com", "research", frozenset({"smart"}))
    assert [card["id"] for card in (await answered(models.ENDPOINT, a_desk(principal=listed)))["data"]] == ["smart"]


async def test_a_model_is_shown_under_the_name_that_was_asked_for() -> None:
    large = await answered(model.ENDPOINT, a_desk("org/large"))
    assert (large["id"], large["object"], large["owned_by"]) == ("org/large", "model", "aidock")
    assert (large["context_window"], large["max_output_tokens"]) == (8192, 100)
    route = await answered(model.ENDPOINT, a_desk("smart"))
    assert (route["id"], route["context_window"]) == ("smart", 8192)
    assert "corp" not in json.dumps(route), "not where it is served"


async def test_a_model_that_is_not_there_and_one_that_is_not_for_this_caller_are_told_alike() -> None:
    listed = Principal("k2", "eve@example.com", "research", frozenset({"org/large"}))
    told = []
    for desk in (a_desk("nowhere", principal=listed), a_desk("small", principal=listed)):
        with pytest.raises(GatewayError) as refused:
            await model.ENDPOINT.answer(desk)
        told.append((refused.value.status, refused.value.code, refused.value.message.replace("nowhere", "small")))
    assert told[0] == told[1]
    with pytest.raises(GatewayError) as refused:
        await model.ENDPOINT.answer(a_desk("org/larg", principal=listed))
    assert "Did you mean 'org/large'?" in refused.value.message
    with pytest.raises(GatewayError) as refused:
        await model.ENDPOINT.answer(a_desk("smal", principal=listed))
    assert "small'" not in refused.value.message.replace("'smal'", ""), "no hint at what is not for them"


async def test_me_says_who_calls_what_binds_them_and_what_is_left() -> None:
    store = MemoryStore(Calendar(ZoneInfo("UTC")))
    await store.reserve("r1", [Claim(LIMITS.quota[0], 2_500_000), Claim(LIMITS.parallel[0], 1)], 60, store.now())
    told = await answered(me.ENDPOINT, a_desk(store=store))
    assert (told["user"], told["department"], told["key"]) == ("ada@example.com", "research", "k1")
    assert told["models"] == ["small", "org/large", "smart"]
    left = {(limit["metric"], limit["window"]): (limit["used"], limit["remaining"]) for limit in told["limits"]}
    assert left == {("requests", "minute"): (0, 5), ("cost", "month"): (2.5, 10.0), ("parallel", "none"): (1, 1)}
    by_metric = {limit["metric"]: limit for limit in told["limits"]}
    assert 0 < by_metric["requests"]["resets_in_seconds"] <= 60
    assert by_metric["parallel"]["resets_in_seconds"] is None
    assert (await store.peek([LIMITS.quota[0]]))[0].used == 2_500_000, "asking holds nothing"


async def test_counters_that_are_away_are_a_503_and_not_a_defect() -> None:
    with pytest.raises(GatewayError) as refused:
        await me.ENDPOINT.answer(a_desk(store=Away(Calendar(ZoneInfo("UTC")))))
    assert (refused.value.status, refused.value.code) == (503, "accounting_unavailable")


class Health:
    def __init__(self, ready: bool) -> None:
        self._ready = ready

    def ready(self) -> tuple[bool, dict[str, str]]:
        return self._ready, {"gateway": "ok" if self._ready else "draining", "journal": "ok"}

    def exposition(self) -> tuple[bytes, str]:
        return b"aidock_build_info 1\n", "text/plain; version=0.0.4"


def test_readiness_is_a_status_and_its_reasons_are_told_to_those_who_ask() -> None:
    up, down = Health(True), Health(False)
    assert readyz.ENDPOINT.answer(up, b"")[:2] == (200, b"ready\n")
    assert readyz.ENDPOINT.answer(down, b"")[:2] == (503, b"not ready\n")
    assert readyz.ENDPOINT.answer(down, b"verbose")[:2] == (503, b"not ready\ngateway: draining\njournal: ok\n")


def test_liveness_asks_nobody() -> None:
    nobody: Any = None
    assert livez.ENDPOINT.answer(nobody, b"")[:2] == (200, b"ok\n")
    assert livez.ENDPOINT.aliases == ("/healthz",)


def test_metrics_are_prometheus_text() -> None:
    reply = metrics.ENDPOINT.answer(Health(True), b"")
    assert reply[:3] == (200, b"aidock_build_info 1\n", b"text/plain; version=0.0.4")


@pytest.mark.parametrize("endpoint", [e for e in plugins.endpoints() if isinstance(e, Inference)], ids=lambda e: e.name)
def test_an_inference_endpoint_bounds_what_it_reserves(endpoint: Inference) -> None:
    assert endpoint.method == "POST"
    assert endpoint.prompt
    known = {*endpoint.prompt, *endpoint.caps}
    assert endpoint.form or set(endpoint.required) <= known, (
        "what is required is part of the prompt, or caps the answer"
    )
    assert endpoint.operation == endpoint.path.removeprefix("/v1/")
    assert endpoint.measure or bool(endpoint.caps) == endpoint.streams, "what generates can be capped, or is measured"
    assert not isinstance(endpoint, Probe)


@pytest.mark.parametrize("messages", [b"[]", b"{}", b'"x"', b"7", b"[ ]"])
def test_a_chat_needs_a_message(messages: bytes) -> None:
    assert chat_completions.ENDPOINT.examine is not None
    with pytest.raises(GatewayError) as refused:
        chat_completions.ENDPOINT.examine(Body(b'{"messages":' + messages + b"}"))
    assert (refused.value.status, refused.value.param) == (400, "messages")


async def test_me_shows_the_limits_on_the_models_that_the_caller_may_use_and_each_limit_once() -> None:
    shared = Limit("global", "", "requests", "day", 50)
    of_model = {name: Limit("model", name, "requests", "day", 9) for name in ("small", "org/large", "smart")}
    names = ("model_access", "quota")
    snapshot: Any = Snapshot()
    world = World(snapshot, [plugins.policy(name, {}) for name in names], CARRIERS)
    listed = Principal("k2", "eve@example.com", "research", frozenset({"small"}))
    store = MemoryStore(Calendar(ZoneInfo("UTC")))
    desk = Desk(listed, "", world, store, lambda model_id: LimitSet(quota=(shared, of_model[model_id])), CHAT, KEPT)
    told = (await answered(me.ENDPOINT, desk))["limits"]
    assert [(limit["scope"], limit["subject"]) for limit in told] == [("global", ""), ("model", "small")]

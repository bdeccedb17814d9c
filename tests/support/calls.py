"""Models, targets and calls as the gateway would make them, in one line each."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from gateway import estimate
from gateway.core.body import Body
from gateway.core.call import Call
from gateway.core.deployment import (
    USUAL_COOLDOWN,
    CacheRule,
    Cooldown,
    Deadlines,
    Model,
    OnClientGone,
    Reason,
    Retries,
    Route,
    Strategy,
    Target,
    Upstream,
)
from gateway.core.endpoint import Inference
from gateway.core.limits import Limit, LimitSet, Metric, Scope, Window
from gateway.core.money import UNPRICED, Price, PriceSchedule
from gateway.core.principal import Principal
from gateway.core.secret import Secret
from gateway.endpoints import chat_completions, completions, count_tokens, embeddings, messages

CHAT = chat_completions.ENDPOINT
COMPLETIONS = completions.ENDPOINT
MESSAGES = messages.ENDPOINT
COUNT_TOKENS = count_tokens.ENDPOINT
EMBEDDINGS = embeddings.ENDPOINT

ADA = Principal("k1", "ada@example.com", "research")
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def priced(input: int = 0, output: int = 0, cached_input: int | None = None) -> PriceSchedule:
    """One price for all time, in micro-dollars per million tokens."""
    return PriceSchedule(((0.0, Price(input, output, cached_input, "p1")),))


def a_model(
    model_id: str = "m",
    *,
    prices: PriceSchedule = UNPRICED,
    max_output_tokens: int | None = None,
    context_window: int | None = None,
) -> Model:
    return Model(model_id, model_id, frozenset({"user"}), prices, max_output_tokens, context_window)


def a_target(
    model: Model | None = None,
    *,
    upstream: str = "corp",
    max_retries: int = 0,
    retries: Retries | None = None,
    cooldown: Cooldown = USUAL_COOLDOWN,
    on_client_gone: OnClientGone = "cancel",
    key: int = 0,
) -> Target:
    """`key` is the number of one of several keys."""
    place = Upstream(upstream, "openai", "http://127.0.0.1:1/v1", Secret(f"sk-upstream-012345678{key}"))
    chosen = model or a_model()
    tried = Retries(max_retries, max_retries, max_retries) if retries is None else retries
    return Target(chosen, place, chosen.model_id, Deadlines(), on_client_gone, tried, cooldown, key)


def a_route(
    *targets: Target,
    name: str = "m",
    fallbacks: Sequence[Target] | Mapping[Reason, Sequence[Target]] = (),
    weights: Sequence[int] = (),
    strategy: Strategy = "weight",
    cache: CacheRule | None = None,
) -> Route:
    """A list of fallbacks stands for the default, as in a configuration."""
    serving = targets or (a_target(a_model(name)),)
    by_reason = fallbacks if isinstance(fallbacks, Mapping) else {"default": fallbacks} if fallbacks else {}
    spare: dict[Reason, tuple[Target, ...]] = {reason: tuple(each) for reason, each in by_reason.items()}
    return Route(name, serving, tuple(weights) or (1,) * len(serving), spare, strategy, cache)


def a_limit(
    metric: Metric = "tokens",
    amount: int = 1000,
    window: Window | None = None,
    *,
    scope: Scope = "department",
    subject: str = "research",
    action: Any = "deny",
) -> Limit:
    return Limit(scope, subject, metric, window or ("none" if metric == "parallel" else "month"), amount, action)


def a_call(
    body: dict[str, Any] | bytes = HELLO,
    *,
    endpoint: Inference = CHAT,
    route: Route | None = None,
    limits: LimitSet | None = None,
    principal: Principal = ADA,
    request_id: str = "r1",
) -> Call:
    """A call whose demand is what the gateway works out from its body."""
    parsed = Body(body if isinstance(body, bytes) else json.dumps(body).encode())
    serving = route or a_route()
    call = Call(
        request_id=request_id,
        endpoint=endpoint,
        principal=principal,
        headers=[],
        body=parsed,
        model_id=serving.name,
        route=serving,
        started=time.monotonic(),
        created_at=time.time(),
        streamed=endpoint.streams and parsed.flag("stream"),
        limits=limits or LimitSet(),
        targets=serving.targets,
    )
    call.demand = estimate.demand(call)
    return call

"""Calls and targets as the gateway would make them."""

from __future__ import annotations

import json
from typing import Any

from gateway.core.body import Body
from gateway.core.call import Call, Demand
from gateway.core.deployment import Deadlines, Model, Route, Target, Upstream
from gateway.core.endpoint import Inference
from gateway.core.principal import Principal
from gateway.core.secret import Secret
from gateway.endpoints import chat_completions, completions, embeddings

CHAT = chat_completions.ENDPOINT
COMPLETIONS = completions.ENDPOINT
EMBEDDINGS = embeddings.ENDPOINT
KEY = "sk-upstream-0123456789"


def a_target(
    quirks: dict[str, Any] | None = None,
    *,
    base_url: str = "https://llm.corp.example:8443/v1",
    upstream_model: str = "gpt-x",
    headers: dict[str, str] | None = None,
    key: str | None = KEY,
    dialect: str = "openai",
    deadlines: Deadlines | None = None,
) -> Target:
    upstream = Upstream(
        name="corp",
        dialect=dialect,
        base_url=base_url,
        api_key=Secret(key) if key else None,
        quirks=quirks or {},
        headers=headers or {},
    )
    model = Model("gpt-x", "GPT X", frozenset({"user"}))
    return Target(model, upstream, upstream_model, deadlines or Deadlines())


def a_call(
    body: bytes | dict[str, Any],
    *,
    endpoint: Inference = CHAT,
    wants_usage: bool = False,
    headers: list[tuple[bytes, bytes]] | None = None,
    demand: Demand | None = None,
) -> Call:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    parsed = Body(raw)
    target = a_target()
    return Call(
        request_id="req_1",
        endpoint=endpoint,
        principal=Principal("k", "u", "d"),
        headers=headers or [],
        body=parsed,
        model_id="gpt-x",
        route=Route("gpt-x", (target,), (1,)),
        started=0.0,
        created_at=0.0,
        streamed=parsed.flag("stream"),
        wants_usage=wants_usage,
        demand=demand or Demand(choices=parsed.count("n") or 1),
    )

"""`/quotas`: how much of what."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.admin._routes import Ask, Input, Output, Permission, Route, Short, not_found, read_json, unprocessable
from gateway.core.body import Body
from gateway.core.endpoint import Inference
from gateway.explain import Question, explain
from gateway.identity import callers
from gateway.identity.callers import Asked

Tokens = Annotated[int, Field(ge=0, le=2**31)]


class ExplainQuestion(Input):
    """`body` is an example request; without one, `prompt_tokens` and `max_tokens` say how long it would be."""

    user: Short | None = None
    key: Short | None = None
    model: Short
    endpoint: Short = "chat.completions"
    body: dict[str, Any] | None = None
    prompt_tokens: Tokens | None = None
    max_tokens: Tokens | None = None


class ExplainedDemand(Output):
    """What the call would hold; `units` of `unit` where it is not measured by tokens alone."""

    prompt_tokens: int
    output_cap: int | None
    choices: int
    tokens: int
    cost_usd: float
    units: int | None = None
    unit: str | None = None


class ExplainedPolicy(Output):
    """What one policy says before anything is held."""

    policy: str
    shadow: bool
    verdict: Literal["passes", "refuses", "would_refuse", "not_asked"]
    message: str | None


class ExplainedLimit(Output):
    """Where one limit stands, and what the call needs of it."""

    policy: str
    scope: str
    subject: str
    metric: str
    window: str
    action: str
    limit: float
    used: float
    remaining: float
    needed: float
    resets_in_seconds: float | None
    verdict: Literal["fits", "no_room", "would_refuse"]


class ExplainedDecision(Output):
    """Whether the call may be made, else what it would be told and what decides it."""

    allowed: bool
    decided_by: str | None
    limit: ExplainedLimit | None
    status: int | None
    code: str | None
    message: str | None


class Explanation(Output):
    """Would this call pass, and what decides it."""

    object: Literal["quotas.explanation"]
    user: str
    department: str
    key: str | None
    note: str | None
    model: str
    endpoint: str
    begins: str | None
    """The model that the call begins at."""
    fallback: str | None
    """Why it does not begin at the first of its route."""
    demand: ExplainedDemand | None
    policies: list[ExplainedPolicy]
    limits: list[ExplainedLimit]
    decision: ExplainedDecision


async def _explained(ask: Ask) -> Mapping[str, Any]:
    """What the chain would say to a call, without making it."""
    said = read_json(ExplainQuestion, ask.body)
    if said.body is not None and not (said.prompt_tokens is said.max_tokens is None):
        raise unprocessable("Give either an example 'body', or 'prompt_tokens' and 'max_tokens'.", "body")
    house = ask.house
    question = Question(
        said.model,
        _endpoint(house.endpoints, said.endpoint),
        None if said.body is None else bytes(Body(ask.body).members["body"]),  # as it was written, to the byte
        1 if said.prompt_tokens is None else said.prompt_tokens,
        said.max_tokens,
    )
    return await explain(await _asked(ask, said), question, house.world(), house.counters, house.directory.limits)


def _endpoint(endpoints: Mapping[str, Inference], name: str) -> Inference:
    endpoint = endpoints.get(name)
    if endpoint is None:
        raise unprocessable(f"'endpoint' must be one of {', '.join(sorted(endpoints))}.", "endpoint")
    return endpoint


async def _asked(ask: Ask, said: ExplainQuestion) -> Asked:
    """Whom the question is about: the caller, unless it says. Only administrators may ask about others, and to
    everybody else there are none."""
    own = ask.scope.user
    user = None if said.user is None else said.user.strip().lower()
    if said.key is None and user is None:
        return Asked(ask.principal)
    if own is not None and user not in (None, own):
        raise not_found(f"There is no user '{user}'.")
    async with ask.house.database.read() as session:
        if said.key is not None:
            return await callers.by_key(session, said.key, user or own, time.time())
        return await callers.by_user(session, user or "", time.time())


ROUTES = (Route("POST", "/quotas/explain", Permission.OWN, _explained, body=ExplainQuestion, answers=Explanation),)

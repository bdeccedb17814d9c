"""Would this call pass, and what decides it: the chain's own `check`, `claims`, `shrink` and `denied`, with nothing
held and nothing sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

from gateway import estimate
from gateway.core.body import Body
from gateway.core.call import Call
from gateway.core.deployment import Leg
from gateway.core.endpoint import Inference
from gateway.core.errors import GatewayError, accounting_unavailable, invalid_request
from gateway.core.limits import Claim, Level, Limit, LimitSet
from gateway.core.money import in_units
from gateway.core.ports import Inspects, Policy, StoreUnavailable
from gateway.core.principal import Principal
from gateway.health import Health
from gateway.identity.callers import Asked
from gateway.routing import Course
from gateway.trial import Trial
from gateway.world import World

_UNWRITTEN = Body(b"{}")
_AS_CONFIGURED = 0.0
"""Where chance decides which of a route's models comes first, the answer is about the first in the configuration."""


class Counters(Protocol):
    """As much of a counter store as a question needs."""

    async def peek(self, limits: Sequence[Limit]) -> Sequence[Level]: ...


class Question(NamedTuple):
    """A call as somebody would make it: its body, or without one how long prompt and answer would be."""

    model: str
    endpoint: Inference
    body: bytes | None = None
    prompt_tokens: int = 1
    max_tokens: int | None = None


class _Held(NamedTuple):
    """What one claim would be told."""

    policy: Policy
    claim: Claim
    level: Level

    @property
    def fits(self) -> bool:
        limit, amount = self.claim
        return limit.amount > 0 and self.level.used + amount <= limit.amount

    @property
    def refuses(self) -> bool:
        return self.claim.limit.action == "deny" and not self.fits


class _Refusal(NamedTuple):
    """What ends the call: an error, and the policy and the claim it comes from where there is one."""

    error: GatewayError
    policy: str | None = None
    held: _Held | None = None


async def explain(
    asked: Asked,
    question: Question,
    world: World,
    counters: Counters,
    limits: Callable[[Principal, str], LimitSet],
) -> dict[str, Any]:
    """The answer as JSON has it; money in dollars. Raises 503 where the counters do not answer."""
    answer: dict[str, Any] = {
        "object": "quotas.explanation",
        "user": asked.principal.user,
        "department": asked.principal.department,
        "key": asked.principal.key_id or None,
        "note": asked.note or None,
        "model": question.model,
        "endpoint": question.endpoint.name,
        "begins": None,
        "fallback": None,
        "demand": None,
        "policies": [],
        "limits": [],
    }
    if asked.refused is not None:
        return answer | {"decision": _decision(_Refusal(asked.refused, "api_key"))}
    measure = partial(_measure, question, limits)
    try:
        course = Course(world.route(question.model, asked.principal), Health(), _AS_CONFIGURED, time.time())
        call = _call(question, asked.principal, course.first(), measure)
    except GatewayError as error:
        return answer | {"decision": _decision(_Refusal(error, "request"))}
    refusal, answer["policies"] = await _checked(world, call)
    if refusal is None:
        refusal, held = await _claimed(world.policies, call, counters)
        if refusal is not None and (found := await _elsewhere(world, call, counters, course, measure)) is not None:
            refusal, (call, held) = None, found
        answer["limits"] = [_limit(each) for each in held]
    answer |= {"begins": call.targets[0].model.model_id, "fallback": call.fallback, "demand": _demand(call)}
    return answer | {"decision": _decision(refusal)}


def _call(question: Question, principal: Principal, leg: Leg, measure: Callable[[Call], None]) -> Call:
    """The question as the call it is about. Raises what the request itself would be told."""
    endpoint = question.endpoint
    body = _UNWRITTEN if question.body is None else Body(question.body)
    if question.body is not None:
        for name in endpoint.required:
            if name not in body:
                raise invalid_request(f"'{name}' is missing.", param=name)
        if endpoint.examine is not None:
            endpoint.examine(body)
    call = Call(
        request_id="",
        endpoint=endpoint,
        principal=principal,
        headers=[],
        body=body,
        model_id=leg.name,
        route=leg.route,
        started=0.0,
        created_at=time.time(),
        streamed=endpoint.streams and body.flag("stream"),
    )
    call.take(leg)
    measure(call)
    return call


def _measure(question: Question, limits: Callable[[Principal, str], LimitSet], call: Call) -> None:
    """What binds the call under its name, and what it may use of the models it may go to."""
    call.limits = limits(call.principal, call.model_id)
    if question.body is None:
        most = question.max_tokens if question.endpoint.caps else None
        call.demand = estimate.assumed(call, question.prompt_tokens, most)
    else:
        call.demand = estimate.demand(call)


async def _elsewhere(
    world: World, call: Call, counters: Counters, course: Course, measure: Callable[[Call], None]
) -> tuple[Call, Sequence[_Held]] | None:
    """The call at the first model that the route has for callers whose limits have no room, and that these have room
    for; None where there is none."""
    while (leg := course.after("quota")) is not None:
        other = replace(call)
        other.take(leg)
        try:
            measure(other)
            for policy in world.policies:
                policy.check(other)
        except GatewayError:
            continue
        refusal, held = await _claimed(world.policies, other, counters)
        if refusal is None:
            return other, held
    return None


async def _checked(world: World, call: Call) -> tuple[_Refusal | None, list[dict[str, Any]]]:
    """Put the call before the chain, and tell what each policy says until one refuses."""
    refusal: _Refusal | None = None
    said: list[dict[str, Any]] = []
    for policy in world.policies:
        verdict, message = "passes", None
        if refusal is not None:
            verdict = "not_asked"
        elif (error := await _objection(world, policy, call)) is not None:
            verdict, message = "would_refuse" if isinstance(policy, Trial) else "refuses", error.message
            refusal = None if isinstance(policy, Trial) else _Refusal(error, policy.name)
        shadow = isinstance(policy, Trial)
        said.append({"policy": policy.name, "shadow": shadow, "verdict": verdict, "message": message})
    return refusal, said


async def _objection(world: World, policy: Policy, call: Call) -> GatewayError | None:
    """What a policy says against the call, in the words that the caller would read."""
    if isinstance(policy, Trial):
        return policy.refusal(call) or await policy.objection(call)
    try:
        policy.check(call)
        if isinstance(policy, Inspects):
            await policy.inspect(call)
    except GatewayError as error:
        if error.code == "model_not_found":
            return world.unknown_model(call.route.name, call.principal)
        return error
    return None


async def _claimed(
    policies: Sequence[Policy], call: Call, counters: Counters
) -> tuple[_Refusal | None, Sequence[_Held]]:
    """What the claims would be told; where one finds no room, after its policy has made do with less if it can."""
    held = await _levels(policies, call, counters)
    refusing = next((each for each in held if each.refuses), None)
    if refusing is None:
        return None, held
    shrink = getattr(refusing.policy, "shrink", None)
    if shrink is not None and shrink(call, refusing.level):
        held = await _levels(policies, call, counters)
        refusing = next((each for each in held if each.refuses), None)
        if refusing is None:
            return None, held
    return _Refusal(refusing.policy.denied(call, refusing.level), refusing.policy.name, refusing), held


async def _levels(policies: Sequence[Policy], call: Call, counters: Counters) -> Sequence[_Held]:
    claims = [(policy, claim) for policy in policies for claim in policy.claims(call)]
    try:
        levels = await counters.peek([claim.limit for _, claim in claims])
    except StoreUnavailable as error:
        raise accounting_unavailable("The gateway cannot look up the limits now. Try again shortly.") from error
    return [_Held(policy, claim, level) for (policy, claim), level in zip(claims, levels, strict=True)]


def _demand(call: Call) -> dict[str, Any]:
    amounts = call.demand.amounts
    measured = {} if call.demand.unit is None else {"units": call.demand.units, "unit": call.demand.unit}
    return {
        "prompt_tokens": call.demand.prompt_tokens,
        "output_cap": call.demand.output_cap,
        "choices": call.demand.choices,
        "tokens": amounts["tokens"],
        "cost_usd": in_units("cost", amounts["cost"]),
        **measured,
    }


def _limit(held: _Held) -> dict[str, Any]:
    (limit, amount), level = held.claim, held.level
    verdict = "fits" if held.fits else "no_room" if held.refuses else "would_refuse"
    return {
        "policy": held.policy.name,
        "scope": limit.scope,
        "subject": limit.subject,
        "metric": limit.metric,
        "window": limit.window,
        "action": limit.action,
        "limit": in_units(limit.metric, limit.amount),
        "used": in_units(limit.metric, level.used),
        "remaining": in_units(limit.metric, level.remaining),
        "needed": in_units(limit.metric, amount),
        "resets_in_seconds": level.resets_in,
        "verdict": verdict,
    }


def _decision(refusal: _Refusal | None) -> dict[str, Any]:
    if refusal is None:
        return {"allowed": True, "decided_by": None, "limit": None, "status": None, "code": None, "message": None}
    error, policy, held = refusal
    return {
        "allowed": False,
        "decided_by": policy,
        "limit": None if held is None else _limit(held),
        "status": error.status,
        "code": error.code,
        "message": error.message,
    }

"""Where a call to a public name would go, and why: routing's own `Course`, walked without a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.core.deployment import REASONS, Deployment, Leg, Route, Target
from gateway.core.money import in_units
from gateway.routing import REASON_OF, Course, Failure, Standing, fallbacks, order

_AS_CONFIGURED = 0.0
_BEYOND_CHANCE = 0.5
"""A draw by which the strategy `latency` goes for the quickest, as it nearly always does."""

_FAILURES: Sequence[Failure] = (*REASON_OF, "quota")
_NAMES = {standing.name.lower(): standing for standing in Standing}


class Reported:
    """A `View` of what a running gateway has said of its deployments; without one all of them are well."""

    def __init__(self, facts: Sequence[Mapping[str, Any]] | None) -> None:
        self.asked = facts is not None
        self._facts = {Deployment(*each["deployment"]): each for each in facts or ()}

    def standing(self, target: Target) -> Standing:
        return _NAMES[self.of(target).get("health", "ready")]

    def latency(self, target: Target) -> float:
        return (self.of(target).get("first_byte_ms") or 0.0) / 1000

    def wait(self, target: Target) -> float:
        return float(self.of(target).get("rests_for_seconds") or 0.0)

    def of(self, target: Target) -> Mapping[str, Any]:
        """What is known of a target's deployment."""
        return self._facts.get(target.deployment, {})


def explain(route: Route, view: Reported, now: float) -> dict[str, Any]:
    """The answer as JSON has it. Where weight decides which target comes first, `share` says how often each does."""
    draw = _BEYOND_CHANCE if route.strategy == "latency" else _AS_CONFIGURED
    shares = {} if route.strategy != "weight" else dict(zip(route.targets, route.weights, strict=True))
    whole = sum(route.weights) or 1
    targets = [
        {**_target(target, view, now), "share": round(shares[target] / whole, 4) if shares else None}
        for target in order(route, draw, view, now)
    ]
    return {
        "object": "routes.explanation",
        "name": route.name,
        "strategy": route.strategy,
        "health_from": "gateway" if view.asked else None,
        "targets": targets,
        "fallbacks": {reason: _models(fallbacks(route, reason)) for reason in REASONS if reason != "default"},
        "begins": _leg(Course(route, view, draw, now).first()),
        "after": {kind: _after(route, view, draw, now, kind) for kind in _FAILURES},
    }


def summary(route: Route) -> dict[str, Any]:
    """A route in a line."""
    stated = {reason: _models(targets) for reason, targets in route.fallbacks.items()}
    return {
        "name": route.name,
        "strategy": route.strategy,
        "targets": _models(route.targets),
        "deployments": len(route.targets),
        "fallbacks": stated,
    }


def _after(route: Route, view: Reported, draw: float, now: float, failed: Failure) -> dict[str, Any] | None:
    """Where a call goes that fails so where it begins."""
    course = Course(route, view, draw, now)
    course.first()
    leg = course.after(failed)
    return None if leg is None else _leg(leg)


def _leg(leg: Leg) -> dict[str, Any] | None:
    """None where every deployment is barred."""
    if not leg.targets:
        return None
    return {
        "model": leg.targets[0].model.model_id,
        "booked_as": leg.name,
        "fallback": leg.reason,
        "although_resting": leg.anyway,
    }


def _target(target: Target, view: Reported, now: float) -> dict[str, Any]:
    price = target.model.prices.at(now)
    known = view.of(target)
    return {
        "model": target.model.model_id,
        "provider": target.upstream.name,
        "upstream_model": target.upstream_model,
        "key": target.key or None,
        "health": known.get("health"),
        "failures": known.get("failures"),
        "rests_for_seconds": known.get("rests_for_seconds"),
        "first_byte_ms": known.get("first_byte_ms"),
        "input_usd": in_units("cost", price.input),
        "output_usd": in_units("cost", price.output),
        "retries": target.retries._asdict(),
        "cooldown": target.cooldown._asdict(),
    }


def _models(targets: Sequence[Target]) -> list[str]:
    return list(dict.fromkeys(target.model.model_id for target in targets))

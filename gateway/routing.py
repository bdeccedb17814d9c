"""Which target takes a call, and which comes next. Pure: health and chance are given.

A route's own targets come first, as its strategy orders them; what rests is passed over. After a failure come the
targets not yet tried, then the fallbacks for what went wrong. Enforcement, `aidock routes explain` and the tests all
walk the same `Course`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Literal, Protocol

from gateway.core.call import MOST_LEGS
from gateway.core.deployment import Leg, Model, Reason, Route, Target

Kind = Literal[
    "connect",
    "rate_limit",
    "server_error",
    "timeout",
    "broken",
    "credential",
    "forbidden",
    "context_window",
    "content_policy",
    "unable",
    "caller",
]
"""What went wrong with an attempt: the upstream was not reached, had no room, said that it failed, took too long, broke
off or was unreadable, did not take our credential, forbade the call (which may be for what the caller named), did not
take so long a prompt or such words, or cannot be told such a call at all; or the caller erred."""

Failure = Kind | Literal["quota"]
"""Why a call leaves a model: `quota` where the caller's limits have no room for it."""

REASON_OF: Mapping[Kind, Reason] = {
    "connect": "error",
    "server_error": "error",
    "broken": "error",
    "credential": "error",
    "forbidden": "error",
    "timeout": "timeout",
    "rate_limit": "rate_limit",
    "context_window": "context_window",
    "content_policy": "content_policy",
    "unable": "error",
}
"""The fallbacks that a failure leads to. The caller's own errors lead nowhere."""

_BY_DEFAULT = frozenset({"error", "timeout", "rate_limit"})
"""Reasons for which plain fallbacks stand in. The others change whose answer it is, so each has to be asked for."""

_EXPLORED = 0.05
"""The share of calls that do not go to the quickest target first, so that one that has become quick is noticed."""

_PROMPT_PARTS = 3
"""Targets are compared in cost by three parts of prompt to one of answer, as chats usually are."""


class Standing(IntEnum):
    """How a deployment is off: well; rested, so that one call at a time may try it; at rest after failures, taken only
    where nothing else is left; barred until the moment that its upstream has named."""

    READY = 0
    TRIAL = 1
    RESTING = 2
    BARRED = 3


class View(Protocol):
    """The health of deployments, as far as routing asks."""

    def standing(self, target: Target) -> Standing: ...

    def latency(self, target: Target) -> float:
        """Seconds to the first byte, lately; 0 while unknown."""

    def wait(self, target: Target) -> float:
        """Seconds until it may be tried again."""


def order(route: Route, draw: float, view: View, now: float) -> Sequence[Target]:
    """The targets that share the load in the order to try them, whatever their health. `draw`, from 0 up to 1, decides
    what chance decides: by weight which comes first, the others following as configured. The other strategies go by
    that where they see no difference. `now` is the unix time that prices are looked up for."""
    targets = route.targets
    if len(targets) == 1:
        return targets
    if route.strategy == "latency":
        if draw < _EXPLORED:
            return _spread(targets, route.weights, draw / _EXPLORED)
        drawn = _spread(targets, route.weights, (draw - _EXPLORED) / (1 - _EXPLORED))
        return sorted(drawn, key=view.latency)
    drawn = _spread(targets, route.weights, draw)
    if route.strategy == "cost":
        return sorted(drawn, key=lambda target: _cost(target, now))
    if route.strategy == "order":
        rank = list(dict.fromkeys(target.model.model_id for target in targets))
        return sorted(drawn, key=lambda target: rank.index(target.model.model_id))
    return drawn


def fallbacks(route: Route, reason: Reason) -> Sequence[Target]:
    """The models for a reason, those of `default` where the route says nothing of it."""
    stated = route.fallbacks.get(reason)
    if stated is None and reason in _BY_DEFAULT:
        stated = route.fallbacks.get("default")
    return stated or ()


class Course:
    """One call's way through a route. Every model comes once; its deployments come together."""

    __slots__ = ("_anyway", "_draw", "_now", "_route", "_shared", "_tried", "_view")

    def __init__(self, route: Route, view: View, draw: float, now: float) -> None:
        self._route = route
        self._view = view
        self._draw = draw
        self._now = now
        self._shared: Sequence[Target] | None = None
        self._tried: list[Model] = []
        self._anyway = False

    def first(self) -> Leg:
        """Where the call begins: with a target that is well, else with a fallback that is, else with one that should
        rest. A leg without targets where every deployment is barred."""
        route, view = self._route, self._view
        if len(route.every_target) == 1:
            target = route.targets[0]
            standing = view.standing(target)
            if standing is Standing.BARRED:
                return Leg(route, route.name, (), wait=view.wait(target))
            if standing is Standing.RESTING:
                return Leg(route, route.name, route.targets, anyway=True)
            usual: Leg | None = route.memo.get("leg")
            if usual is None:
                usual = route.memo["leg"] = Leg(route, route.name, route.targets)
            return usual
        for anyway in (False, True):
            for leg in (*self._own(anyway=anyway), *self._spare("error", anyway=anyway)):
                self._anyway = anyway
                return self._taken(leg)
        wait = min((view.wait(target) for target in route.every_target), default=0.0)
        return Leg(route, route.name, (), wait=wait)

    def after(self, failed: Failure) -> Leg | None:
        """Where the call goes after a failure, None where nowhere. One that had to begin with what should rest goes on
        so."""
        reason = "quota" if failed == "quota" else REASON_OF.get(failed)
        if reason is None or len(self._route.every_target) == 1 or len(self._tried) >= MOST_LEGS:
            return None
        if reason == "quota" and not any(target.model in self._tried for target in self._route.targets):
            own = self._own(anyway=True)  # the call began at a fallback, as these should rest: that refuses nobody
        elif reason in ("quota", "context_window", "content_policy"):
            own = iter(())
        else:
            own = self._own(anyway=self._anyway)
        for leg in (*own, *self._spare(reason, anyway=self._anyway)):
            if leg.targets[0].model not in self._tried:
                return self._taken(leg)
        return None

    def _own(self, *, anyway: bool) -> Iterator[Leg]:
        """The route's own models, as the strategy orders them."""
        if self._shared is None:
            self._shared = order(self._route, self._draw, self._view, self._now)
        for targets in _by_model(self._shared):
            yield from self._leg(targets, self._route.name, None, self._route.targets, anyway=anyway)

    def _spare(self, reason: Reason, *, anyway: bool) -> Iterator[Leg]:
        """The fallbacks for a reason, each booked under its own name."""
        spare = fallbacks(self._route, reason)
        for targets in _by_model(spare):
            drawn = _spread(targets, (1,) * len(targets), self._draw)
            yield from self._leg(drawn, targets[0].model.model_id, reason, spare, anyway=anyway)

    def _leg(
        self, targets: Sequence[Target], name: str, reason: Reason | None, among: Sequence[Target], *, anyway: bool
    ) -> Iterator[Leg]:
        """The deployments of one model that may be tried, as a leg; none where none may."""
        most = Standing.RESTING if anyway else Standing.TRIAL
        usable = tuple(target for target in targets if self._view.standing(target) <= most)
        if usable:
            alone = self._route.of(target for target in among if target.model is targets[0].model)
            yield Leg(alone, name, usable, reason, anyway)

    def _taken(self, leg: Leg) -> Leg:
        self._tried.append(leg.targets[0].model)
        return leg


def _cost(target: Target, now: float) -> int:
    price = target.model.prices.at(now)
    return _PROMPT_PARTS * price.input + price.output


def _spread(targets: Sequence[Target], weights: Sequence[int], draw: float) -> Sequence[Target]:
    """One target drawn by weight, then the others as they stand."""
    if len(targets) == 1:
        return targets
    point = draw * sum(weights)
    chosen = 0
    for index, weight in enumerate(weights):
        if point < weight:
            chosen = index
            break
        point -= weight
    return (targets[chosen], *targets[:chosen], *targets[chosen + 1 :])


def _by_model(targets: Iterable[Target]) -> Iterable[list[Target]]:
    """The targets of each model together, in the order in which the models come first."""
    found: dict[str, list[Target]] = {}
    for target in targets:
        found.setdefault(target.model.model_id, []).append(target)
    return found.values()

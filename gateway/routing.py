"""Which target takes a call, and which comes next. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.deployment import Route, Target


def order(route: Route, draw: float) -> Sequence[Target]:
    """The route's targets in the order to try them. `draw`, from 0 up to 1, picks the first by weight; the others
    follow as configured, then the fallbacks."""
    if len(route.targets) == 1:
        return route.every_target
    point = draw * sum(route.weights)
    chosen = 0
    for index, weight in enumerate(route.weights):
        if point < weight:
            chosen = index
            break
        point -= weight
    rest = [target for index, target in enumerate(route.targets) if index != chosen]
    return (route.targets[chosen], *rest, *route.fallbacks)

"""Which target comes first, and which follow."""

from collections import Counter
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.deployment import Route
from gateway.routing import order
from tests.support.calls import a_target


def a_weighted_route(weights: list[int], fallbacks: int = 0) -> Route:
    targets = tuple(a_target(upstream=f"t{index}") for index in range(len(weights)))
    return Route("m", targets, tuple(weights), tuple(a_target(upstream=f"f{index}") for index in range(fallbacks)))


@given(st.lists(st.integers(1, 100), min_size=1, max_size=6), st.integers(0, 3), st.floats(0, 1, exclude_max=True))
def test_every_target_is_tried_once_and_fallbacks_come_last_in_order(
    weights: list[int], fallbacks: int, draw: float
) -> None:
    route = a_weighted_route(weights, fallbacks)
    names = [target.upstream.name for target in order(route, draw)]
    assert sorted(names[: len(weights)]) == sorted(f"t{index}" for index in range(len(weights)))
    assert names[len(weights) :] == [f"f{index}" for index in range(fallbacks)]
    rest = names[1 : len(weights)]
    assert rest == sorted(rest), "those not drawn follow as configured"


def test_the_first_is_drawn_by_weight() -> None:
    route = a_weighted_route([3, 1, 4])
    draws = 800
    first = Counter(order(route, float(Fraction(n, draws)))[0].upstream.name for n in range(draws))
    assert first == {"t0": 300, "t1": 100, "t2": 400}

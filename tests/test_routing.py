"""Which target comes first, which follow, and where a failure leads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.deployment import REASONS, Deployment, Reason, Route, Strategy, Target
from gateway.itinerary import Reported, explain
from gateway.routing import REASON_OF, Course, Failure, Standing, fallbacks, order
from tests.support.calls import a_model, a_route, a_target, priced

NOW = 1_790_000_000.0
FAILURES: Sequence[Failure] = (*REASON_OF, "quota")


class View:
    """Health as a test sets it, by provider."""

    def __init__(
        self, standings: Mapping[str, Standing] | None = None, latencies: Mapping[str, float] | None = None
    ) -> None:
        self._standings = standings or {}
        self._latencies = latencies or {}

    def standing(self, target: Target) -> Standing:
        return self._standings.get(target.upstream.name, Standing.READY)

    def latency(self, target: Target) -> float:
        return self._latencies.get(target.upstream.name, 0.0)

    def wait(self, target: Target) -> float:
        return 7.0


WELL = View()


def one(name: str, *, key: int = 0, price: int = 0) -> Target:
    """A target of a model and a provider of the same name."""
    return a_target(a_model(name, prices=priced(price, price)), upstream=name, key=key)


def keys_of(name: str, count: int) -> list[Target]:
    model = a_model(name)
    return [a_target(model, upstream=name, key=number) for number in range(1, count + 1)]


def names(targets: Sequence[Target]) -> list[str]:
    return [target.upstream.name for target in targets]


def a_weighted_route(weights: list[int]) -> Route:
    return a_route(*(one(f"t{index}") for index in range(len(weights))), weights=weights)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=6), st.floats(0, 1, exclude_max=True))
def test_every_target_comes_once_and_those_not_drawn_follow_as_configured(weights: list[int], draw: float) -> None:
    found = names(order(a_weighted_route(weights), draw, WELL, NOW))
    assert sorted(found) == sorted(f"t{index}" for index in range(len(weights)))
    assert found[1:] == sorted(found[1:])


def test_the_first_is_drawn_by_weight() -> None:
    route = a_weighted_route([3, 1, 4])
    draws = 800
    first = Counter(order(route, float(Fraction(n, draws)), WELL, NOW)[0].upstream.name for n in range(draws))
    assert first == {"t0": 300, "t1": 100, "t2": 400}


@pytest.mark.parametrize("draw", [0.0, 0.3, 0.6, 0.99])
def test_a_strategy_outranks_chance(draw: float) -> None:
    targets = [one("dear", price=9), one("cheap", price=1), one("middling", price=5)]
    slow = View(latencies={"dear": 0.1, "cheap": 0.9, "middling": 0.4})
    expected: dict[Strategy, list[str]] = {
        "order": ["dear", "cheap", "middling"],
        "cost": ["cheap", "middling", "dear"],
    }
    for strategy, wanted in expected.items():
        assert names(order(a_route(*targets, strategy=strategy), draw, slow, NOW)) == wanted
    if draw >= 0.05:
        by_latency = order(a_route(*targets, strategy="latency"), draw, slow, NOW)
        assert names(by_latency) == ["dear", "middling", "cheap"]


def test_one_call_in_twenty_looks_whether_another_has_become_quicker() -> None:
    route = a_route(one("slow"), one("quick"), strategy="latency")
    view = View(latencies={"slow": 2.0, "quick": 0.1})
    draws = 1000
    first = Counter(order(route, n / draws, view, NOW)[0].upstream.name for n in range(draws))
    assert first == {"quick": 975, "slow": 25}


def test_a_deployment_nobody_has_measured_is_tried_before_the_quick_ones() -> None:
    route = a_route(one("quick"), one("new"), strategy="latency")
    assert names(order(route, 0.5, View(latencies={"quick": 0.1}), NOW)) == ["new", "quick"]


@pytest.mark.parametrize("strategy", ["weight", "order", "cost", "latency"])
def test_the_keys_of_a_model_share_its_load(strategy: Strategy) -> None:
    route = a_route(*keys_of("a", 4), strategy=strategy)
    first = Counter(order(route, n / 400, WELL, NOW)[0].key for n in range(400))
    assert all(97 <= first[key] <= 103 for key in (1, 2, 3, 4))


def test_a_models_keys_are_tried_together_and_its_leg_has_it_alone() -> None:
    first, second = keys_of("a", 2)
    route = a_route(first, second, one("b"))
    leg = Course(route, WELL, 0.5, NOW).first()
    assert [target.key for target in leg.targets] == [2, 1]
    assert leg.route.every_target == (first, second)
    assert (leg.route.name, leg.name, leg.reason) == ("m", "m", None)
    assert Course(route, WELL, 0.0, NOW).first().route is leg.route, "made once"


def test_a_plain_model_with_one_target_is_its_own_leg() -> None:
    route = a_route(one("a"))
    leg = Course(route, WELL, 0.5, NOW).first()
    assert (leg.route, leg.targets) == (route, route.targets)
    assert Course(route, WELL, 0.5, NOW).after("server_error") is None


def walk(course: Course, *failures: Failure) -> list[str]:
    """The names under which a call is booked as it fails so, until there is nowhere to go."""
    booked = [course.first().name]
    for failed in failures:
        leg = course.after(failed)
        if leg is None:
            break
        booked.append(leg.name)
    return booked


ROUTE = a_route(
    one("a"),
    one("b"),
    fallbacks={
        "default": [one("any")],
        "timeout": [one("patient"), one("any")],
        "context_window": [one("long")],
        "content_policy": [one("lenient")],
        "quota": [one("cheap"), one("free")],
    },
)


@pytest.mark.parametrize(
    ("failures", "booked"),
    [
        (("server_error", "connect", "broken"), ["m", "m", "any"]),
        (("rate_limit", "rate_limit", "rate_limit"), ["m", "m", "any"]),
        (("credential", "timeout", "timeout", "timeout"), ["m", "m", "patient", "any"]),
        (("context_window", "context_window"), ["m", "long"]),
        (("content_policy",), ["m", "lenient"]),
        (("caller",), ["m"]),
        (("quota", "quota", "quota"), ["m", "cheap", "free"]),
        (("server_error", "context_window", "timeout", "timeout"), ["m", "m", "long", "patient", "any"]),
    ],
)
def test_what_went_wrong_decides_where_a_call_goes_next(failures: Sequence[Failure], booked: list[str]) -> None:
    assert walk(Course(ROUTE, WELL, 0.0, NOW), *failures) == booked


def test_an_empty_list_of_fallbacks_is_none_and_not_the_default() -> None:
    route = a_route(one("a"), fallbacks={"default": [one("any")], "timeout": []})
    assert walk(Course(route, WELL, 0.0, NOW), "timeout") == ["m"]
    assert walk(Course(route, WELL, 0.0, NOW), "server_error") == ["m", "any"]
    for reason in ("context_window", "content_policy", "quota"):
        assert fallbacks(route, reason) == (), "these change whose answer it is, so a list does not stand for them"


def test_what_rests_is_passed_over_and_taken_where_nothing_else_is_left() -> None:
    resting = View({"a": Standing.RESTING})
    assert names(Course(ROUTE, resting, 0.0, NOW).first().targets) == ["b"]
    both = View({"a": Standing.RESTING, "b": Standing.BARRED})
    leg = Course(ROUTE, both, 0.0, NOW).first()
    assert (leg.name, leg.reason, leg.anyway) == ("any", "error", False)
    everything = View(dict.fromkeys(("a", "b", "any"), Standing.RESTING))
    leg = Course(ROUTE, everything, 0.0, NOW).first()
    assert (names(leg.targets), leg.reason, leg.anyway) == (["a"], None, True)
    course = Course(ROUTE, everything, 0.0, NOW)
    assert walk(course, "server_error", "server_error", "server_error") == ["m", "m", "any"], "each may do better"


def test_a_caller_without_room_on_the_fallback_that_it_began_at_is_not_refused_for_what_rests() -> None:
    route = a_route(one("a"), fallbacks={"default": [one("any")], "quota": [one("cheap")]})
    course = Course(route, View({"a": Standing.RESTING}), 0.0, NOW)
    assert names(course.first().targets) == ["any"]
    own = course.after("quota")
    assert own is not None
    assert (names(own.targets), own.reason, own.anyway) == (["a"], None, True)
    assert walk(Course(route, View({"a": Standing.BARRED}), 0.0, NOW), "quota") == ["any", "cheap"]


def test_what_its_upstream_has_barred_is_not_taken_at_all() -> None:
    barred = View(dict.fromkeys(("a", "b", "any"), Standing.BARRED))
    leg = Course(ROUTE, barred, 0.0, NOW).first()
    assert (leg.targets, leg.wait) == ((), 7.0)
    alone = Course(a_route(one("a")), barred, 0.0, NOW).first()
    assert (alone.targets, alone.wait) == ((), 7.0)


def test_what_may_be_tried_again_is_tried_in_its_place() -> None:
    assert names(Course(ROUTE, View({"a": Standing.TRIAL}), 0.0, NOW).first().targets) == ["a"]


POOL = ("a", "b", "c", "d", "e")
standings = st.dictionaries(st.sampled_from(POOL), st.sampled_from(list(Standing)))
routes = st.builds(
    lambda shared, keyed, spare, strategy: a_route(
        *(target for name in shared for target in (keys_of(name, 2) if name in keyed else [one(name)])),
        fallbacks={
            reason: [one(name) for name in dict.fromkeys(models) if name not in shared]
            for reason, models in spare.items()
        },
        strategy=strategy,
    ),
    st.lists(st.sampled_from(POOL), min_size=1, max_size=3, unique=True),
    st.sets(st.sampled_from(POOL)),
    st.dictionaries(st.sampled_from(REASONS), st.lists(st.sampled_from(POOL), max_size=3)),
    st.sampled_from(["order", "weight", "latency", "cost"]),
)


@given(routes, standings, st.floats(0, 1, exclude_max=True), st.lists(st.sampled_from(FAILURES), max_size=12))
def test_no_course_comes_to_a_model_twice_or_to_what_must_not_be_tried(
    route: Route, standings: dict[str, Standing], draw: float, failures: list[Failure]
) -> None:
    view = View(standings)
    course = Course(route, view, draw, NOW)
    leg = course.first()
    if not leg.targets:
        usual = (*route.targets, *fallbacks(route, "error"))
        assert all(view.standing(target) is Standing.BARRED for target in usual)
        return
    ready = [each for each in route.targets if view.standing(each) <= Standing.TRIAL]
    assert not ready or (leg.reason is None and not leg.anyway), "a well target of the route comes first"
    seen = [leg]
    for failed in failures:
        following = course.after(failed)
        if following is not None:
            back = failed == "quota" and following.reason is None
            assert not back or leg.reason is not None, "only who began at a fallback has the route's own models left"
            assert following.anyway == (leg.anyway or back)
            allowed: Reason | None = "quota" if failed == "quota" else REASON_OF[failed]
            assert following.reason in (None, allowed)
            seen.append(following)
    models = [leg.targets[0].model.model_id for leg in seen]
    assert len(set(models)) == len(models)
    for leg in seen:
        assert {target.model.model_id for target in leg.targets} == {leg.targets[0].model.model_id}
        assert {target.model.model_id for target in leg.route.every_target} == {leg.targets[0].model.model_id}
        most = Standing.RESTING if leg.anyway else Standing.TRIAL
        assert all(view.standing(target) <= most for target in leg.targets)


class Told(Reported):
    """What a gateway with this health would say, whose draw is the one that the explanation is made for."""

    def __init__(self, route: Route, standings: Mapping[str, Standing]) -> None:
        super().__init__(
            [
                {
                    "deployment": target.deployment,
                    "health": standings.get(target.upstream.name, Standing(0)).name.lower(),
                }
                for target in route.every_target
            ]
        )


@given(routes, standings)
def test_a_dry_run_says_what_enforcement_would_do(route: Route, standings: dict[str, Standing]) -> None:
    found = explain(route, Told(route, standings), NOW)
    draw = 0.5 if route.strategy == "latency" else 0.0
    view = View(standings)
    tried = [(each["model"], each["key"]) for each in found["targets"]]
    assert tried == [(each.model.model_id, each.key or None) for each in order(route, draw, view, NOW)]
    leg = Course(route, view, draw, NOW).first()
    assert (found["begins"] or {}).get("model") == (leg.targets[0].model.model_id if leg.targets else None)
    for failed in FAILURES:
        course = Course(route, view, draw, NOW)
        course.first()
        following = course.after(failed)
        told = found["after"][failed]
        assert (told and told["booked_as"]) == (following and following.name)
        assert (told and told["fallback"]) == (following and following.reason)


def test_a_deployment_is_known_by_its_credential_which_it_does_not_tell() -> None:
    first, second = keys_of("a", 2)
    again = keys_of("a", 1)[0]
    assert first.deployment != second.deployment
    assert first.deployment == again.deployment, "whatever configuration version it is of"
    assert first.deployment == Deployment("a", "a", first.deployment.digest)
    key = first.upstream.api_key
    assert key is not None
    assert key.reveal() not in repr(first.deployment)

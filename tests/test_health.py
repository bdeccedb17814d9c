"""What rests, for how long, and who may try it first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.deployment import Cooldown, Target
from gateway.health import Health
from gateway.routing import Kind, Standing
from tests.support.calls import a_model, a_target

TARGET = a_target(cooldown=Cooldown(3, 30.0))
COUNTED: tuple[Kind, ...] = ("connect", "rate_limit", "server_error", "timeout", "broken")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock, jitter=lambda: 1.0)


@pytest.mark.parametrize("kind", COUNTED)
def test_failures_in_a_row_make_a_deployment_rest_and_then_be_tried(health: Health, clock: Clock, kind: Kind) -> None:
    for _ in range(2):
        health.failed(TARGET, kind)
    assert health.standing(TARGET) is Standing.READY
    health.failed(TARGET, kind)
    assert health.standing(TARGET) is Standing.RESTING
    assert health.wait(TARGET) == 30.0
    clock.now += 29.9
    assert health.standing(TARGET) is Standing.RESTING
    clock.now += 0.1
    assert health.standing(TARGET) is Standing.TRIAL


def test_a_success_between_failures_begins_the_count_anew(health: Health) -> None:
    for _ in range(5):
        health.failed(TARGET, "server_error")
        health.failed(TARGET, "server_error")
        health.succeeded(TARGET, 0.1)
    assert health.standing(TARGET) is Standing.READY


@pytest.mark.parametrize("kind", ["caller", "context_window", "content_policy"])
def test_what_the_caller_did_wrong_shows_that_the_deployment_is_well(health: Health, kind: Kind) -> None:
    for _ in range(5):
        health.failed(TARGET, "server_error")
        health.failed(TARGET, "server_error")
        health.failed(TARGET, kind)
    assert health.standing(TARGET) is Standing.READY


def test_a_trial_is_one_calls_alone(health: Health, clock: Clock) -> None:
    for _ in range(3):
        health.failed(TARGET, "server_error")
    clock.now += 30
    assert health.admit(TARGET) == "trial"
    assert health.admit(TARGET) == "refused"
    assert health.admit(TARGET, anyway=True) == "free", "where nothing else is left"
    health.give_back(TARGET)
    assert health.admit(TARGET) == "trial", "the one before came to no verdict"
    health.succeeded(TARGET)
    health.give_back(TARGET)
    assert health.admit(TARGET) == health.admit(TARGET) == "free"


def test_a_trial_that_fails_begins_another_rest_at_once(health: Health, clock: Clock) -> None:
    for _ in range(3):
        health.failed(TARGET, "server_error")
    clock.now += 30
    assert health.admit(TARGET) == "trial"
    health.failed(TARGET, "timeout")
    health.give_back(TARGET)
    assert health.standing(TARGET) is Standing.RESTING
    assert health.wait(TARGET) == 30.0


def test_one_call_without_room_makes_others_go_elsewhere_and_bars_none(health: Health) -> None:
    """It may have been one caller's call that was too large."""
    health.failed(TARGET, "rate_limit", 5.0)
    assert (health.standing(TARGET), health.wait(TARGET)) == (Standing.RESTING, 5.0)
    assert health.admit(TARGET, anyway=True) == "free"
    health.succeeded(TARGET, 0.1)
    assert health.standing(TARGET) is Standing.READY


def bar(health: Health, target: Target, seconds: float) -> None:
    """Its upstream says again and again when to come again."""
    for _ in range(3):
        health.failed(target, "rate_limit", seconds)


def test_an_upstream_that_keeps_saying_when_to_come_again_is_left_alone_until_then(
    health: Health, clock: Clock
) -> None:
    bar(health, TARGET, 5.0)
    assert health.standing(TARGET) is Standing.BARRED
    assert health.admit(TARGET, anyway=True) == "refused"
    health.succeeded(TARGET, 0.1)
    assert health.standing(TARGET) is Standing.BARRED, "a call that was under way does not lift that"
    clock.now += 5
    assert health.admit(TARGET) == "trial"
    assert health.standing(TARGET) is Standing.BARRED
    health.succeeded(TARGET, 0.1)
    health.give_back(TARGET)
    assert health.standing(TARGET) is Standing.READY


def test_no_word_of_an_upstreams_bars_it_for_longer_than_minutes(health: Health) -> None:
    bar(health, TARGET, 7 * 86_400)
    assert health.wait(TARGET) == 300.0


def test_a_credential_that_is_not_taken_rests_longer_and_at_once(health: Health) -> None:
    health.failed(TARGET, "credential")
    assert (health.standing(TARGET), health.wait(TARGET)) == (Standing.RESTING, 300.0)


def test_a_deployment_with_no_failures_to_rest_after_never_rests(health: Health) -> None:
    tireless = a_target(cooldown=Cooldown(0, 30.0))
    for kind in (*COUNTED, "credential"):
        for _ in range(5):
            health.failed(tireless, kind, 60.0)
    assert health.standing(tireless) is Standing.READY


def test_what_one_model_finds_out_every_model_of_the_deployment_knows(health: Health) -> None:
    other = a_target(a_model("other"))
    same = a_target()
    health.failed(TARGET, "credential")
    assert health.standing(same) is Standing.RESTING
    assert health.standing(other) is Standing.READY
    assert health.standing(a_target(key=2)) is Standing.READY


def test_what_the_configuration_has_no_more_is_forgotten(health: Health) -> None:
    gone = a_target(upstream="gone")
    health.failed(TARGET, "credential")
    health.failed(gone, "credential")
    health.keep([a_target()])
    assert health.standing(TARGET) is Standing.RESTING, "a reload cures nobody"
    assert health.standing(gone) is Standing.READY


def test_the_time_to_the_first_byte_follows_what_is_measured(health: Health) -> None:
    assert health.latency(TARGET) == 0.0
    health.succeeded(TARGET, 1.0)
    assert health.latency(TARGET) == 1.0
    for _ in range(40):
        health.succeeded(TARGET, 0.2)
    assert health.latency(TARGET) == pytest.approx(0.2, abs=0.01)


def test_a_check_that_works_ends_a_rest_but_no_bar_and_those_that_fail_begin_one(health: Health, clock: Clock) -> None:
    for _ in range(3):
        health.checked(TARGET, well=False)
    assert health.standing(TARGET) is Standing.RESTING
    health.checked(TARGET, well=True)
    assert health.standing(TARGET) is Standing.TRIAL, "the next call is the proof"
    barred = a_target(upstream="barred")
    bar(health, barred, 9.0)
    health.checked(barred, well=True)
    assert health.standing(barred) is Standing.BARRED


def test_a_model_is_up_while_one_of_its_keys_is(health: Health) -> None:
    keys = [a_target(key=1), a_target(key=2)]
    health.failed(keys[0], "credential")
    assert health.up(keys) == {("m", "corp"): True}
    health.failed(keys[1], "credential")
    assert health.up(keys) == {("m", "corp"): False}


def test_facts_are_what_people_ask_for_and_tell_no_key(health: Health) -> None:
    health.succeeded(TARGET, 0.25)
    for _ in range(3):
        health.failed(TARGET, "timeout")
    assert health.facts(TARGET) == {
        "deployment": TARGET.deployment,
        "health": "resting",
        "failures": 3,
        "rests_for_seconds": 30.0,
        "first_byte_ms": 250.0,
    }


steps = st.one_of(
    st.tuples(st.just("fail"), st.sampled_from((*COUNTED, "credential", "caller"))),
    st.tuples(st.just("bar"), st.floats(0, 1000)),
    st.tuples(st.just("work"), st.floats(0.001, 10)),
    st.tuples(st.just("check"), st.booleans()),
    st.tuples(st.just("pass"), st.floats(0, 400)),
    st.tuples(st.just("admit"), st.booleans()),
    st.tuples(st.just("give back"), st.none()),
)


@given(st.lists(steps, max_size=60))
def test_whatever_happens_one_trial_at_a_time_and_every_rest_ends(history: list[tuple[str, object]]) -> None:
    clock = Clock()
    health = Health(clock, jitter=lambda: 1.0)
    out = False
    for step, argument in history:
        match step:
            case "fail":
                health.failed(TARGET, argument)  # type: ignore[arg-type]
            case "bar":
                health.failed(TARGET, "rate_limit", argument)  # type: ignore[arg-type]
            case "work":
                health.succeeded(TARGET, argument)  # type: ignore[arg-type]
            case "check":
                health.checked(TARGET, well=bool(argument))
            case "pass":
                clock.now += argument  # type: ignore[operator]
            case "admit":
                admission = health.admit(TARGET, anyway=bool(argument))
                assert not (admission == "trial" and out)
                out = out or admission == "trial"
            case "give back":
                health.give_back(TARGET)
                out = False
        assert health.latency(TARGET) >= 0
        if out:
            assert health.standing(TARGET) is not Standing.TRIAL
    health.give_back(TARGET)
    clock.now += 301
    assert health.standing(TARGET) in (Standing.READY, Standing.TRIAL)

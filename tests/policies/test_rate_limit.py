"""Minute limits: what a call takes of them, and when to come back."""

from gateway.core.limits import Level, LimitSet
from policies.rate_limit import create
from tests.support.calls import EMBEDDINGS, HELLO, a_call, a_limit, a_model, a_route, a_target, priced

RATES = LimitSet(rate=(a_limit("requests", 10, "minute"), a_limit("tokens", 9_000, "minute")))


def test_an_output_nobody_capped_is_reckoned_with_and_not_capped() -> None:
    call = a_call(limits=RATES)
    create({"expected_output_tokens": 500}).check(call)
    requests, tokens = create({}).claims(call)
    assert (requests.amount, tokens.amount) == (1, call.demand.prompt_tokens + 500)
    assert call.demand.cap_to_write is None


def test_a_cap_of_the_clients_is_taken_at_its_word() -> None:
    call = a_call(HELLO | {"max_tokens": 7, "n": 2}, limits=RATES)
    create({}).check(call)
    assert create({}).claims(call)[1].amount == call.demand.prompt_tokens + 14


def test_without_a_rate_or_without_output_nothing_is_reckoned_with() -> None:
    for call in (a_call(), a_call({"model": "m", "input": "x"}, endpoint=EMBEDDINGS, limits=RATES)):
        create({}).check(call)
        assert call.demand.expected_output == 0


def test_cost_per_minute_goes_by_the_models_price() -> None:
    route = a_route(a_target(a_model(prices=priced(1_000_000, 2_000_000))))
    limits = LimitSet(rate=(a_limit("cost", 10**9, "minute"),))
    call = a_call(HELLO | {"max_tokens": 100}, route=route, limits=limits)
    (claim,) = create({}).claims(call)
    assert claim.amount == call.demand.prompt_tokens + 200


def test_a_full_window_says_whose_limit_how_full_and_when_to_come_back() -> None:
    call = a_call(limits=RATES)
    error = create({}).denied(call, Level(RATES.rate[0], 10, 37))
    assert (error.status, error.code, error.type) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert error.headers["retry-after"] == "37"
    for word in ("department research", "10 requests per minute", "10 used", "37 s"):
        assert word in error.message


def test_the_wait_is_never_less_than_a_second() -> None:
    for resets_in in (0, None):
        assert create({}).denied(a_call(), Level(RATES.rate[0], 10, resets_in)).headers["retry-after"] == "1"

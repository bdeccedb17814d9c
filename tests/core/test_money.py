"""Money is integers, and no rounding ever favours the caller by more than it must."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.money import FREE, UNPRICED, Price, PriceSchedule, dollars, micros

tokens = st.integers(0, 2**31)
rates = st.integers(0, 10**9)


@given(tokens, tokens, tokens, rates, rates, st.none() | rates)
def test_a_cost_is_never_below_the_exact_value_and_less_than_a_micro_dollar_above(
    prompt: int, completion: int, cached: int, input: int, output: int, cached_input: int | None
) -> None:
    cost = Price(input, output, cached_input).cost(prompt, completion, cached)
    cached = min(cached, prompt)
    rate = input if cached_input is None else cached_input
    exact = Fraction((prompt - cached) * input + cached * rate + completion * output, 1_000_000)
    assert type(cost) is int
    assert 0 <= cost - exact < 1


@given(tokens, tokens, rates, rates)
def test_more_tokens_never_cost_less(prompt: int, completion: int, input: int, output: int) -> None:
    price = Price(input, output)
    assert price.cost(prompt + 1, completion) >= price.cost(prompt, completion)
    assert price.cost(prompt, completion + 1) >= price.cost(prompt, completion)


def test_one_call_is_rounded_once() -> None:
    assert Price(150_000, 600_000).cost(1, 1) == 1, "0.75 micro-dollars"
    assert Price(150_000, 600_000).cost(1000, 1000) == 750
    assert FREE.cost(2**31, 2**31) == 0


@given(st.integers(0, 2**50))
def test_dollars_and_micro_dollars_are_each_others_inverse(amount: int) -> None:
    assert micros(dollars(amount)) == amount


@pytest.mark.parametrize(
    ("text", "amount"), [("0", 0), ("0.15", 150_000), ("12.50", 12_500_000), ("0.0000001", 1), ("1.0000001", 1_000_001)]
)
def test_a_price_is_never_rounded_to_free(text: str, amount: int) -> None:
    assert micros(Decimal(text)) == amount


def test_the_price_in_force_is_the_newest_that_has_begun() -> None:
    first, second, third = Price(1, version="a"), Price(2, version="b"), Price(3, version="c")
    schedule = PriceSchedule(((100.0, first), (200.0, second), (300.0, third)))
    assert [schedule.at(moment).version for moment in (0, 100, 199.9, 200, 299, 300, 1e12)] == list("aaabbcc")
    assert UNPRICED.at(0) is FREE

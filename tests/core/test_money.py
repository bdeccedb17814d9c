"""Money is integers, and no rounding ever favours the caller by more than it must."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.money import FREE, UNPRICED, Price, PriceSchedule, Unit, dollars, micros

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


@pytest.mark.parametrize(
    ("unit", "rate", "many"),
    [
        ("image", "per_image", 1),
        ("second", "per_minute", 60),
        ("character", "per_million_characters", 1),
        ("search", "per_search", 1),
    ],
)
@given(units=st.integers(0, 2**31), price=st.integers(0, 10**17), prompt=tokens, input=rates)
def test_units_and_tokens_are_rounded_up_together_and_exactly(
    unit: Unit, rate: str, many: int, units: int, price: int, prompt: int, input: int
) -> None:
    cost = Price(input, **{rate: price}).cost(prompt, 0, 0, units, unit)
    exact = Fraction(prompt * input, 1_000_000) + Fraction(units * price, 1_000_000 * many)
    assert 0 <= cost - exact < 1


def test_units_have_the_prices_that_vendors_write() -> None:
    assert Price(per_image=40_000_000_000).cost(0, 0, 0, 3, "image") == 120_000, "$0.04 an image"
    assert Price(per_minute=6_000_000_000).cost(0, 0, 0, 61, "second") == 6_100, "$0.006 a minute"
    assert Price(per_million_characters=15_000_000).cost(0, 0, 0, 4_096, "character") == 61_440, "$15 a million"
    assert Price(per_search=2_000_000_000).cost(0, 0, 0, 1, "search") == 2_000, "$2 for a thousand"
    assert Price(per_image=1).cost(0, 0, 0, 1, "image") == 1, "never rounded to free"
    assert Price(1_000_000, per_image=1).cost(5, 0, 0, 9, "second") == 5, "what has no price is free"


def test_a_price_says_whether_it_sells_a_unit() -> None:
    price = Price(per_minute=1)
    assert price.sells("second")
    assert price.sells_only("second")
    assert not price.sells("image")
    assert not Price(1, per_minute=1).sells_only("second")
    assert not FREE.sells_only("second")


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

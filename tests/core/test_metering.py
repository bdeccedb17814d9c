import pytest

from gateway.core.call import Demand
from gateway.core.metering import metered
from gateway.core.money import Price
from gateway.core.usage import Usage

BY_UNIT = Price(per_minute=6_000_000_000)
BY_TOKEN = Price(6_000_000, 10_000_000)
BOTH = Price(6_000_000, 10_000_000, per_minute=6_000_000_000)
FREE = Price()
TOLD = Usage(100, 20)
GUESSED = Demand(likely_prompt=40, unit="second", units=90, likely_units=30)
CERTAIN = Demand(likely_prompt=40, unit="second", units=30, likely_units=30)


@pytest.mark.parametrize(
    ("demand", "price", "tokens", "units", "expected"),
    [
        (CERTAIN, BY_UNIT, None, None, (0, 0, 30, "upstream")),
        (GUESSED, BY_UNIT, None, None, (0, 0, 30, "estimated")),
        (GUESSED, BY_UNIT, None, 61, (0, 0, 61, "upstream")),
        (GUESSED, BY_UNIT, None, 0, (0, 0, 0, "upstream")),
        (GUESSED, BY_UNIT, TOLD, None, (100, 20, 30, "estimated")),
        (CERTAIN, BY_TOKEN, None, None, (40, 7, 30, "estimated")),
        (GUESSED, BY_TOKEN, TOLD, None, (100, 20, 30, "upstream")),
        (GUESSED, BOTH, TOLD, 61, (100, 20, 61, "upstream")),
        (GUESSED, BOTH, None, 61, (0, 0, 61, "upstream")),
        (GUESSED, FREE, None, None, (0, 0, 30, "estimated")),
    ],
)
def test_what_was_told_stands_and_the_rest_is_reckoned(
    demand: Demand, price: Price, tokens: Usage | None, units: int | None, expected: tuple[int, int, int, str]
) -> None:
    usage = metered(demand, price, tokens=tokens, units=units, produced=7)
    assert (usage.prompt, usage.completion, usage.units, usage.source) == expected
    assert usage.unit == "second"


def test_a_call_that_was_cut_short_is_never_certain() -> None:
    assert metered(CERTAIN, BY_UNIT, tokens=None, units=None, produced=0, whole=False).source == "estimated"


def test_a_call_without_units_is_measured_in_tokens_as_ever() -> None:
    assert metered(Demand(likely_prompt=40), BY_TOKEN, tokens=None, units=None, produced=7) == Usage(
        40, 7, source="estimated"
    )
    assert metered(Demand(likely_prompt=40), BY_TOKEN, tokens=TOLD, units=None, produced=7) == TOLD

"""Money as integers.

Amounts are micro-dollars. Prices are micro-dollars per million tokens, so US dollars per million tokens times
1,000,000: `$0.15` per million is `150_000`. What is not sold by the token has a price for a million of its units in the
same way, so that cents for an image are exact. A cost is rounded up once, over the whole call.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

MICROS_PER_DOLLAR = 1_000_000
TOKENS_PER_PRICE = 1_000_000
MAX_AMOUNT = 2**50
"""Amounts stay below this so that they are exact wherever they go, a Lua double included."""


def micros(dollars: Decimal) -> int:
    """Dollars as micro-dollars, rounded up, so that no price is rounded to free."""
    scaled = dollars * MICROS_PER_DOLLAR
    whole = int(scaled)
    return whole if whole == scaled else whole + 1


def dollars(micro_dollars: int) -> Decimal:
    """Micro-dollars as dollars, exact."""
    return Decimal(micro_dollars) / MICROS_PER_DOLLAR


Unit = Literal["image", "second", "character", "search"]
"""What a call is measured in besides tokens."""

UnitRate = Literal["per_image", "per_minute", "per_million_characters", "per_search"]

RATES: Final[dict[Unit, tuple[UnitRate, int]]] = {
    "image": ("per_image", 1),
    "second": ("per_minute", 60),
    "character": ("per_million_characters", 1),
    "search": ("per_search", 1),
}
"""For each unit the price that it has, and how many of it that price is for."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost, in micro-dollars, and the version of the price book that says so.

    The prices per unit are for a million images, minutes, characters and searches. They come on top: what is sold by
    the unit costs nothing by the token.
    """

    input: int = 0
    output: int = 0
    cached_input: int | None = None
    version: str = "free"
    per_image: int = 0
    per_minute: int = 0
    per_million_characters: int = 0
    per_search: int = 0

    def cost(self, prompt: int, completion: int, cached: int = 0, units: int = 0, unit: Unit | None = None) -> int:
        """Micro-dollars for a call, rounded up. `cached` is the part of `prompt` the provider had in its cache."""
        cached = min(cached, prompt)
        cached_rate = self.input if self.cached_input is None else self.cached_input
        scaled = (prompt - cached) * self.input + cached * cached_rate + completion * self.output
        if unit is None:
            return -(-scaled // TOKENS_PER_PRICE)
        name, each = RATES[unit]
        scaled = scaled * each + units * int(getattr(self, name))
        return -(-scaled // (TOKENS_PER_PRICE * each))

    def sells(self, unit: Unit) -> bool:
        """Whether the unit has a price."""
        return bool(getattr(self, RATES[unit][0]))

    def sells_only(self, unit: Unit) -> bool:
        """Whether the unit has a price and tokens have none."""
        return self.sells(unit) and not self.input and not self.output


FREE = Price()


@dataclass(frozen=True, slots=True)
class PriceSchedule:
    """A model's prices by the unix time from which each holds, earliest first. Before the first, the first holds."""

    entries: tuple[tuple[float, Price], ...] = ((0.0, FREE),)

    def at(self, moment: float) -> Price:
        """The price in force at a unix time."""
        entries = self.entries
        current = entries[0][1]
        for since, price in entries[1:]:
            if since > moment:
                break
            current = price
        return current


UNPRICED = PriceSchedule()


def rate_in_dollars(name: UnitRate, price: Price) -> float:
    """A price per unit as the configuration has it."""
    rate = int(getattr(price, name)) / MICROS_PER_DOLLAR
    return rate if name == "per_million_characters" else rate / TOKENS_PER_PRICE


def in_units(metric: str, amount: int) -> int | float:
    """An amount of a limit's metric as people read it: dollars for `cost`, a count for the others."""
    return amount / MICROS_PER_DOLLAR if metric == "cost" else amount

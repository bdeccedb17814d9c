"""Money as integers.

Amounts are micro-dollars. Prices are micro-dollars per million tokens, so US dollars per million tokens times
1,000,000: `$0.15` per million is `150_000`. A cost is rounded up once, over the whole call.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

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


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost, in micro-dollars, and the version of the price book that says so."""

    input: int = 0
    output: int = 0
    cached_input: int | None = None
    version: str = "free"

    def cost(self, prompt: int, completion: int, cached: int = 0) -> int:
        """Micro-dollars for a call, rounded up. `cached` is the part of `prompt` the provider had in its cache."""
        cached = min(cached, prompt)
        cached_rate = self.input if self.cached_input is None else self.cached_input
        scaled = (prompt - cached) * self.input + cached * cached_rate + completion * self.output
        return -(-scaled // TOKENS_PER_PRICE)


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


def in_units(metric: str, amount: int) -> int | float:
    """An amount of a limit's metric as people read it: dollars for `cost`, a count for the others."""
    return amount / MICROS_PER_DOLLAR if metric == "cost" else amount

"""What a call has used that is measured in units as well as, or instead of, tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.usage import Usage

if TYPE_CHECKING:
    from gateway.core.call import Demand
    from gateway.core.money import Price


def metered(
    demand: Demand, price: Price, *, tokens: Usage | None, units: int | None, produced: int, whole: bool = True
) -> Usage:
    """The usage as far as the upstream told it, `tokens` or `units`, and as it is likely where it did not.

    Tokens that nobody told are reckoned, from `produced` for the answer, only where the model is sold by the token and
    not by the unit; elsewhere they are none. Units that nobody told are what the request asked for: that is certain
    where it left nothing open and the answer is `whole`.
    """
    unit = demand.unit
    if unit is None:
        return tokens or Usage(demand.likely_prompt, produced, source="estimated")
    sells = price.sells(unit)
    certain = units is not None or (whole and demand.units == demand.likely_units)
    if tokens is not None:
        certain = certain or not sells
    elif (price.input or price.output) and not sells:
        tokens, certain = Usage(demand.likely_prompt, produced), False
    else:
        tokens = Usage(0, 0)
    count = demand.likely_units if units is None else units
    return tokens._replace(units=count, unit=unit, source="upstream" if certain else "estimated")

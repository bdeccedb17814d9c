"""A call as data: what is known about one inference request while the gateway serves it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.core.limits import NO_LIMITS, Claim, LimitSet, Metric
from gateway.core.money import FREE, MAX_AMOUNT, Price, Unit

if TYPE_CHECKING:
    from gateway.core.body import Body
    from gateway.core.deployment import Leg, Reason, Route, Target
    from gateway.core.endpoint import Inference
    from gateway.core.headers import Headers
    from gateway.core.ports import TextFilter
    from gateway.core.principal import Principal
    from gateway.core.records import Decision, OutcomeRecord


@dataclass(slots=True)
class Demand:
    """The most a call can use, which is what it reserves, unless a policy is content with what it is likely to use.

    `prompt_tokens` is an upper bound, `likely_prompt` a guess; `bounded` is false where nothing bounds the prompt,
    because the body only refers to it. `requested_cap` is the client's own limit on output tokens for each of its
    `choices`; `output_cap` is the lowest that anyone set, written into the upstream's body when it is lower than the
    client's, or when somebody `relies` on it: then the upstream must be told in words of its own. `expected_output`
    stands in where nobody set a cap. With a `margin` the call reserves its likely prompt times that, and
    `likely_output` where that is less than the cap. `units` are the most of `unit` that it can use, `likely_units` a
    guess. `price` is the dearest of the possible targets at `priced_at`, in seconds on the counter store's clock: the
    call is charged by what holds then, whichever window it comes to be counted in.
    """

    prompt_tokens: int = 0
    likely_prompt: int = 0
    bounded: bool = True
    choices: int = 1
    requested_cap: int | None = None
    output_cap: int | None = None
    relies: bool = False
    expected_output: int = 0
    margin: float | None = None
    likely_output: int = 0
    unit: Unit | None = None
    units: int = 0
    likely_units: int = 0
    price: Price = FREE
    priced_at: float = field(default=0.0, compare=False)
    _amounts: dict[Metric, int] | None = field(default=None, init=False, repr=False)

    def cap_output(self, tokens: int) -> None:
        """Lower the output cap; a cap never rises."""
        if self.output_cap is None or tokens < self.output_cap:
            self.output_cap = tokens
            self._amounts = None

    def expect_prompt(self, more: int) -> None:
        """Reckon with so many prompt tokens more; fewer than before are not reckoned with."""
        if more > 0:
            self.prompt_tokens += more
            self._amounts = None

    def expect_units(self, most: int, likely: int) -> None:
        """Reckon with so many units."""
        self.units, self.likely_units = most, likely
        self._amounts = None

    def rely_on_cap(self) -> None:
        """What is held leans on the cap: no upstream may be asked in a way in which it might not keep to it."""
        self.relies = True

    def expect_output(self, tokens: int) -> None:
        """Reckon with this much output where nobody caps it."""
        self.expected_output = tokens
        self._amounts = None

    def reserve_likely(self, margin: float, output: int) -> None:
        """Be content with the likely prompt times `margin` and `output` tokens an answer, where the most is more."""
        self.margin = margin
        self.likely_output = output
        self._amounts = None

    def within_cap(self, produced: int) -> int:
        """Estimated completion tokens, but no more than the upstream was allowed to make."""
        return produced if self.output_cap is None else min(produced, self.output_cap * self.choices)

    @property
    def cap_to_write(self) -> int | None:
        """The cap the upstream must be told, None when the client's own words (or none) stand."""
        return self.output_cap if self.relies or self.output_cap != self.requested_cap else None

    @property
    def amounts(self) -> Mapping[Metric, int]:
        """How much of each metric to reserve, as far as counters can count: no limit has room for more than that."""
        amounts = self._amounts
        if amounts is None:
            prompt = self.prompt_tokens
            output = self.expected_output if self.output_cap is None else self.output_cap
            units = self.units
            if self.margin is not None:
                prompt = min(prompt, math.ceil(self.likely_prompt * self.margin))
                output = self.likely_output if self.output_cap is None else min(self.output_cap, self.likely_output)
                units = min(units, math.ceil(self.likely_units * self.margin))
            output *= self.choices
            amounts = self._amounts = {
                "requests": 1,
                "parallel": 1,
                "tokens": min(prompt + output, MAX_AMOUNT - 1),
                "cost": min(self.price.cost(prompt, output, 0, units, self.unit), MAX_AMOUNT - 1),
            }
        return amounts


MOST_LEGS = 16
"""A request goes to no more models than that."""


def leg_id(request_id: str, number: int) -> str:
    """The id of a request's call on a later leg, which count from 2."""
    return f"{request_id}-{number}"


@dataclass(slots=True)
class Call:
    """One inference request, or one leg of it: a request that fails at one model and goes on to another is a call of
    its own for each. `request_id` is ours, whatever the client sent, with the leg's number behind it from the second
    on; `started` is on the monotonic clock, `created_at` on the counter store's, both in seconds.

    `model_id` is the name that it is booked under, `route` the one that the client asked for, less what does not take
    part in this leg; `targets` are to be tried in order. `claims` are what it holds until it settles, `decisions` what
    the policies that made them were told, `shadowed` the policies in shadow whose check would have refused it.
    `as_chat` is the call as chat completions have it, once a target needed it so, and `translated` is true of that one;
    `filters` make what reads each text of the answer on its way; `continues` is the answer whose conversation, kept by
    the gateway, is in the body. `fallback` says why it goes to a fallback; `anyway` that its targets should rest.
    `on_end` is told of each call of the request that ends, with its row."""

    request_id: str
    endpoint: Inference
    principal: Principal
    headers: Headers
    body: Body
    model_id: str
    route: Route
    started: float
    created_at: float
    streamed: bool = False
    wants_usage: bool = False
    limits: LimitSet = NO_LIMITS
    demand: Demand = field(default_factory=Demand)
    claims: Sequence[Claim] = ()
    decisions: tuple[Decision, ...] = ()
    shadowed: tuple[str, ...] = ()
    as_chat: Call | None = None
    translated: bool = False
    filters: tuple[Callable[[], TextFilter], ...] = ()
    continues: str | None = None
    targets: Sequence[Target] = ()
    fallback: Reason | None = None
    anyway: bool = False
    on_end: Callable[[Call, OutcomeRecord], None] | None = None

    def replace_body(self, body: Body) -> None:
        """Make the call with another body. Each byte more may be a token more."""
        self.demand.expect_prompt(len(body.raw) - len(self.body.raw))
        self.body = body
        if self.endpoint.measure is not None:
            measure = self.endpoint.measure(body)
            self.demand.expect_units(measure.most, measure.likely)

    def take(self, leg: Leg) -> None:
        """Go this way."""
        self.model_id = leg.name
        self.route = leg.route
        self.targets = leg.targets
        self.fallback = leg.reason
        self.anyway = leg.anyway

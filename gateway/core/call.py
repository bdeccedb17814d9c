"""A call as data: what is known about one inference request while the gateway serves it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.core.limits import NO_LIMITS, LimitSet, Metric
from gateway.core.money import FREE, MAX_AMOUNT, Price

if TYPE_CHECKING:
    from gateway.core.body import Body
    from gateway.core.deployment import Route
    from gateway.core.endpoint import Inference
    from gateway.core.headers import Headers
    from gateway.core.principal import Principal


@dataclass(slots=True)
class Demand:
    """The most a call can use, which is what it reserves.

    `prompt_tokens` is an upper bound. `requested_cap` is the client's own limit on output tokens for each of its
    `choices`; `output_cap` is the lowest that anyone set, written into the upstream's body when it is lower than the
    client's. `expected_output` stands in where nobody set one. `price` is the dearest of the possible targets.
    """

    prompt_tokens: int = 0
    choices: int = 1
    requested_cap: int | None = None
    output_cap: int | None = None
    expected_output: int = 0
    price: Price = FREE

    def cap_output(self, tokens: int) -> None:
        """Lower the output cap; a cap never rises."""
        if self.output_cap is None or tokens < self.output_cap:
            self.output_cap = tokens

    @property
    def cap_to_write(self) -> int | None:
        """The cap the upstream must be told, None when the client's own (or none) stands."""
        return None if self.output_cap == self.requested_cap else self.output_cap

    @property
    def output_tokens(self) -> int:
        per_choice = self.expected_output if self.output_cap is None else self.output_cap
        return per_choice * self.choices

    def of(self, metric: Metric) -> int:
        """How much of a metric to reserve, as far as any store can count: no limit has room for more than that."""
        match metric:
            case "tokens":
                return min(self.prompt_tokens + self.output_tokens, MAX_AMOUNT - 1)
            case "cost":
                return min(self.price.cost(self.prompt_tokens, self.output_tokens), MAX_AMOUNT - 1)
        return 1


@dataclass(slots=True)
class Call:
    """One inference request. `request_id` is ours, whatever the client sent; `started` is on the monotonic clock,
    `created_at` on the wall clock, both in seconds."""

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

"""Requests, tokens and cost per minute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.core.call import Call
from gateway.core.errors import GatewayError, rate_limited
from gateway.core.limits import Claim, Level
from gateway.core.ports import OnStoreError
from policies._settings import Settings


class RateLimit:
    """Holds a call's share of every minute limit. A rate protects a service rather than a budget, so a store that
    is down lets calls through, and an output nobody capped is reckoned with rather than capped.

    `wait`: a call that finds the minute full waits for the next one where that is no more than so many seconds away.
    """

    name = "rate_limit"

    def __init__(self, on_store_error: OnStoreError, expected_output_tokens: int, wait: float) -> None:
        self.on_store_error: OnStoreError = on_store_error
        self.wait = wait
        self._expected_output = expected_output_tokens

    def check(self, call: Call) -> None:
        if call.limits.rate and call.endpoint.caps:
            call.demand.expect_output(self._expected_output)

    def claims(self, call: Call) -> Sequence[Claim]:
        amounts = call.demand.amounts
        return [Claim(limit, amounts[limit.metric]) for limit in call.limits.rate]

    def denied(self, call: Call, level: Level) -> GatewayError:
        limit = level.limit
        wait = level.resets_in or 1
        return rate_limited(
            f"Rate limit of {limit.label} reached: {limit.amount} {limit.metric} per {limit.window}, "
            f"{level.used} used or held, this call needs {call.demand.amounts[limit.metric]}. Try again in {wait} s.",
            wait,
        )


def create(settings: Mapping[str, object]) -> RateLimit:
    """Settings: `on_store_error` (allow), `expected_output_tokens` (1024) is reckoned with where nobody set a cap, and
    `wait` (0) seconds, at most 60, are waited for the next minute."""
    taken = Settings("rate_limit", settings)
    made = RateLimit(
        taken.on_store_error("allow"), taken.count("expected_output_tokens", 1024), taken.seconds("wait", 0.0, 60.0)
    )
    taken.done()
    return made

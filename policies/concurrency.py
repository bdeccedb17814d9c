"""How many calls may run at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.core.call import Call
from gateway.core.errors import GatewayError, rate_limited
from gateway.core.limits import Claim, Level
from gateway.core.ports import OnStoreError
from policies._settings import Settings


class Concurrency:
    """Holds one of a subject's places for as long as the call runs."""

    name = "concurrency"

    def __init__(self, on_store_error: OnStoreError) -> None:
        self.on_store_error: OnStoreError = on_store_error

    def check(self, call: Call) -> None:
        """Nothing to refuse before the places are counted."""

    def claims(self, call: Call) -> Sequence[Claim]:
        return [Claim(limit, 1) for limit in call.limits.parallel]

    def denied(self, call: Call, level: Level) -> GatewayError:
        limit = level.limit
        return rate_limited(
            f"{limit.label} already runs {level.used} calls at once, and {limit.amount} is its limit. "
            "Wait for one of them to end.",
            1,
        )


def create(settings: Mapping[str, object]) -> Concurrency:
    """Settings: `on_store_error` (allow)."""
    taken = Settings("concurrency", settings)
    made = Concurrency(taken.on_store_error("allow"))
    taken.done()
    return made

"""Waiting for a minute that is about to turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from gateway import plugins
from gateway.core.limits import Claim, Denied, Granted, Level, LimitSet
from gateway.reserve import Holds, NoRoom
from gateway.telemetry.metrics import Metrics
from tests.support.calls import a_call, a_limit

RATE = a_limit("requests", 5, "minute")


class Turning:
    """Counters whose minute is full until it is asked for the second time."""

    def __init__(self, resets_in: Any, *, turns: bool = True) -> None:
        self.asked: list[tuple[str, float, float]] = []
        self._resets_in = resets_in
        self._turns = turns

    def now(self) -> float:
        return 2000.0 + len(self.asked)

    async def reserve(
        self, rid: str, claims: Sequence[Claim], lease_s: float, at: float, by: float
    ) -> Granted | Denied:
        self.asked.append((rid, at, by - time.monotonic()))
        if len(self.asked) > 1 and self._turns:
            return Granted(tuple(Level(claim.limit, claim.amount, 60) for claim in claims), at=at)
        return Denied(Level(claims[0].limit, 5, self._resets_in))

    def settle(self, *_: object) -> None:
        raise AssertionError("nothing was held")


def holds(store: Turning) -> Holds:
    counters: Any = store
    return Holds(counters, Metrics("test"), lambda _: None)


async def take(store: Turning, wait: float, limit: Any = RATE) -> tuple[Any, Any]:
    call = a_call(limits=LimitSet(rate=(limit,)))
    call.created_at = 1000.0
    policy = plugins.policy("rate_limit", {"wait": wait})
    return call, await holds(store).take([policy], call, time.monotonic() + 0.1)


async def test_a_call_waits_for_a_minute_that_turns_soon_and_belongs_to_that_one() -> None:
    store = Turning(0.05)
    call, headers = await take(store, 2.0)
    (_, first, _), (_, second, patience) = store.asked
    assert (first, second, call.created_at) == (1000.0, 2001.0, 2001.0)
    assert patience > 0.1, "the store has its whole time again"
    assert (b"x-ratelimit-limit-requests", b"5") in headers


@pytest.mark.parametrize(("resets_in", "wait"), [(0.05, 0.0), (3, 2.0), (None, 60.0)], ids=["off", "far", "never"])
async def test_a_minute_that_is_too_far_away_is_refused_at_once(resets_in: Any, wait: float) -> None:
    store = Turning(resets_in)
    with pytest.raises(NoRoom) as refused:
        await take(store, wait)
    assert (refused.value.error.code, refused.value.limit) == ("rate_limit_exceeded", RATE)
    assert len(store.asked) == 1


async def test_a_call_waits_once() -> None:
    store = Turning(0.01, turns=False)
    with pytest.raises(NoRoom):
        await take(store, 2.0)
    assert len(store.asked) == 2


async def test_a_call_that_no_minute_has_room_for_does_not_wait() -> None:
    store = Turning(0.05)
    with pytest.raises(NoRoom):
        await take(store, 2.0, a_limit("requests", 0, "minute"))
    assert len(store.asked) == 1

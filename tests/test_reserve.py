"""Waiting for a minute that is about to turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from gateway import estimate, plugins
from gateway.core.limits import Claim, Denied, Granted, Level, LimitSet
from gateway.core.money import Price, PriceSchedule
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

    async def pause(seconds: float) -> None:
        await asyncio.sleep(seconds)
        call.created_at = store.now()

    return call, await holds(store).take([policy], call, time.monotonic() + 0.1, pause)


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


async def test_a_call_that_waited_is_charged_by_the_price_that_was_held_for() -> None:
    old, new = Price(1_000_000, 2_000_000, version="old"), Price(10_000_000, 20_000_000, version="new")
    call = a_call(limits=LimitSet(rate=(RATE,), quota=(a_limit("cost", 10_000, "month"),)))
    (target,) = call.targets
    model = replace(target.model, prices=PriceSchedule(((0.0, old), (2000.0, new))))
    call.route = replace(call.route, targets=(replace(target, model=model),))
    call.created_at = 1999.0
    call.demand = estimate.demand(call)
    policies = [plugins.policy("rate_limit", {"wait": 2}), plugins.policy("quota", {})]

    async def pause(_: float) -> None:
        call.created_at = 2001.0

    await holds(Turning(0.05)).take(policies, call, time.monotonic() + 0.1, pause)
    assert call.created_at >= 2000.0
    assert call.demand.price == model.prices.at(call.demand.priced_at) == old


async def test_who_is_refused_after_a_wait_may_still_ask_for_a_cheaper_model() -> None:
    began = time.monotonic()
    with pytest.raises(NoRoom) as refused:
        await take(Turning(0.05, turns=False), 2.0)
    assert refused.value.by > began + 0.1 + 0.05

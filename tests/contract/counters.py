"""Limits and counters in one line each."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from gateway.core.limits import Action, Count, Limit, Metric, Scope, Window
from tests.quotas.caller import Caller

LEASE_S = 60.0
ZONE = ZoneInfo("Europe/Berlin")


def limit(
    amount: int,
    metric: Metric = "tokens",
    window: Window = "month",
    *,
    scope: Scope = "user",
    subject: str = "ada",
    action: Action = "deny",
) -> Limit:
    return Limit(scope, subject, metric, window, amount, action)


async def the_count(store: Caller, wanted: Limit) -> Count:
    (count,) = await store.store.audit([wanted])
    return count

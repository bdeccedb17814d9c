"""`/usage`: what calls cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from gateway.admin._routes import Ask, Input, Output, Permission, Route, not_found, read_query
from gateway.receipt import receipt

_REQUEST_ID = re.compile(r"[0-9A-Za-z-]{1,64}")


class Tokens(Output):
    """Null is unknown."""

    prompt: int | None
    cached: int | None
    completion: int | None
    reasoning: int | None


class Units(Output):
    """What a call was measured in besides tokens; `usd` is the price of one, of a minute or of a million characters."""

    unit: str
    used: int | None
    price: str
    usd: float | None


class Prices(Output):
    """Dollars per million tokens; null where nobody remembers what the version meant."""

    version: str | None
    input: float | None
    cached_input: float | None
    output: float | None


class Amounts(Output):
    """Tokens and dollars."""

    tokens: int
    cost_usd: float


class Decision(Output):
    """What one claim was told."""

    policy: str
    scope: str
    subject: str
    metric: str
    window: str
    action: str
    limit: float
    used: float
    held: float
    verdict: Literal["fits", "would_refuse", "not_counted"]


class Adjustment(Output):
    """A later row about the same call."""

    number: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float
    prices: Prices


class Total(Output):
    """The call with its adjustments."""

    prompt_tokens: int
    completion_tokens: int
    cost_usd: float


class Receipt(Output):
    """What one call cost and why. Times are unix seconds, money is dollars."""

    object: Literal["usage.receipt"]
    request_id: str
    kind: str
    created_at: float
    user: str
    department: str
    key_id: str
    endpoint: str
    model_id: str
    provider: str | None
    upstream_model: str | None
    streamed: bool
    status: int
    outcome: str
    attempts: int
    latency_ms: int | None
    first_token_ms: int | None
    tokens: Tokens
    units: Units | None
    usage_source: str
    prices: Prices
    cost_usd: float
    saved_usd: float
    reserved: Amounts
    settled: Amounts
    overspent: Amounts
    decisions: list[Decision]
    adjustments: list[Adjustment]
    before: list[Receipt]
    """The same request at other models, before the one that ended it; their cost is in the total."""
    total: Total


async def _receipt(ask: Ask) -> Mapping[str, Any]:
    """One call's receipt."""
    read_query(Input, ask.query)
    request_id = ask.path["request_id"]
    found = None
    if _REQUEST_ID.fullmatch(request_id):
        async with ask.house.database.read() as session:
            found = await receipt(session, request_id, ask.scope.user)
    if found is None:
        raise not_found(
            f"There is no receipt for '{request_id[:64]}'. The call may not have ended yet, it may have been refused, "
            "or it is not one of yours."
        )
    return found


ROUTES = (Route("GET", "/usage/{request_id}", Permission.OWN, _receipt, answers=Receipt),)

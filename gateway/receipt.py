"""What one call cost and why: its ledger rows as an account that anyone can check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from gateway.core.money import RATES, Price, Unit, in_units, rate_in_dollars
from gateway.storage import ledger

_ABOUT = ("request_id", "kind", "created_at", "user", "department", "key_id", "endpoint", "model_id", "provider")
_COURSE = ("upstream_model", "streamed", "status", "outcome", "attempts", "latency_ms", "first_token_ms")

Row = Mapping[str, Any]


async def receipt(session: AsyncSession, request_id: str, user: str | None) -> dict[str, Any] | None:
    """The receipt as JSON has it, None for a call that has not ended, is unknown, or is not `user`'s (None: may be
    anybody's). Money is in dollars, prices of tokens in dollars per million, times are unix seconds."""
    rows = await ledger.receipt(session, request_id, user=user)
    if not rows:
        return None
    return made_out(rows, await ledger.known_prices(session))


def made_out(rows: Sequence[Row], prices: Mapping[str, Price]) -> dict[str, Any]:
    """The rows of one request as a receipt: of the call that ended it, with those at other models `before` it, whose
    cost is in the total. `attempts` are those of all."""
    *before, last = [list(call) for _, call in groupby(rows, key=itemgetter("request_id"))]
    receipt = _call(last, prices)
    if before:
        receipt |= {
            "request_id": before[0][0]["request_id"],
            "attempts": sum(call[0]["attempts"] for call in (*before, last)),
            "before": [_call(call, prices) for call in before],
            "total": _total(rows),
        }
    return receipt


def _call(rows: Sequence[Row], prices: Mapping[str, Price]) -> dict[str, Any]:
    """The rows of one call, its end first."""
    end, adjustments = rows[0], rows[1:]
    total = _total(rows)
    settled = {"tokens": total["prompt_tokens"] + total["completion_tokens"], "cost_usd": total["cost_usd"]}
    reserved = {"tokens": end["reserved_tokens"], "cost_usd": in_units("cost", end["reserved_cost"])}
    decisions = [_decision(each) for each in end["decisions"]]
    return {
        "object": "usage.receipt",
        **{name: end[name] for name in (*_ABOUT, *_COURSE)},
        "tokens": {
            "prompt": end["prompt_tokens"],
            "cached": end["cached_tokens"],
            "completion": end["completion_tokens"],
            "reasoning": end["reasoning_tokens"],
        },
        "units": _units(end, prices),
        "usage_source": end["usage_source"],
        "prices": _prices(end["price_version"], prices),
        "cost_usd": in_units("cost", end["cost_microusd"]),
        "saved_usd": in_units("cost", end["saved_microusd"]),
        "reserved": reserved,
        "settled": settled,
        "overspent": _overspent(decisions, settled),
        "decisions": decisions,
        "adjustments": [_adjustment(row, prices) for row in adjustments],
        "before": [],
        "total": total,
    }


def _total(rows: Sequence[Row]) -> dict[str, Any]:
    """The call with its adjustments."""
    return {
        "prompt_tokens": sum(row["prompt_tokens"] or 0 for row in rows),
        "completion_tokens": sum(row["completion_tokens"] or 0 for row in rows),
        "cost_usd": in_units("cost", sum(row["cost_microusd"] for row in rows)),
    }


def _units(end: Row, prices: Mapping[str, Price]) -> dict[str, Any] | None:
    """What the call was measured in besides tokens, None where there is nothing; `usd` is the price of one, of a minute
    or of a million characters, as `price` says."""
    unit: Unit | None = end["unit"]
    if unit is None:
        return None
    name, price = RATES[unit][0], prices.get(end["price_version"])
    return {
        "unit": unit,
        "used": end["units"],
        "price": name,
        "usd": None if price is None else rate_in_dollars(name, price),
    }


def _prices(version: str, prices: Mapping[str, Price]) -> dict[str, Any]:
    """Unit prices by class of token; None where nobody remembers what the version meant."""
    price = prices.get(version)
    if price is None:
        return {"version": version, "input": None, "cached_input": None, "output": None}
    cached = price.input if price.cached_input is None else price.cached_input
    return {
        "version": version,
        "input": in_units("cost", price.input),
        "cached_input": in_units("cost", cached),
        "output": in_units("cost", price.output),
    }


def _decision(told: Row) -> dict[str, Any]:
    """What one claim was told. `used` is where its limit stood once it was held."""
    metric = told["metric"]
    over = told["used"] > told["limit"]
    return {
        "policy": told["policy"],
        "scope": told["scope"],
        "subject": told["subject"],
        "metric": metric,
        "window": told["window"],
        "action": told["action"],
        "limit": in_units(metric, told["limit"]),
        "used": in_units(metric, told["used"]),
        "held": in_units(metric, told["amount"]),
        "verdict": "not_counted" if not told["counted"] else "would_refuse" if over else "fits",
    }


def _overspent(decisions: Sequence[Row], settled: Row) -> dict[str, Any]:
    """What the call used beyond the most that it held for a limit that could have refused it."""
    held: dict[str, Any] = {}
    for decision in decisions:
        if decision["action"] == "deny":
            held[decision["metric"]] = max(decision["held"], held.get(decision["metric"], 0))
    beyond = {"tokens": 0, "cost_usd": 0.0}
    if "tokens" in held:
        beyond["tokens"] = max(0, settled["tokens"] - held["tokens"])
    if "cost" in held:
        beyond["cost_usd"] = max(0.0, round(settled["cost_usd"] - held["cost"], 6))
    return beyond


def _adjustment(row: Row, prices: Mapping[str, Price]) -> dict[str, Any]:
    return {
        "number": row["number"],
        "prompt_tokens": row["prompt_tokens"],
        "completion_tokens": row["completion_tokens"],
        "cost_usd": in_units("cost", row["cost_microusd"]),
        "prices": _prices(row["price_version"], prices),
    }

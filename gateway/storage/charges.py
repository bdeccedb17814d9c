"""What calls were charged, page by page: for whoever wants to charge them anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.core.deployment import CACHE
from gateway.core.money import Unit
from gateway.core.records import OutcomeRecord
from gateway.storage.tables import LEDGER

PAGE: Final = 500

_FIELDS: Final = [LEDGER.c[name] for name in OutcomeRecord._fields if name != "decisions"]
_SUMMED: Final = ("prompt_tokens", "completion_tokens", "cached_tokens", "cost_microusd", "units")


class Charged(NamedTuple):
    """A call that ended, with its adjustments taken into account. `end` is its own row, without decisions; tokens are
    None where nobody knows what it used; `adjusted` is the number of its newest adjustment, 0 without one. `units` are
    0 where `unit` is None."""

    end: OutcomeRecord
    prompt_tokens: int | None
    completion_tokens: int
    cached_tokens: int
    cost_microusd: int
    adjusted: int
    units: int
    unit: Unit | None


async def page(
    session: AsyncSession, start: float, stop: float, model_id: str | None = None, after: Charged | None = None
) -> list[Charged]:
    """The next `PAGE` calls that were created from `start` to before `stop` (unix seconds) and used something, in the
    order of time. `after` is the last one of the page before."""
    query = select(*_FIELDS).where(LEDGER.c.kind.in_(("charge", "orphan")), LEDGER.c.created_at < stop)
    query = query.where(LEDGER.c.provider != CACHE)
    query = query.where(LEDGER.c.created_at >= (start if after is None else after.end.created_at))
    if after is not None:
        place = tuple_(LEDGER.c.created_at, LEDGER.c.request_id)
        query = query.where(place > (after.end.created_at, after.end.request_id))
    if model_id is not None:
        query = query.where(LEDGER.c.model_id == model_id)
    found = await session.execute(query.order_by(LEDGER.c.created_at, LEDGER.c.request_id).limit(PAGE))
    ends = [OutcomeRecord(**row._asdict()) for row in found]
    adjustments = await _adjustments(session, [end.request_id for end in ends])
    return [_charged(end, adjustments.get(end.request_id)) for end in ends]


async def _adjustments(session: AsyncSession, request_ids: Sequence[str]) -> dict[str, Any]:
    """What the adjustments of each call come to."""
    sums = [func.sum(LEDGER.c[name]).label(name) for name in _SUMMED]
    newest = [func.max(LEDGER.c.number).label("number"), func.max(LEDGER.c.unit).label("unit")]
    mine = LEDGER.c.request_id.in_(request_ids)
    query = select(LEDGER.c.request_id, *sums, *newest).where(mine, LEDGER.c.kind == "adjust")
    return {row.request_id: row for row in await session.execute(query.group_by(LEDGER.c.request_id))}


def _charged(end: OutcomeRecord, adjustment: Any) -> Charged:
    if adjustment is None:
        used = end.prompt_tokens, end.completion_tokens or 0, end.cached_tokens or 0
        return Charged(end, *used, end.cost_microusd, 0, end.units or 0, end.unit)
    unknown = end.prompt_tokens is None and adjustment.prompt_tokens is None
    return Charged(
        end,
        None if unknown else _sum(end.prompt_tokens, adjustment.prompt_tokens),
        _sum(end.completion_tokens, adjustment.completion_tokens),
        _sum(end.cached_tokens, adjustment.cached_tokens),
        _sum(end.cost_microusd, adjustment.cost_microusd),
        adjustment.number,
        _sum(end.units, adjustment.units),
        end.unit or adjustment.unit,
    )


def _sum(*parts: Any) -> int:
    """PostgreSQL sums big integers as decimals."""
    return sum(int(part or 0) for part in parts)

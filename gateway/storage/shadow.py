"""Who would have been refused: calls counted by day, by the policy or limit in shadow, and by who called what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.storage.errors import Invalid
from gateway.storage.statements import insert_into
from gateway.storage.tables import SHADOW_REFUSALS

MOST_ROWS: Final = 10_000
_CHUNK: Final = 500

_COLUMN: Final = {
    "day": SHADOW_REFUSALS.c.day,
    "policy": SHADOW_REFUSALS.c.policy,
    "scope": SHADOW_REFUSALS.c.scope,
    "subject": SHADOW_REFUSALS.c.subject,
    "metric": SHADOW_REFUSALS.c.metric,
    "window": SHADOW_REFUSALS.c.window,
    "department": SHADOW_REFUSALS.c.department,
    "user": SHADOW_REFUSALS.c.user,
    "key": SHADOW_REFUSALS.c.key_id,
    "model": SHADOW_REFUSALS.c.model_id,
}
GROUPINGS: Final = tuple(_COLUMN)


class Refused(NamedTuple):
    """What would have been refused to whom. The limit's four fields are empty where a policy's check would have."""

    day: str
    policy: str
    scope: str
    subject: str
    metric: str
    window: str
    department: str
    user: str
    key_id: str
    model_id: str


class Tally(NamedTuple):
    """How many calls, and when the last of them was (unix seconds)."""

    refused: int
    last_at: float


async def add(session: AsyncSession, tallies: Mapping[Refused, Tally]) -> None:
    """Add these to what is there, in the order of the key so that two writers cannot deadlock."""
    insert = insert_into(session, SHADOW_REFUSALS)
    there, new = SHADOW_REFUSALS.c, insert.excluded
    statement = insert.on_conflict_do_update(
        index_elements=list(SHADOW_REFUSALS.primary_key),
        set_={
            "refused": there.refused + new.refused,
            "last_at": case((new.last_at > there.last_at, new.last_at), else_=there.last_at),
        },
    )
    rows = [refused._asdict() | tally._asdict() for refused, tally in sorted(tallies.items())]
    for start in range(0, len(rows), _CHUNK):
        await session.execute(statement, rows[start : start + _CHUNK])


async def report(
    session: AsyncSession, by: Sequence[str], first: str | None = None, last: str | None = None
) -> list[dict[str, Any]]:
    """Calls that would have been refused, by any of `GROUPINGS`, the most first, at most `MOST_ROWS` rows.

    `first` and `last` are days, `YYYY-MM-DD`, both included. A call counts once for each policy. Raises `Invalid`.
    """
    keys = [_COLUMN[name].label(name) for name in _known(by)]
    refused = func.sum(SHADOW_REFUSALS.c.refused).label("refused")
    last_at = func.max(SHADOW_REFUSALS.c.last_at).label("last_at")
    statement = select(*keys, refused, last_at).group_by(*keys).having(func.count() > 0)
    if first is not None:
        statement = statement.where(SHADOW_REFUSALS.c.day >= first)
    if last is not None:
        statement = statement.where(SHADOW_REFUSALS.c.day <= last)
    found = await session.execute(statement.order_by(refused.desc(), *keys).limit(MOST_ROWS))
    # PostgreSQL sums big integers as decimals.
    return [row._asdict() | {"refused": int(row.refused)} for row in found]


def _known(by: Iterable[str]) -> list[str]:
    names = list(dict.fromkeys(by))
    unknown = [name for name in names if name not in _COLUMN]
    if unknown:
        raise Invalid(f"The report cannot be grouped by '{unknown[0]}'; choose from {', '.join(GROUPINGS)}.")
    return names

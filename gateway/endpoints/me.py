"""`GET /v1/me`: who am I, what binds me, what is left."""

from __future__ import annotations

from gateway.core.body import encode
from gateway.core.dialect import OPENAI
from gateway.core.endpoint import Desk, Query, Reply
from gateway.core.limits import Level
from gateway.core.money import dollars


def _amount(level: Level, value: int) -> int | float:
    return float(dollars(value)) if level.limit.metric == "cost" else value


def _limit(level: Level) -> dict[str, object]:
    limit = level.limit
    return {
        "scope": limit.scope,
        "subject": limit.subject,
        "metric": limit.metric,
        "window": limit.window,
        "action": limit.action,
        "limit": _amount(level, limit.amount),
        "used": _amount(level, level.used),
        "remaining": _amount(level, level.remaining),
        "resets_in_seconds": level.resets_in,
    }


async def _answer(desk: Desk) -> Reply:
    principal = desk.principal
    body = {
        "object": "me",
        "user": principal.user,
        "department": principal.department,
        "key": principal.key_id,
        "key_expires_at": principal.expires_at,
        "models": [model.model_id for model in desk.models()],
        "limits": [_limit(level) for level in await desk.levels()],
    }
    return Reply(200, encode(body))


ENDPOINT = Query(name="me", path="/v1/me", dialect=OPENAI, answer=_answer)

"""`GET /v1/models/{id}`. Ids may hold slashes."""

from __future__ import annotations

from gateway.core.body import encode
from gateway.core.dialect import OPENAI
from gateway.core.endpoint import Desk, Query, Reply
from gateway.endpoints.models import card


async def _answer(desk: Desk) -> Reply:
    return Reply(200, encode(card(desk.model(desk.rest))))


ENDPOINT = Query(name="model", path="/v1/models/{rest}", dialect=OPENAI, answer=_answer)

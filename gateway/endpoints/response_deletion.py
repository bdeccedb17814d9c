"""`DELETE /v1/responses/{id}`: a response that the gateway is to keep no longer, and the conversation behind it."""

from __future__ import annotations

from gateway.core.body import encode
from gateway.core.dialect import OPENAI
from gateway.core.endpoint import Desk, Query, Reply
from gateway.endpoints._responses_kept import not_kept


async def _answer(desk: Desk) -> Reply:
    if not await desk.forget_conversation():
        raise not_kept(desk.rest)
    return Reply(200, encode({"id": desk.rest, "object": "response", "deleted": True}))


ENDPOINT = Query(name="response.deletion", path="/v1/responses/{rest}", dialect=OPENAI, answer=_answer, method="DELETE")

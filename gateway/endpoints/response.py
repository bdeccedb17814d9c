"""`GET /v1/responses/{id}`: a response that the gateway keeps."""

from __future__ import annotations

from gateway.core.dialect import OPENAI
from gateway.core.endpoint import Desk, Query, Reply
from gateway.endpoints._responses_kept import not_kept, response_in


async def _answer(desk: Desk) -> Reply:
    conversation = await desk.conversation()
    if conversation is None:
        raise not_kept(desk.rest)
    return Reply(200, response_in(conversation))


ENDPOINT = Query(name="response", path="/v1/responses/{rest}", dialect=OPENAI, answer=_answer)

"""`GET /v1/models`: what the policy chain would let this caller use."""

from __future__ import annotations

from gateway.core.body import encode
from gateway.core.deployment import Model
from gateway.core.dialect import OPENAI
from gateway.core.endpoint import Desk, Query, Reply


def card(model: Model) -> dict[str, object]:
    """A model as OpenAI's list shows one, with what clients like to know besides."""
    return {
        "id": model.model_id,
        "object": "model",
        "created": model.created,
        "owned_by": "aidock",
        "display_name": model.display_name,
        "supported_roles": sorted(model.supported_roles),
        "context_window": model.context_window,
        "max_output_tokens": model.max_output_tokens,
    }


async def _answer(desk: Desk) -> Reply:
    return Reply(200, encode({"object": "list", "data": [card(model) for model in desk.models()]}))


ENDPOINT = Query(name="models", path="/v1/models", dialect=OPENAI, answer=_answer)

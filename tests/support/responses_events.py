"""Events of the Responses API, judged by the types that OpenAI's own SDK has for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, get_args

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel

from gateway.core import sse

LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})

_TYPES: dict[str, type[BaseModel]] = {
    get_args(known.model_fields["type"].annotation)[0]: known for known in get_args(get_args(ResponseStreamEvent)[0])
}


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The documents of a stream's events. Every one has its own type as its name, and there is nothing besides."""
    found = []
    for event in sse.events(body):
        payload = sse.data(event)
        assert payload is not None, event
        document = json.loads(payload)
        assert sse.kind(event).decode() == document["type"], event
        found.append(document)
    return found


def check(events: Sequence[dict[str, Any]]) -> None:
    """Every event is valid, strictly; they are numbered from 0 without a gap, and end with the one last event."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        _TYPES[event["type"]].model_validate(event, strict=True)
    assert [event["type"] in LAST for event in events] == [False] * (len(events) - 1) + [True]


def check_response(document: Any) -> Response:
    """A whole response, strictly valid."""
    return Response.model_validate(document, strict=True)

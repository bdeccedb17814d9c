"""`POST /v1/chat/completions`."""

from __future__ import annotations

from gateway.core.body import Body
from gateway.core.dialect import OPENAI
from gateway.core.endpoint import Inference
from gateway.core.errors import invalid_request


def _examine(body: Body) -> None:
    if not body.is_filled_array("messages"):
        raise invalid_request("'messages' must be an array with at least one message.", param="messages")


def _choices(body: Body) -> int:
    return body.count("n", least=1, most=128) or 1


ENDPOINT = Inference(
    name="chat.completions",
    path="/v1/chat/completions",
    operation="chat/completions",
    dialect=OPENAI,
    required=("messages",),
    prompt=("messages", "tools", "functions", "response_format"),
    caps=("max_completion_tokens", "max_tokens"),
    choices=_choices,
    examine=_examine,
)

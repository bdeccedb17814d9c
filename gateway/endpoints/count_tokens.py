"""`POST /v1/messages/count_tokens`: how long a prompt is. It costs a request at an upstream that can say, and nothing
where the gateway estimates it."""

from __future__ import annotations

from gateway.core.body import encode
from gateway.core.dialect import ANTHROPIC
from gateway.core.endpoint import Inference, Reply
from gateway.endpoints._messages_request import PROMPT, examine


def _estimated(prompt: int) -> Reply:
    return Reply(200, encode({"input_tokens": prompt}), headers=[(b"x-aidock-estimated", b"true")])


ENDPOINT = Inference(
    name="messages.count_tokens",
    path="/v1/messages/count_tokens",
    operation="messages/count_tokens",
    dialect=ANTHROPIC,
    required=("messages",),
    prompt=PROMPT,
    streams=False,
    examine=examine,
    alone=_estimated,
    uses_tokens=False,
)

"""`POST /v1/responses`."""

from __future__ import annotations

from gateway.core.body import Body
from gateway.core.call import Call
from gateway.core.dialect import OPENAI
from gateway.core.endpoint import Inference
from gateway.core.errors import invalid_request
from gateway.endpoints._responses_answer import response
from gateway.endpoints._responses_kept import Continued
from gateway.endpoints._responses_request import chat_request
from gateway.endpoints._responses_stream import ResponseStream

_STORED = ("previous_response_id", "conversation", "prompt")
"""Members that refer to what the upstream keeps."""


def _examine(body: Body) -> None:
    if not any(name in body for name in ("input", *_STORED)):
        raise invalid_request("'input' is missing.", param="input")
    if body.flag("background"):
        raise invalid_request(
            "'background' answers before the model has, so nobody could count what it uses. Leave it out; a stream "
            "shows the same while it happens.",
            param="background",
            code="unsupported_parameter",
        )


def _refers(body: Body) -> bool:
    return any(name in body for name in _STORED) or b'"item_reference"' in body.raw


class _ThroughChat:
    """The `Translation`."""

    def request(self, call: Call) -> bytes:
        return chat_request(call)

    def answer(self, call: Call, body: bytes) -> bytes:
        return response(call, body)

    def stream(self, call: Call) -> ResponseStream:
        return ResponseStream(call)


ENDPOINT = Inference(
    name="responses",
    path="/v1/responses",
    operation="responses",
    dialect=OPENAI,
    required=(),
    prompt=("input", "instructions", "tools", "text"),
    caps=("max_output_tokens",),
    examine=_examine,
    refers=_refers,
    translation=_ThroughChat(),
    continues=Continued(),
)

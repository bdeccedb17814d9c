"""`POST /v1/messages`: Anthropic's dialect, for any model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.dialect import ANTHROPIC
from gateway.core.endpoint import Inference
from gateway.endpoints._messages_answer import told_answer
from gateway.endpoints._messages_request import PROMPT, chat_body, examine
from gateway.endpoints._messages_stream import MessagesTranslator

if TYPE_CHECKING:
    from gateway.core.call import Call


class MessagesTranslation:
    """The `Translation`."""

    def request(self, call: Call) -> bytes:
        return chat_body(call)

    def answer(self, call: Call, body: bytes) -> bytes:
        return told_answer(call, body)

    def stream(self, call: Call) -> MessagesTranslator:
        return MessagesTranslator(call)


ENDPOINT = Inference(
    name="messages",
    path="/v1/messages",
    operation="messages",
    dialect=ANTHROPIC,
    required=("messages", "max_tokens"),
    prompt=PROMPT,
    caps=("max_tokens",),
    examine=examine,
    translation=MessagesTranslation(),
)

"""Tells a call to a provider that does not speak its client's dialect: through chat completions, both ways."""

from __future__ import annotations

from dataclasses import replace

from gateway.core.body import Body
from gateway.core.call import Call
from gateway.core.deployment import Target
from gateway.core.endpoint import Inference
from gateway.core.errors import GatewayError
from gateway.core.ports import Answer, Provider, Stream, Translation, Translator
from gateway.core.usage import Usage
from gateway.endpoints.chat_completions import ENDPOINT as CHAT


def can_take(endpoint: Inference, target: Target, provider: Provider) -> bool:
    """Whether the endpoint's calls can be told to a target at all."""
    if provider.serves(endpoint.operation, target):
        return True
    return endpoint.translation is not None and provider.serves(CHAT.operation, target)


def through_chat(call: Call, target: Target, provider: Provider) -> Translation | None:
    """The translation that a call to this target needs, None where its provider serves the endpoint itself. Filters
    read chat alone, so a call that has any goes through it."""
    translation = call.endpoint.translation
    if translation is None or (provider.serves(call.endpoint.operation, target) and not call.filters):
        return None
    return translation


def as_chat(call: Call, translation: Translation) -> Call:
    """The call as chat completions have it, made once. It asks for usage, which other dialects always tell. A cap that
    the translation left out is not the client's there, so that its provider writes the one in force."""
    told = call.as_chat
    if told is None:
        body = Body(translation.request(call))
        told = replace(call, endpoint=CHAT, body=body, wants_usage=call.streamed, translated=True)
        call.as_chat = told
    told.demand = replace(call.demand, requested_cap=CHAT.requested_cap(told.body))
    return told


class TranslatedAnswer:
    """An `Answer` of chat's, in the client's dialect."""

    content_type = b"application/json"

    def __init__(self, answer: Answer, body: bytes) -> None:
        self.body = body
        self.usage = answer.usage
        self.produced = answer.produced


class TranslatedStream:
    """A `Stream` of chat's, in the client's dialect."""

    def __init__(self, stream: Stream, translator: Translator) -> None:
        self._stream = stream
        self._translator = translator
        self.produced = stream.produced

    @property
    def usage(self) -> Usage | None:
        return self._stream.usage

    @property
    def complete(self) -> bool:
        return self._stream.complete

    @property
    def begun(self) -> bool:
        return self._stream.begun

    def feed(self, chunk: bytes) -> bytes:
        told = self._translator.feed(self._stream.feed(chunk))
        return told + self._translator.finish() if self._stream.complete else told

    def finish(self) -> bytes:
        return self._translator.feed(self._stream.finish()) + self._translator.finish()

    def failure(self, error: GatewayError, request_id: str) -> bytes:
        return self._translator.failure(error, request_id)

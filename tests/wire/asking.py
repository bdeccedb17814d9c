"""How each endpoint is asked for the same things, and which of the published schemas its answers have."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.wire.schemas import Published, anthropic, cohere, openai, text_completion_chunk
from tests.wire.upstreams import Deed

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
_FUNCTION: Mapping[str, Any] = {
    "name": "weather",
    "description": "How the weather is.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@dataclass(frozen=True)
class Form:
    """An endpoint's. `deeds` are what can be asked of it, besides a refusal; `event` is None where nothing is streamed;
    `mark` is an end mark that is no event; `tells_usage` whether a stream
    tells it to who asks; with a `file` the body is a form that has one."""

    published: Callable[[], Published]
    path: str
    body: Callable[[Deed, str], dict[str, Any]]
    deeds: tuple[Deed, ...] = ("hello",)
    event: Callable[[], str] | None = None
    errors: Callable[[], Published] = openai
    error_event: str = "ErrorResponse"
    file: bool = False
    mark: bytes | None = b"[DONE]"
    tells_usage: bool = False

    @property
    def answer(self) -> str:
        return self.published().schema_of(self.path)

    def check_event(self, document: Any) -> None:
        """Raises `AssertionError`. Anthropic's keep-alive is in its manual and not in its document."""
        assert self.event is not None
        if document == {"type": "ping"}:
            return
        failed = document.get("type") == "error" or "error" in document
        self.published().check(self.error_event if failed else self.event(), document)

    def check_error(self, document: Any) -> None:
        """Raises `AssertionError`."""
        self.errors().check("ErrorResponse", document)


def _chat(deed: Deed, words: str) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": words}]}
    match deed:
        case "tools":
            body["tools"] = [{"type": "function", "function": _FUNCTION}]
        case "json":
            shape = {"name": "weather", "schema": SCHEMA, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        case "think":
            body["reasoning_effort"] = "low"
    return body


def _responses(deed: Deed, words: str) -> dict[str, Any]:
    body: dict[str, Any] = {"input": words}
    match deed:
        case "tools":
            body["tools"] = [{"type": "function", "strict": False, **_FUNCTION}]
        case "json":
            body["text"] = {"format": {"type": "json_schema", "name": "weather", "schema": SCHEMA, "strict": True}}
        case "think":
            body["reasoning"] = {"effort": "low"}
    return body


def _messages(deed: Deed, words: str) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": words}], "max_tokens": 1000}
    match deed:
        case "tools":
            body["tools"] = [{"name": _FUNCTION["name"], "input_schema": _FUNCTION["parameters"]}]
        case "json":
            body["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
        case "think":
            body |= {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 4000}
    return body


_CHATTING: tuple[Deed, ...] = ("hello", "tools", "json", "think")

FORMS: Mapping[str, Form] = {
    "chat.completions": Form(
        openai, "/chat/completions", _chat, _CHATTING, lambda: "CreateChatCompletionStreamResponse", tells_usage=True
    ),
    "completions": Form(
        openai, "/completions", lambda deed, words: {"prompt": words}, event=text_completion_chunk, tells_usage=True
    ),
    "embeddings": Form(openai, "/embeddings", lambda deed, words: {"input": [words, "more"]}),
    "responses": Form(
        openai,
        "/responses",
        _responses,
        _CHATTING,
        lambda: "ResponseStreamEvent",
        error_event="ResponseStreamEvent",
        mark=None,
    ),
    "messages": Form(
        anthropic, "/v1/messages", _messages, _CHATTING, lambda: "MessageStreamEvent", mark=None, errors=anthropic
    ),
    "messages.count_tokens": Form(
        anthropic,
        "/v1/messages/count_tokens",
        lambda deed, words: {"messages": _messages(deed, words)["messages"]},
        errors=anthropic,
    ),
    "images.generations": Form(
        openai,
        "/images/generations",
        lambda deed, words: {"prompt": words, "partial_images": 3},
        event=lambda: "ImageGenStreamEvent",
        mark=None,
    ),
    "audio.speech": Form(openai, "/audio/speech", lambda deed, words: {"input": words, "voice": "alloy"}, deeds=()),
    "audio.transcriptions": Form(
        openai,
        "/audio/transcriptions",
        lambda deed, words: {"prompt": words},
        event=lambda: "CreateTranscriptionResponseStreamEvent",
        mark=None,
        file=True,
    ),
    "audio.translations": Form(openai, "/audio/translations", lambda deed, words: {"prompt": words}, file=True),
    "moderations": Form(openai, "/moderations", lambda deed, words: {"input": words}),
    "rerank": Form(
        cohere, "/v2/rerank", lambda deed, words: {"query": words, "documents": ["Hello there", "Good night"]}
    ),
}
"""By the endpoint's name."""


def events(body: bytes, mark: bytes | None) -> list[Any]:
    """The documents of a stream's events, each event's name checked against its document's type."""
    found = []
    for block in body.replace(b"\r\n", b"\n").split(b"\n\n"):
        fields = dict(
            line.split(b": ", 1) for line in block.split(b"\n") if b": " in line and not line.startswith(b":")
        )
        data = fields.get(b"data")
        if data is None or (mark is not None and data == mark):
            continue
        document = json.loads(data)
        if b"event" in fields:
            assert fields[b"event"].decode() == document["type"]
        found.append(document)
    return found

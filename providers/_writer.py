"""Chat completions as they go to the client: the chunks of a stream, and whole answers, for providers whose upstreams
speak something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gateway.core import sse
from gateway.core.body import encode
from providers._usage import BYTES_PER_TOKEN

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.usage import Usage

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]

DONE = b"data: [DONE]\n\n"


class ChunkWriter:
    """Writes the chunks of one streamed answer; every method gives the bytes of its chunks.

    It keeps the rules that clients rely on: one id for all chunks, the role first for every choice, tool calls numbered
    from 0 in the order they begin, one finish reason per choice, usage only where it was asked for.
    """

    def __init__(self, call: Call, model: str) -> None:
        self.identity = f"chatcmpl-{call.request_id}"
        self.model = model
        self.text_bytes = 0
        self.begun = False
        self._created = int(call.created_at)
        self._wants_usage = call.wants_usage
        self._begun: set[int] = set()
        self._finished: set[int] = set()
        self._calls: dict[int, int] = {}

    def role(self, index: int = 0) -> bytes:
        """The first chunk of a choice; nothing where it was written."""
        if index in self._begun:
            return b""
        self._begun.add(index)
        return self._chunk(index, {"role": "assistant", "content": ""})

    def text(self, text: str, index: int = 0, logprobs: Mapping[str, Any] | None = None) -> bytes:
        return self._said({"content": text}, text, index, logprobs)

    def reasoning(self, text: str, index: int = 0) -> bytes:
        return self._said({"reasoning_content": text}, text, index)

    def refusal(self, text: str, index: int = 0) -> bytes:
        return self._said({"refusal": text}, text, index)

    def thinking(self, block: Mapping[str, Any], index: int = 0) -> bytes:
        """A finished block of thoughts with its signature, for the client to hand back."""
        return self.role(index) + self._chunk(index, {"thinking_blocks": [block]})

    def annotations(self, annotations: Sequence[Mapping[str, Any]], index: int = 0) -> bytes:
        """Citations, in the shape of OpenAI's `url_citation`s."""
        return self.role(index) + self._chunk(index, {"annotations": annotations})

    def images(self, images: Sequence[Mapping[str, Any]], index: int = 0) -> bytes:
        """Pictures that the model made, as `image_url` parts."""
        self.begun = True
        return self.role(index) + self._chunk(index, {"images": images})

    def extra_content(self, extra: Mapping[str, Any], index: int = 0) -> bytes:
        """What a provider hangs on the whole message, by vendor, for the client to hand back."""
        return self.role(index) + self._chunk(index, {"extra_content": extra})

    def tool_call(
        self, identity: str, name: str, arguments: str = "", *, index: int = 0, extra: Mapping[str, Any] | None = None
    ) -> bytes:
        """The beginning of a tool call, or all of it. Pieces of its arguments follow by `arguments`."""
        position = self._calls.get(index, -1) + 1
        self._calls[index] = position
        call: dict[str, Any] = {
            "index": position,
            "id": identity,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        if extra:
            call["extra_content"] = extra
        return self._said({"tool_calls": [call]}, name + arguments, index)

    def arguments(self, piece: str, index: int = 0) -> bytes:
        """More of the arguments of the tool call that began last."""
        return self._said(
            {"tool_calls": [{"index": self._calls[index], "function": {"arguments": piece}}]}, piece, index
        )

    def called(self, index: int = 0) -> bool:
        """Whether the choice has called a tool."""
        return index in self._calls

    def finish(self, reason: FinishReason, index: int = 0) -> bytes:
        """The end of a choice; nothing where it has ended."""
        if index in self._finished:
            return b""
        self._finished.add(index)
        return self.role(index) + self._chunk(index, {}, reason)

    def end(self, usage: Usage | None) -> bytes:
        """The usage where the client asked for it and the upstream told it, and the end of the stream."""
        if usage is None or not self._wants_usage:
            return DONE
        return sse.event(encode({**self._head(), "choices": [], "usage": usage_object(usage)})) + DONE

    def produced(self) -> int:
        """An estimate of the tokens written so far."""
        return -(-self.text_bytes // BYTES_PER_TOKEN)

    def _said(
        self, delta: Mapping[str, Any], text: str, index: int, logprobs: Mapping[str, Any] | None = None
    ) -> bytes:
        self.begun = self.begun or bool(text)
        self.text_bytes += len(text.encode("utf-8", "replace"))
        return self.role(index) + self._chunk(index, delta, logprobs=logprobs)

    def _chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        finish: FinishReason | None = None,
        logprobs: Mapping[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return sse.event(encode({**self._head(), "choices": [choice]}))

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.identity,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self.model,
        }


@dataclass(slots=True)
class Choice:
    """One answer. `calls` are tool calls as `tool_call` makes them."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    calls: list[Mapping[str, Any]] = field(default_factory=list)
    thinking: list[Mapping[str, Any]] = field(default_factory=list)
    annotations: list[Mapping[str, Any]] = field(default_factory=list)
    images: list[Mapping[str, Any]] = field(default_factory=list)
    extra: Mapping[str, Any] | None = None
    finish: FinishReason = "stop"
    logprobs: Mapping[str, Any] | None = None

    def message(self) -> dict[str, Any]:
        """As OpenAI's answers hold it; `content` is null where there is only something else."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": self.text if self.text or not (self.calls or self.refusal or self.images) else None,
            "refusal": self.refusal or None,
        }
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.thinking:
            message["thinking_blocks"] = self.thinking
        if self.calls:
            message["tool_calls"] = self.calls
        if self.annotations:
            message["annotations"] = self.annotations
        if self.images:
            message["images"] = self.images
        if self.extra:
            message["extra_content"] = self.extra
        return message

    @property
    def size(self) -> int:
        """Bytes of what the model wrote."""
        texts = [self.text, self.reasoning, self.refusal]
        texts += [str(part) for call in self.calls for part in call["function"].values()]
        return sum(len(text.encode("utf-8", "replace")) for text in texts)


def tool_call(identity: str, name: str, arguments: str, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A whole tool call; `arguments` is JSON text, `{}` where there are none."""
    call: dict[str, Any] = {
        "id": identity,
        "type": "function",
        "function": {"name": name, "arguments": arguments or "{}"},
    }
    if extra:
        call["extra_content"] = extra
    return call


class WrittenAnswer:
    """An `Answer` in chat's words."""

    content_type = b"application/json"

    def __init__(self, call: Call, model: str, choices: Sequence[Choice], usage: Usage | None) -> None:
        self.usage = usage
        self._size = sum(choice.size for choice in choices)
        document: dict[str, Any] = {
            "id": f"chatcmpl-{call.request_id}",
            "object": "chat.completion",
            "created": int(call.created_at),
            "model": model,
            "choices": [
                {
                    "index": index,
                    "message": choice.message(),
                    "logprobs": choice.logprobs,
                    "finish_reason": choice.finish,
                }
                for index, choice in enumerate(choices)
            ],
        }
        if usage is not None:
            document["usage"] = usage_object(usage)
        self.body = encode(document)

    def produced(self) -> int:
        return -(-self._size // BYTES_PER_TOKEN)


def usage_object(usage: Usage) -> dict[str, Any]:
    """Usage as chat tells it. What the upstream did not say is left out; a zero it said stays."""
    told: dict[str, Any] = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total,
    }
    if usage.cached is not None:
        told["prompt_tokens_details"] = {"cached_tokens": usage.cached}
    if usage.reasoning is not None:
        told["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning}
    return told

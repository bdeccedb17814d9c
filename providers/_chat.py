"""A chat completions request as providers of other dialects have to understand it; `_chat_reader.py` reads one. What a
dialect has no like of is its provider's to say, with `refuse`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gateway.core.body import DecodeError, decode
from gateway.core.errors import GatewayError, invalid_request

if TYPE_CHECKING:
    from gateway.core.deployment import Target

Json = Mapping[str, Any]


class Text(NamedTuple):
    """`cache` is the mark `cache_control` that some clients put on parts, whose like some dialects have."""

    text: str
    cache: Json | None = None


class Image(NamedTuple):
    """By `url`, or inline: base64 `data` of a `media_type`."""

    url: str | None = None
    media_type: str = ""
    data: str = ""
    cache: Json | None = None


class Audio(NamedTuple):
    """Base64 `data` in a `format` such as wav or mp3."""

    data: str
    format: str


class File(NamedTuple):
    """A document: inline base64 `data` of a `media_type`, by `url`, or by an id of the provider's own."""

    name: str = ""
    media_type: str = ""
    data: str = ""
    url: str | None = None
    file_id: str | None = None
    cache: Json | None = None


Part = Text | Image | Audio | File


class ToolCall(NamedTuple):
    """`arguments` is JSON text as the model wrote it; `extra` what providers hang on a call, by vendor."""

    id: str
    name: str
    arguments: str
    extra: Json

    def parsed(self) -> dict[str, Any]:
        """The arguments as an object; none at all are an empty one. Raises 400."""
        try:
            value = decode(self.arguments.encode() or b"{}")
        except DecodeError:
            value = None
        if not isinstance(value, dict):
            raise invalid_request(
                f"The arguments of the earlier call to '{self.name[:100]}' are not a JSON object.", param="messages"
            )
        return value


@dataclass(slots=True)
class Turn:
    """One message that is not the system's. A tool's result has `call_id` and, where it can be told, the `name` of the
    tool. `reasoning` is text that a model thought earlier, `thinking` its blocks with signatures as they were handed
    out, `extra` what providers hung on the message, by vendor."""

    role: Literal["user", "assistant", "tool"]
    parts: list[Part]
    calls: list[ToolCall] = field(default_factory=list)
    call_id: str = ""
    name: str = ""
    reasoning: str = ""
    thinking: list[Json] = field(default_factory=list)
    extra: Json = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Its text alone."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


class Tool(NamedTuple):
    """`parameters` is a JSON Schema, None where the tool takes none."""

    name: str
    description: str
    parameters: Json | None
    strict: bool | None
    cache: Json | None = None


class ToolChoice(NamedTuple):
    """`named` goes with `name`; `allowed` says which tools may be chosen from."""

    mode: Literal["auto", "required", "none", "named"]
    name: str = ""
    allowed: tuple[str, ...] = ()


class Format(NamedTuple):
    """What the answer must look like. `schema` goes with `json_schema`."""

    kind: Literal["text", "json_object", "json_schema"]
    name: str = ""
    schema: Json | None = None
    strict: bool | None = None


@dataclass(slots=True)
class Chat:
    """The request. `system` has the texts of system and developer messages in their order, wherever they stood.
    `max_tokens` is the cap in force, the client's or a lower one."""

    system: list[Text]
    turns: list[Turn]
    tools: list[Tool]
    tool_choice: ToolChoice | None
    parallel_tool_calls: bool | None
    max_tokens: int | None
    stop: list[str]
    temperature: float | None
    top_p: float | None
    n: int
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logprobs: bool
    top_logprobs: int | None
    response_format: Format | None
    reasoning_effort: str | None
    user: str | None
    others: dict[str, Any]

    def has(self, *kinds: type[Part]) -> bool:
        """Whether any part is of one of these kinds."""
        return any(isinstance(part, kinds) for turn in self.turns for part in turn.parts)


def refuse(member: str, target: Target, why: str = "") -> GatewayError:
    """A 400: what the client asks for, this model's provider has no like of."""
    said = why or f"The model '{target.model.model_id}' cannot do what '{member}' asks for; leave it out."
    return invalid_request(said, param=member, code="unsupported_parameter")


def wants_audio(chat: Chat) -> bool:
    """Whether the answer is to be spoken."""
    wanted = chat.others.get("modalities")
    return "audio" in chat.others or (isinstance(wanted, list) and "audio" in wanted)


def tool_call_id(identity: str, allowed: str, most: int) -> str:
    """An id of another provider's as one that `allowed` characters can write, the same one every time."""
    if 0 < len(identity) <= most and all(c.isascii() and (c.isalnum() or c in allowed) for c in identity):
        return identity
    return "call" + sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[: most - 4]


def data_url(url: str, at: str) -> tuple[str, str]:
    """Media type and base64 of a data URL. Raises 400."""
    head, comma, data = url.removeprefix("data:").partition(",")
    media_type, *options = head.split(";")
    if not comma or not media_type or "base64" not in options or not data:
        raise invalid_request(f"'{at}' must be a data URL such as data:image/png;base64,….", param=at)
    return media_type.strip().lower(), data

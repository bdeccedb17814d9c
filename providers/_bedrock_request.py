"""A chat request as Bedrock's Converse has it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gateway.core.body import encode
from gateway.core.errors import invalid_request
from providers._anthropic_model import within
from providers._chat import (
    Audio,
    Chat,
    File,
    Image,
    Json,
    Part,
    Text,
    Tool,
    ToolChoice,
    Turn,
    refuse,
    tool_call_id,
    wants_audio,
)

if TYPE_CHECKING:
    from gateway.core.deployment import Target

_OWN = ("guardrailConfig", "performanceConfig", "requestMetadata", "serviceTier", "promptVariables")
"""Members of Converse's own that a client may send."""

_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "text/plain": "txt",
    "text/markdown": "md",
    "text/html": "html",
    "application/msword": "doc",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 4096}
_LARGEST_BUDGET = 16_384
_CAPS = frozenset(
    {
        "maxTokens",
        "maxTokenCount",
        "max_completion_tokens",
        "max_gen_len",
        "max_new_tokens",
        "max_tokens",
        "max_tokens_to_sample",
    }
)
"""How models on Bedrock call their output caps."""
_ADAPTIVE = re.compile(r"claude-(?:[a-z]+-)?(?:4-[6-9]|[5-9])(?:\b|-|:)").search
"""Claude models that decide themselves how long to think, and are told an effort instead of a budget."""


def converse_body(chat: Chat, target: Target) -> dict[str, Any]:
    """The body. Raises a 400 for what Converse has no like of."""
    _refuse_what_it_cannot(chat, target)
    claude = "claude" in target.upstream_model
    thinking = _thinking(chat, target) if claude else {}
    system, messages = list(_texts(chat.system)), _messages(chat, target)
    if not messages:  # somebody has to speak
        system, messages = [], [{"role": "user", "content": system or [{"text": "."}]}]
    elif messages[0]["role"] != "user":
        messages.insert(0, {"role": "user", "content": [{"text": "."}]})
    body: dict[str, Any] = {
        "system": system,
        "messages": messages,
        "inferenceConfig": _inference(chat, thinks="thinking" in thinking),
        "toolConfig": _tool_config(chat),
        "outputConfig": _output(chat, thinking.pop("effort", None), target),
        "additionalModelRequestFields": {**thinking, **_extras(chat, target, claude=claude)},
    }
    body |= {name: chat.others[name] for name in _OWN if name in chat.others}
    return {name: value for name, value in body.items() if value}


def _refuse_what_it_cannot(chat: Chat, target: Target) -> None:
    if chat.n > 1:
        raise refuse("n", target)
    if chat.logprobs or chat.top_logprobs:
        raise refuse("logprobs", target)
    if wants_audio(chat):
        raise refuse("modalities", target)


def _messages(chat: Chat, target: Target) -> list[dict[str, Any]]:
    """Turns of user and assistant in strict alternation; results of tools are the user's, and come first."""
    messages: list[dict[str, Any]] = []
    for turn in chat.turns:
        role = "assistant" if turn.role == "assistant" else "user"
        blocks = list(_blocks(turn, target))
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        elif blocks:
            messages.append({"role": role, "content": blocks})
    for message in messages:
        message["content"].sort(key=lambda block: "toolResult" not in block)
    return messages


def _blocks(turn: Turn, target: Target) -> Iterable[dict[str, Any]]:
    if turn.role == "tool":
        identity = tool_call_id(turn.call_id, "_-", 64)
        content = [block for part in turn.parts for block in _part(part, target)] or [{"text": "(empty)"}]
        yield {"toolResult": {"toolUseId": identity, "content": content}}
        return
    for block in turn.thinking:
        yield from _thought(block)
    for part in turn.parts:
        yield from _part(part, target)
    for call in turn.calls:
        identity = tool_call_id(call.id, "_-", 64)
        yield {"toolUse": {"toolUseId": identity, "name": call.name, "input": call.parsed()}}


def _thought(block: Json) -> Iterable[dict[str, Any]]:
    """Thoughts go back with their signature or not at all."""
    match block:
        case {"type": "thinking", "thinking": str(text), "signature": str(signature)}:
            yield {"reasoningContent": {"reasoningText": {"text": text, "signature": signature}}}
        case {"type": "redacted_thinking", "data": str(data)}:
            yield {"reasoningContent": {"redactedContent": data}}


def _part(part: Part, target: Target) -> Iterable[dict[str, Any]]:
    match part:
        case Text():
            yield from _texts([part])
            return
        case Image(url=None, media_type=media_type, data=data):
            yield {"image": {"format": _known(_IMAGES, media_type, target), "source": {"bytes": data}}}
        case File(url=None, file_id=None, media_type=media_type, data=data, name=name):
            yield {
                "document": {
                    "format": _known(_DOCUMENTS, media_type, target),
                    "name": re.sub(r"[^0-9A-Za-z ()\[\]-]+", "-", name.rpartition(".")[0] or name).strip()
                    or "document",
                    "source": {"bytes": data},
                }
            }
        case Audio(data=data, format=kind):
            yield {"audio": {"format": kind, "source": {"bytes": data}}}
            return
        case Image() | File():
            said = f"The model '{target.model.model_id}' takes images and files inline, as data: URLs, not by address."
            raise refuse("messages", target, said)
    yield from _cache_point(part.cache)


def _texts(texts: Iterable[Text]) -> Iterable[dict[str, Any]]:
    for text in texts:
        if text.text.strip():  # blank ones are refused
            yield {"text": text.text}
            yield from _cache_point(text.cache)


def _cache_point(mark: Json | None) -> Iterable[dict[str, Any]]:
    if mark is not None:
        ttl = mark.get("ttl")
        yield {"cachePoint": {"type": "default", **({"ttl": ttl} if ttl in ("5m", "1h") else {})}}


def _known(formats: dict[str, str], media_type: str, target: Target) -> str:
    if media_type not in formats:
        said = f"The model '{target.model.model_id}' does not read {media_type or 'this kind of data'}."
        raise refuse("messages", target, said)
    return formats[media_type]


def _inference(chat: Chat, *, thinks: bool) -> dict[str, Any]:
    settings = {
        "maxTokens": chat.max_tokens,
        "temperature": None if thinks or chat.temperature is None else min(chat.temperature, 1.0),
        "topP": None if thinks else chat.top_p,
        "stopSequences": [stop for stop in chat.stop if stop.strip()] or None,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _tool_config(chat: Chat) -> dict[str, Any]:
    """Tools and how to choose; a history of calls needs tools even where the request has none."""
    choice = chat.tool_choice or ToolChoice("auto")
    past = {call.name: Tool(call.name, "", None, None) for turn in chat.turns for call in turn.calls}
    tools = [tool for tool in chat.tools if not choice.allowed or tool.name in choice.allowed]
    if choice.mode == "none" and not past:
        return {}
    specs = [spec for tool in tools or past.values() for spec in _tool(tool)]
    if not specs:
        return {}
    config: dict[str, Any] = {"tools": specs}
    match choice.mode:
        case "required":
            config["toolChoice"] = {"any": {}}
        case "named":
            config["toolChoice"] = {"tool": {"name": choice.name}}
    return config


def _tool(tool: Tool) -> Iterable[dict[str, Any]]:
    spec: dict[str, Any] = {"name": tool.name, "inputSchema": {"json": tool.parameters or {"type": "object"}}}
    if tool.description:
        spec["description"] = tool.description
    if tool.strict is not None:
        spec["strict"] = tool.strict
    yield {"toolSpec": spec}
    yield from _cache_point(tool.cache)


def _output(chat: Chat, effort: str | None, target: Target) -> dict[str, Any]:
    output: dict[str, Any] = {"effort": effort} if effort else {}
    wanted = chat.response_format
    if wanted is None:
        return output
    if wanted.schema is None:
        said = f"The model '{target.model.model_id}' takes a schema only: send 'response_format' as json_schema."
        raise refuse("response_format", target, said)
    schema = {"schema": encode(wanted.schema).decode(), "name": wanted.name or "answer"}
    return output | {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}


def _thinking(chat: Chat, target: Target) -> dict[str, Any]:
    """How a Claude model is told to think; `effort` goes elsewhere in the body."""
    effort = chat.reasoning_effort
    if effort is None or effort == "none":
        return {}
    if _ADAPTIVE(target.upstream_model):
        known = {"minimal": "low", "xhigh": "high"}
        return {"thinking": {"type": "adaptive"}, "effort": known.get(effort, effort)}
    budget = _BUDGETS.get(effort, _LARGEST_BUDGET)
    if chat.max_tokens is not None and chat.max_tokens <= budget:
        budget = chat.max_tokens - 1
        if budget < _BUDGETS["minimal"]:
            raise invalid_request(
                "Thinking needs an output cap above 1024 tokens; raise it, or leave 'reasoning_effort' out.",
                param="reasoning_effort",
            )
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _extras(chat: Chat, target: Target, *, claude: bool) -> dict[str, Any]:
    """What goes to the model past Converse."""
    extras = dict(_own_fields(chat))
    if claude:
        for name in ("thinking", "top_k", "anthropic_beta"):
            if name in chat.others:
                extras[name] = chat.others[name]
        if chat.max_tokens is not None:
            extras |= within(chat.max_tokens, extras.get("thinking"))
        if chat.parallel_tool_calls is False and chat.tools:
            extras["tool_choice"] = _one_call(chat.tool_choice or ToolChoice("auto"))
    elif chat.reasoning_effort and target.upstream_model.startswith("openai."):
        extras["reasoning_effort"] = chat.reasoning_effort
    return {name: value for name, value in extras.items() if value is not None}


def _one_call(choice: ToolChoice) -> dict[str, Any]:
    """The choice in Claude's own words, for which Converse has none: one call at a time."""
    told: dict[str, Any] = {"type": {"required": "any", "named": "tool"}.get(choice.mode, "auto")}
    if choice.name:
        told["name"] = choice.name
    return {**told, "disable_parallel_tool_use": True}


def _own_fields(chat: Chat) -> Json:
    fields = chat.others.get("additionalModelRequestFields") or {}
    at = "additionalModelRequestFields"
    if not isinstance(fields, dict):
        raise invalid_request(f"'{at}' must be an object.", param=at)
    if _holds_a_cap(fields):
        raise invalid_request(f"'{at}' must not cap the output; 'max_completion_tokens' does.", param=at)
    return fields


def _holds_a_cap(fields: Json) -> bool:
    """Whether it could lift the cap in force, here or one level deeper, as some models have it."""
    inner = [name for value in fields.values() if isinstance(value, dict) for name in value]
    return not _CAPS.isdisjoint([*fields, *inner])

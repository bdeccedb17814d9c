"""A chat completion as Ollama's `/api/chat` is asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gateway.core.body import DecodeError, encode, raw_members
from gateway.core.errors import invalid_request
from providers._chat import Audio, Chat, File, Image, Part, Text, Tool, ToolCall, Turn, refuse
from providers._chat_reader import read_chat

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target

_THINK: Mapping[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "max": "max",
}
"""As Ollama's own OpenAI-like side reads efforts."""

_OWN_OPTIONS = ("num_ctx", "num_keep", "top_k", "min_p", "typical_p", "repeat_last_n", "repeat_penalty")
"""Ollama's own members of `options` that clients may also send beside OpenAI's."""

_OWN_MEMBERS = ("keep_alive", "think", "truncate", "shift")
"""Ollama's own members of the request."""


def chat_body(call: Call, target: Target) -> bytes:
    """The request's body. Raises 400."""
    chat = read_chat(call)
    _refuse_what_it_lacks(chat, target)
    told: dict[str, Any] = {
        "model": target.upstream_model,
        "messages": _messages(chat, target),
        "stream": call.streamed,  # it streams unless told not to
    }
    tools = _tools(chat, target)
    if tools:
        told["tools"] = tools
    wanted = chat.response_format
    if wanted is not None and wanted.kind != "text":
        told["format"] = "json" if wanted.schema is None else wanted.schema
    if chat.reasoning_effort is not None:
        told["think"] = _think(chat.reasoning_effort)
    if chat.logprobs:
        told |= {"logprobs": True, "top_logprobs": chat.top_logprobs or 0}
    told |= {name: chat.others[name] for name in _OWN_MEMBERS if name in chat.others}
    options = _options(chat)
    if options:
        told["options"] = options
    try:
        return encode(told)
    except RecursionError as error:
        raise invalid_request("The request is nested too deeply.") from error


def _refuse_what_it_lacks(chat: Chat, target: Target) -> None:
    if chat.n > 1:
        raise refuse("n", target)
    if chat.others.get("audio") is not None:
        raise refuse("audio", target)
    if chat.others.get("modalities") not in (None, ["text"]):
        raise refuse("modalities", target)
    if chat.others.get("web_search_options") is not None:
        raise refuse("web_search_options", target)


# The conversation


def _messages(chat: Chat, target: Target) -> list[dict[str, Any]]:
    """Content is always one text; pictures and sounds stand beside it."""
    messages: list[dict[str, Any]] = []
    if chat.system:
        messages.append({"role": "system", "content": "\n\n".join(part.text for part in chat.system)})
    messages += [_message(turn, target) for turn in chat.turns]
    return messages


def _message(turn: Turn, target: Target) -> dict[str, Any]:
    told: dict[str, Any] = {
        "role": turn.role,
        "content": "\n".join(part.text for part in turn.parts if isinstance(part, Text)),
    }
    media = [_media(part, target) for part in turn.parts if not isinstance(part, Text)]
    if media:
        told["images"] = media
    if turn.reasoning:
        told["thinking"] = turn.reasoning
    if turn.calls:
        told["tool_calls"] = [_tool_call(call, index) for index, call in enumerate(turn.calls)]
    if turn.role == "tool":
        told["tool_call_id"] = turn.call_id
        if turn.name:
            told["tool_name"] = turn.name
    return told


def _media(part: Part, target: Target) -> str:
    """A picture or a sound, which Ollama tells apart by itself, as plain base64."""
    match part:
        case Image(url=None, data=data) | Audio(data=data):
            return data
        case Image():
            said = f"The model '{target.model.model_id}' does not fetch pictures; send them as data: URLs."
            raise refuse("messages", target, said)
        case File():
            said = f"The model '{target.model.model_id}' takes no files; send their text, or pictures of their pages."
            raise refuse("messages", target, said)
    raise refuse("messages", target)


def _tool_call(call: ToolCall, index: int) -> dict[str, Any]:
    try:
        arguments = raw_members(call.arguments.encode() or b"{}")  # numbers stay as the model wrote them
    except DecodeError:
        arguments = call.parsed()  # says what is wrong
    return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": arguments}}


# What it may call


def _tools(chat: Chat, target: Target) -> list[dict[str, Any]]:
    """The tools that it is shown: it calls what it likes of them, which nothing can change."""
    choice = chat.tool_choice
    if choice is None:
        return [_tool(tool) for tool in chat.tools]
    if choice.mode == "none":
        return []
    if choice.mode != "auto":
        said = f"The model '{target.model.model_id}' cannot be made to call a tool; 'tool_choice' may be auto or none."
        raise refuse("tool_choice", target, said)
    return [_tool(tool) for tool in chat.tools if not choice.allowed or tool.name in choice.allowed]


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "parameters": {"type": "object", "properties": {}} if tool.parameters is None else tool.parameters,
    }
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


# How it answers


def _options(chat: Chat) -> dict[str, Any]:
    """What the client asked for in either's words. The cap in force stands, unless the client's own is lower."""
    given = chat.others.get("options")
    if given is not None and not isinstance(given, dict):
        raise invalid_request("'options' must be an object.", param="options")
    options: dict[str, Any] = dict(given or {})
    options |= {name: chat.others[name] for name in _OWN_OPTIONS if name in chat.others}
    said = {
        "num_predict": _cap(options.get("num_predict"), chat.max_tokens),
        "temperature": chat.temperature,
        "top_p": chat.top_p,
        "stop": chat.stop or None,
        "seed": chat.seed,
        "presence_penalty": chat.presence_penalty,
        "frequency_penalty": chat.frequency_penalty,
    }
    return options | {name: value for name, value in said.items() if value is not None}


def _cap(own: object, cap: int | None) -> int | None:
    """Below zero Ollama knows no cap at all."""
    if cap is None:
        return None
    return min(own, cap) if isinstance(own, int) and not isinstance(own, bool) and own >= 0 else cap


def _think(effort: str) -> bool | str:
    if effort not in _THINK:
        known = ", ".join(_THINK)
        raise invalid_request(f"'reasoning_effort' must be one of {known}.", param="reasoning_effort")
    return _THINK[effort]

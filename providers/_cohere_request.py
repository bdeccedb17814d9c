"""A chat request as Cohere's v2 chat has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from providers._chat import Audio, Chat, File, Image, Part, Text, ToolChoice, Turn, refuse, wants_audio

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target

_OWN = ("citation_options", "documents", "priority", "safety_mode", "strict_tools", "thinking")
"""Members of Cohere's own that a client may send."""

_BUDGETS = {"minimal": 512, "low": 1024, "medium": 4096}
"""Tokens to think with; a higher effort has no bound but the answer's."""


def chat_body(chat: Chat, call: Call, target: Target) -> dict[str, Any]:
    """The body. Raises a 400 for what Cohere has no like of."""
    _refuse_what_it_cannot(chat, target)
    tools, choice = _tools(chat)
    body: dict[str, Any] = {
        "model": target.upstream_model,
        "messages": _messages(chat, target),
        "stream": call.streamed,
        "tools": tools,
        "tool_choice": choice,
        "strict_tools": True if any(tool.strict for tool in chat.tools) else None,
        "response_format": _format(chat),
        "max_tokens": chat.max_tokens,
        "stop_sequences": chat.stop or None,
        "temperature": None if chat.temperature is None else min(chat.temperature, 1.0),
        "seed": chat.seed,
        "frequency_penalty": _penalty(chat.frequency_penalty),
        "presence_penalty": _penalty(chat.presence_penalty),
        "p": chat.top_p,
        "k": chat.others.get("top_k", chat.others.get("k")),
        "thinking": _thinking(chat.reasoning_effort),
    }
    body |= {name: chat.others[name] for name in _OWN if name in chat.others}
    return {name: value for name, value in body.items() if value is not None}


def _refuse_what_it_cannot(chat: Chat, target: Target) -> None:
    if chat.n > 1:
        raise refuse("n", target)
    if chat.logprobs or chat.top_logprobs:
        raise refuse("logprobs", target)
    if chat.has(Audio, File):
        raise refuse("messages", target, f"The model '{target.model.model_id}' reads texts and images only.")
    if wants_audio(chat):
        raise refuse("modalities", target)


def _messages(chat: Chat, target: Target) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": text.text} for text in chat.system]
    for turn in chat.turns:
        match turn.role:
            case "user":
                messages.append({"role": "user", "content": _content(turn.parts)})
            case "assistant":
                messages.append(_assistant(turn))
            case "tool":
                messages.append({"role": "tool", "tool_call_id": turn.call_id, "content": turn.text})
    return messages


def _assistant(turn: Turn) -> dict[str, Any]:
    """What it said before it called tools is its plan."""
    message: dict[str, Any] = {"role": "assistant"}
    if turn.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments or "{}"}}
            for call in turn.calls
        ]
        if turn.text or turn.reasoning:
            message["tool_plan"] = turn.text or turn.reasoning
        return message
    text: list[dict[str, Any]] = [{"type": "text", "text": turn.text}]
    thoughts = [{"type": "thinking", "thinking": turn.reasoning}] if turn.reasoning else []
    message["content"] = thoughts + text if thoughts else turn.text
    return message


def _content(parts: list[Part]) -> str | list[dict[str, Any]]:
    if all(isinstance(part, Text) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, Text))
    return [told for part in parts if (told := _part(part)) is not None]


def _part(part: Part) -> dict[str, Any] | None:
    match part:
        case Text(text=text):
            return {"type": "text", "text": text}
        case Image(url=url, media_type=media_type, data=data):
            return {"type": "image_url", "image_url": {"url": url or f"data:{media_type};base64,{data}"}}
    return None


def _tools(chat: Chat) -> tuple[list[dict[str, Any]] | None, str | None]:
    """Tools and how to choose. One by its name is said by leaving the others out."""
    choice = chat.tool_choice or ToolChoice("auto")
    allowed = (choice.name,) if choice.mode == "named" else choice.allowed
    tools = [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters or {"type": "object", "properties": {}},
            },
        }
        for tool in chat.tools
        if not allowed or tool.name in allowed
    ]
    if not tools:
        return None, None
    return tools, {"required": "REQUIRED", "named": "REQUIRED", "none": "NONE", "auto": None}[choice.mode]


def _format(chat: Chat) -> dict[str, Any] | None:
    wanted = chat.response_format
    if wanted is None:
        return None
    return {"type": "json_object", **({"json_schema": wanted.schema} if wanted.schema else {})}


def _penalty(value: float | None) -> float | None:
    """From 0 to 1, where OpenAI's go from -2 to 2."""
    return None if value is None else min(max(value, 0.0), 1.0)


def _thinking(effort: str | None) -> dict[str, Any] | None:
    if effort is None:
        return None
    if effort == "none":
        return {"type": "disabled"}
    budget = _BUDGETS.get(effort)
    return {"type": "enabled", **({"token_budget": budget} if budget else {})}

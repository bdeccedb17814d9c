"""Which tools Claude may call, and how it is held to a JSON Schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.core.errors import invalid_request
from providers._anthropic_schema import closed
from providers._chat import Chat, Json, Tool, ToolChoice, refuse

if TYPE_CHECKING:
    from gateway.core.deployment import Target
    from providers._anthropic_model import Abilities

FORMAT_TOOL = "aidock_answer"
"""The tool by which models answer that cannot be held to a schema otherwise: its arguments are the answer."""

_FORMAT_WORDS = "Gives the answer to the user. Call it once, with the whole answer."

_SEARCH = {"type": "web_search_20250305", "name": "web_search"}


def told_tools(chat: Chat, able: Abilities) -> dict[str, Any]:
    """The request's `tools` and `tool_choice`, with nothing in them that was not asked for. Raises 400."""
    shown = _shown(chat)
    tools = [_tool(tool, able) for tool in shown]
    choice = _choice(chat.tool_choice, chat)
    if answers_by_tool(chat, able):
        # The model may still call the client's tools, but where it may not it must answer by this one.
        choice = {"type": "any"} if shown and choice != {"type": "none"} else {"type": "tool", "name": FORMAT_TOOL}
        tools.append(_format_tool(chat))
    elif not tools:
        tools = _called_before(chat)
        choice = {"type": "none"} if tools else None
    if (search := chat.others.get("web_search_options")) is not None:
        tools.append(_search(search))
        choice = choice if shown else None
    if chat.parallel_tool_calls is False and tools and choice != {"type": "none"}:
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    told: dict[str, Any] = {"tools": tools} if tools else {}
    return told if choice is None else {**told, "tool_choice": choice}


def answers_by_tool(chat: Chat, able: Abilities) -> bool:
    """Whether the answer's schema is told as a tool. Not where the client wants one of its own called in any case."""
    wanted = chat.response_format
    if wanted is None or wanted.kind != "json_schema" or able.schemas:
        return False
    return chat.tool_choice is None or chat.tool_choice.mode in ("auto", "none")


def must_call(told: Json) -> bool:
    """Whether the model has to call a tool."""
    return told.get("tool_choice", {}).get("type") in ("any", "tool")


def _shown(chat: Chat) -> list[Tool]:
    """Claude has no list of allowed tools, so the others are not shown to it."""
    allowed = chat.tool_choice.allowed if chat.tool_choice else ()
    return [tool for tool in chat.tools if not allowed or tool.name in allowed]


def _choice(choice: ToolChoice | None, chat: Chat) -> dict[str, Any] | None:
    if choice is None:
        return None
    names = {tool.name for tool in chat.tools}
    wanted = choice.allowed or ((choice.name,) if choice.name else ())
    if not names.issuperset(wanted):
        raise invalid_request("'tool_choice' names a tool that is not among 'tools'.", param="tool_choice")
    if choice.mode in ("required", "named") and not names:
        raise invalid_request("'tool_choice' asks for a tool, and there are no 'tools'.", param="tool_choice")
    match choice.mode:
        case "required":
            return {"type": "any"}
        case "named":
            return {"type": "tool", "name": choice.name}
        case mode:
            return {"type": mode} if names else None


def _tool(tool: Tool, able: Abilities) -> dict[str, Any]:
    strict = bool(tool.strict) and able.schemas
    told: dict[str, Any] = {"name": tool.name, "input_schema": _object(tool.parameters or {}, strict=strict)}
    if tool.description:
        told["description"] = tool.description
    if strict:
        told["strict"] = True
    if tool.cache is not None:
        told["cache_control"] = tool.cache
    return told


def _object(schema: Json, *, strict: bool = False) -> dict[str, Any]:
    """A schema that is an object's, as every tool's must be."""
    whole = {"type": "object", **schema}
    if not (schema.keys() - {"type"}):
        whole["properties"] = {}
    return closed(whole) if strict else whole


def _format_tool(chat: Chat) -> dict[str, Any]:
    schema = chat.response_format.schema if chat.response_format else None
    return {"name": FORMAT_TOOL, "description": _FORMAT_WORDS, "input_schema": _object(schema or {})}


def _called_before(chat: Chat) -> list[dict[str, Any]]:
    """Claude refuses calls in the conversation where there are no tools; so those that were called are stated."""
    names = dict.fromkeys(call.name for turn in chat.turns for call in turn.calls)
    return [{"name": name, "input_schema": _object({})} for name in names]


def _search(options: object) -> dict[str, Any]:
    """OpenAI's `web_search_options` as Anthropic's own tool."""
    match options:
        case {"user_location": {"approximate": {**place}}}:
            known = {name: place[name] for name in ("city", "region", "country", "timezone") if place.get(name)}
            return {**_SEARCH, "user_location": {"type": "approximate", **known}}
    return dict(_SEARCH)


def refuse_forcing(told: Json, target: Target, able: Abilities) -> None:
    """Raises 400 where a tool must be called by a model that cannot be made to."""
    if must_call(told) and not able.forces:
        said = (
            f"The model '{target.model.model_id}' cannot be made to call a tool; use tool_choice auto, and say in the "
            "prompt which tool to call."
        )
        raise refuse("tool_choice", target, said)

"""A request of Anthropic's Messages API, told as one of chat completions."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from gateway.core.body import DecodeError, decode, encode
from gateway.core.errors import GatewayError, invalid_request
from gateway.endpoints._messages_blocks import assistant_message, object_at, system_parts, user_messages

if TYPE_CHECKING:
    from gateway.core.body import Body
    from gateway.core.call import Call

Json = dict[str, Any]

PROMPT = ("system", "messages", "tools", "output_config")
"""The members that a prompt's length is told by."""

LONGEST_USER = 64
"""Characters of a user's name that upstreams of chat take."""

_SAME = ("temperature", "top_p", "top_k", "cache_control")

_ALONE = ("container", "mcp_servers")
"""Members that give the model abilities which only Anthropic's upstream has."""

_LOW, _MEDIUM = 4096, 16_384
"""Budgets of thinking below which an effort is low, and medium."""


def examine(body: Body) -> None:
    """Refuse a conversation without a message."""
    if not body.is_filled_array("messages"):
        raise invalid_request("'messages' must be an array with at least one message.", param="messages")


def chat_body(call: Call) -> bytes:
    """The body of the same request to chat completions; the output cap is not in it. Raises 400."""
    try:
        members = decode(call.body.raw)
        return encode(_told(members, streamed=call.streamed))
    except DecodeError as error:
        raise invalid_request("The request body cannot be read.") from error


def _told(members: Json, *, streamed: bool) -> Json:
    for name in _ALONE:
        if members.get(name):
            raise unsupported(name, f"'{name}' is a matter of Anthropic's own models; leave it out, or name one.")
    told: Json = {"model": members["model"], "messages": _messages(members)}
    told |= {name: members[name] for name in _SAME if members.get(name) is not None}
    told |= _tools(members)
    told |= _output(members)
    if members.get("stop_sequences"):
        told["stop"] = members["stop_sequences"]
    user = object_at(members.get("metadata") or {}, "metadata").get("user_id")
    if isinstance(user, str) and user:
        told["user"] = user if len(user) <= LONGEST_USER else sha256(user.encode("utf-8", "replace")).hexdigest()
    if streamed:
        told["stream"] = True
    return told


def unsupported(param: str, message: str) -> GatewayError:
    """A 400: what is asked for has no like in chat."""
    return invalid_request(message, param=param, code="unsupported_parameter")


def _messages(members: Json) -> list[Json]:
    told: list[Json] = []
    system = members.get("system")
    if system:
        told += system_parts(system, "system")
    for index, item in enumerate(members["messages"]):
        at = f"messages[{index}]"
        message = object_at(item, at)
        content = message.get("content")
        match message.get("role"):
            case "user":
                told += user_messages(content, f"{at}.content")
            case "assistant":
                told += assistant_message(content, f"{at}.content")
            case "system":
                told += system_parts(content, f"{at}.content")
            case _:
                raise invalid_request(f"'{at}.role' must be user, assistant or system.", param=f"{at}.role")
    return told


# Tools


def _tools(members: Json) -> Json:
    tools = members.get("tools") or []
    if not isinstance(tools, list):
        raise invalid_request("'tools' must be an array.", param="tools")
    if not tools:
        return {}
    told: Json = {"tools": [_tool(object_at(tool, f"tools[{i}]"), f"tools[{i}]") for i, tool in enumerate(tools)]}
    choice = members.get("tool_choice")
    if choice is not None:
        told |= _choice(object_at(choice, "tool_choice"))
    return told


def _tool(tool: Json, at: str) -> Json:
    kind, name, schema = tool.get("type"), tool.get("name"), tool.get("input_schema")
    if kind not in (None, "custom"):
        said = (
            f"'{at}' is Anthropic's own tool '{str(kind)[:100]}', which the model that was asked for does not have. "
            "Leave it out, or name one of Anthropic's models."
        )
        raise unsupported(at, said)
    if not isinstance(name, str) or not name:
        raise invalid_request(f"'{at}.name' is missing.", param=f"{at}.name")
    function: Json = {"name": name, "parameters": object_at(schema, f"{at}.input_schema")}
    if isinstance(tool.get("description"), str):
        function["description"] = tool["description"]
    if tool.get("strict") is True:
        function["strict"] = True
    told: Json = {"type": "function", "function": function}
    if isinstance(tool.get("cache_control"), dict):
        told["cache_control"] = tool["cache_control"]
    return told


def _choice(choice: Json) -> Json:
    told: Json = {}
    match choice:
        case {"type": "auto" | "none" as mode}:
            told["tool_choice"] = mode
        case {"type": "any"}:
            told["tool_choice"] = "required"
        case {"type": "tool", "name": str(name)}:
            told["tool_choice"] = {"type": "function", "function": {"name": name}}
        case _:
            said = "'tool_choice.type' must be auto, any, none, or tool with a name."
            raise invalid_request(said, param="tool_choice")
    if choice.get("disable_parallel_tool_use") is True:
        told["parallel_tool_calls"] = False
    return told


# How it answers


def _output(members: Json) -> Json:
    config = object_at(members.get("output_config") or {}, "output_config")
    told: Json = {}
    effort = config.get("effort") or _effort(members.get("thinking"))
    if isinstance(effort, str):
        told["reasoning_effort"] = effort
    wanted = config.get("format") or members.get("output_format")
    if wanted is not None:
        told["response_format"] = _format(object_at(wanted, "output_config.format"))
    return told


def _effort(thinking: object) -> str | None:
    """The effort that a budget comes to. Whether to think at all is left to the model where nothing else is said:
    models that cannot be asked refuse to be."""
    match thinking:
        case {"type": "enabled", "budget_tokens": int(budget)}:
            return "low" if budget < _LOW else "medium" if budget < _MEDIUM else "high"
    return None


def _format(wanted: Mapping[str, Any]) -> Json:
    schema = wanted.get("schema")
    if wanted.get("type") != "json_schema" or not isinstance(schema, dict):
        said = "'output_config.format' must have the type json_schema and a schema."
        raise invalid_request(said, param="output_config.format")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}

"""Reads chat completions requests for all providers that speak something else.

Only shapes are checked here, each fault a 400 that names its member. Members that nothing here knows are in
`Chat.others`, as the client wrote them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gateway.core.body import DecodeError, decode
from gateway.core.errors import invalid_request
from providers._chat import (
    Audio,
    Chat,
    File,
    Format,
    Image,
    Json,
    Part,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    Turn,
    data_url,
)

if TYPE_CHECKING:
    from gateway.core.call import Call

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_KNOWN = frozenset(
    {
        "messages",
        "model",
        "stream",
        "stream_options",
        "tools",
        "functions",
        "function_call",
        "tool_choice",
        "parallel_tool_calls",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "temperature",
        "top_p",
        "n",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "logprobs",
        "top_logprobs",
        "response_format",
        "reasoning_effort",
        "user",
    }
)


def read_chat(call: Call) -> Chat:
    """The call's body, read once for all providers. Raises 400."""
    members = _object(_decoded(call), "")
    system: list[Text] = []
    turns: list[Turn] = []
    for index, message in enumerate(_list(members.get("messages"), "messages")):
        _message(_object(message, f"messages[{index}]"), f"messages[{index}]", system, turns)
    _name_results(turns)
    demand = call.demand
    tools, tool_choice = _tools(members), _tool_choice(members)
    _check_choice(tool_choice, tools)
    return Chat(
        system=system,
        turns=turns,
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=_flag(members, "parallel_tool_calls"),
        max_tokens=demand.output_cap,
        stop=_stop(members.get("stop")),
        temperature=_number(members, "temperature"),
        top_p=_number(members, "top_p"),
        n=demand.choices,
        seed=_whole(members, "seed"),
        presence_penalty=_number(members, "presence_penalty"),
        frequency_penalty=_number(members, "frequency_penalty"),
        logprobs=_flag(members, "logprobs") or False,
        top_logprobs=_whole(members, "top_logprobs"),
        response_format=_format(members.get("response_format")),
        reasoning_effort=_effort(members),
        user=_text(members, "user") or _text(members, "safety_identifier"),
        others={name: value for name, value in members.items() if name not in _KNOWN and value is not None},
    )


def _decoded(call: Call) -> Any:
    try:
        return decode(call.body.raw)
    except DecodeError as error:
        raise invalid_request("The request body cannot be read.") from error


def _message(message: Json, at: str, system: list[Text], turns: list[Turn]) -> None:
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise invalid_request(f"'{at}.role' must be one of {', '.join(sorted(_ROLES))}.", param=f"{at}.role")
    parts = _parts(message.get("content"), f"{at}.content")
    match role:
        case "system" | "developer":
            system.extend(_only_text(parts, f"{at}.content"))
        case "user":
            turns.append(Turn("user", parts, name=_text(message, "name") or ""))
        case "assistant":
            turns.append(_assistant(message, parts, at))
        case "tool":
            identity = _text(message, "tool_call_id")
            if not identity:
                raise invalid_request(f"'{at}.tool_call_id' is missing.", param=f"{at}.tool_call_id")
            turns.append(Turn("tool", parts, call_id=identity, name=_text(message, "name") or ""))
        case "function":
            name = _text(message, "name") or ""
            turns.append(Turn("tool", parts, call_id=name, name=name))


def _assistant(message: Json, parts: list[Part], at: str) -> Turn:
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        parts.append(Text(refusal))
    thinking, extra = message.get("thinking_blocks"), message.get("extra_content")
    return Turn(
        "assistant",
        parts,
        calls=[_tool_call(call, f"{at}.tool_calls[{i}]") for i, call in enumerate(_calls_of(message, at))],
        reasoning=_text(message, "reasoning_content") or _text(message, "reasoning") or "",
        thinking=[block for block in thinking if isinstance(block, dict)] if isinstance(thinking, list) else [],
        extra=extra if isinstance(extra, dict) else {},
    )


def _calls_of(message: Json, at: str) -> list[Any]:
    legacy = message.get("function_call")
    if isinstance(legacy, dict):
        return [{"id": legacy.get("name"), "function": legacy}]
    return _list(message.get("tool_calls") or [], f"{at}.tool_calls")


def _tool_call(call: object, at: str) -> ToolCall:
    members = _object(call, at)
    function = members.get("function")
    if not isinstance(function, dict):
        said = f"'{at}' must be a call of a function; this model's provider has no other tools."
        raise invalid_request(said, param=at)
    name, arguments = function.get("name"), function.get("arguments", "")
    if not isinstance(name, str) or not name:
        raise invalid_request(f"'{at}.function.name' is missing.", param=f"{at}.function.name")
    if arguments is not None and not isinstance(arguments, str):
        raise invalid_request(f"'{at}.function.arguments' must be a string of JSON.", param=f"{at}.function.arguments")
    identity = members.get("id")
    extra = members.get("extra_content")
    return ToolCall(
        identity if isinstance(identity, str) and identity else name,
        name,
        arguments or "",
        extra if isinstance(extra, dict) else {},
    )


def _name_results(turns: Iterable[Turn]) -> None:
    """Give every tool result the name of the tool that was called under its id."""
    names: dict[str, str] = {}
    for turn in turns:
        names.update((call.id, call.name) for call in turn.calls)
        if turn.role == "tool" and not turn.name:
            turn.name = names.get(turn.call_id, "")


def _parts(content: object, at: str) -> list[Part]:
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(content)] if content else []
    return [part for i, item in enumerate(_list(content, at)) if (part := _part(item, f"{at}[{i}]")) is not None]


def _part(item: object, at: str) -> Part | None:
    members = _object(item, at)
    kind = members.get("type")
    mark = members.get("cache_control")
    cache = mark if isinstance(mark, dict) else None
    match kind:
        case "text" | "refusal" | "input_text" | "output_text":
            text = members.get("refusal" if kind == "refusal" else "text")
            if not isinstance(text, str):
                raise invalid_request(f"'{at}.text' must be a string.", param=f"{at}.text")
            return Text(text, cache) if text else None
        case "image_url":
            return _image(members.get("image_url"), f"{at}.image_url", cache)
        case "input_audio":
            audio = _object(members.get("input_audio"), f"{at}.input_audio")
            return Audio(_needed(audio, "data", f"{at}.input_audio"), _needed(audio, "format", f"{at}.input_audio"))
        case "file":
            return _file(_object(members.get("file"), f"{at}.file"), f"{at}.file", cache)
    raise invalid_request(f"'{at}.type' must be text, image_url, input_audio or file.", param=f"{at}.type")


def _image(value: object, at: str, cache: Json | None) -> Image:
    url = value if isinstance(value, str) else _needed(_object(value, at), "url", at)
    if url.startswith("data:"):
        media_type, data = data_url(url, at)
        return Image(None, media_type, data, cache)
    if not url.startswith(("https://", "http://")):
        raise invalid_request(f"'{at}.url' must be an https: or a data: URL.", param=f"{at}.url")
    return Image(url, cache=cache)


def _file(members: Json, at: str, cache: Json | None) -> File:
    name, data, identity = members.get("filename"), members.get("file_data"), members.get("file_id")
    name = name if isinstance(name, str) else ""
    if isinstance(data, str) and data.startswith("data:"):
        media_type, encoded = data_url(data, f"{at}.file_data")
        return File(name, media_type, encoded, cache=cache)
    if isinstance(data, str) and data.startswith(("https://", "http://")):
        return File(name, url=data, cache=cache)
    if isinstance(data, str) and data:
        is_pdf = not name or name.lower().endswith(".pdf")
        return File(name, "application/pdf" if is_pdf else "text/plain", data, cache=cache)
    if isinstance(identity, str) and identity:
        return File(name, file_id=identity, cache=cache)
    raise invalid_request(f"'{at}' needs file_data or file_id.", param=at)


def _only_text(parts: list[Part], at: str) -> list[Text]:
    texts = [part for part in parts if isinstance(part, Text)]
    if len(texts) != len(parts):
        raise invalid_request(f"'{at}' may hold only text.", param=at)
    return texts


def _tools(members: Json) -> list[Tool]:
    tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(_list(members.get("tools") or [], "tools"))]
    for i, function in enumerate(_list(members.get("functions") or [], "functions")):
        tools.append(_function(_object(function, f"functions[{i}]"), f"functions[{i}]", None))
    return tools


def _tool(tool: object, at: str) -> Tool:
    members = _object(tool, at)
    if members.get("type", "function") != "function":
        said = f"'{at}.type' must be function; this model's provider has no other tools that clients can state."
        raise invalid_request(said, param=f"{at}.type")
    mark = members.get("cache_control")
    function = _object(members.get("function"), f"{at}.function")
    return _function(function, f"{at}.function", mark if isinstance(mark, dict) else None)


def _function(members: Json, at: str, cache: Json | None) -> Tool:
    description, parameters, strict = members.get("description"), members.get("parameters"), members.get("strict")
    if parameters is not None and not isinstance(parameters, dict):
        raise invalid_request(f"'{at}.parameters' must be a JSON Schema object.", param=f"{at}.parameters")
    return Tool(
        _needed(members, "name", at),
        description if isinstance(description, str) else "",
        parameters,
        strict if isinstance(strict, bool) else None,
        cache,
    )


def _tool_choice(members: Json) -> ToolChoice | None:
    choice = members.get("tool_choice")
    if choice is None:
        choice = members.get("function_call")
    match choice:
        case None:
            return None
        case "auto" | "none" | "required":
            return ToolChoice(choice)
        case "any":
            return ToolChoice("required")
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": [*tools]}}:
            return ToolChoice(mode, allowed=tuple(_allowed(tools)))
        case {"function": {"name": str(name)}} | {"name": str(name)} if name:
            return ToolChoice("named", name)
    raise invalid_request(
        "'tool_choice' must be auto, none, required, a function by its name, or allowed_tools.", param="tool_choice"
    )


def _check_choice(choice: ToolChoice | None, tools: list[Tool]) -> None:
    """Raises 400 for a choice that the tools do not leave."""
    if choice is None or choice.mode == "none":
        return
    if not tools and (choice.mode != "auto" or choice.allowed):
        raise invalid_request("'tool_choice' wants a tool, but there are no 'tools'.", param="tool_choice")
    names = {tool.name for tool in tools}
    missing = next((name for name in (*choice.allowed, choice.name) if name and name not in names), None)
    if missing is not None:
        raise invalid_request(f"'tool_choice' names '{missing[:100]}', which is not in 'tools'.", param="tool_choice")


def _allowed(tools: Iterable[object]) -> Iterable[str]:
    for tool in tools:
        match tool:
            case {"function": {"name": str(name)}} | {"name": str(name)}:
                yield name
            case _:
                raise invalid_request("'tool_choice.allowed_tools' must name functions.", param="tool_choice")


def _format(value: object) -> Format | None:
    if value is None:
        return None
    members = _object(value, "response_format")
    match members.get("type"):
        case "text":
            return None
        case "json_object":
            return Format("json_object")
        case "json_schema":
            inner = _object(members.get("json_schema"), "response_format.json_schema")
            schema, strict, name = inner.get("schema"), inner.get("strict"), inner.get("name")
            if schema is not None and not isinstance(schema, dict):
                at = "response_format.json_schema.schema"
                raise invalid_request(f"'{at}' must be a JSON Schema object.", param=at)
            return Format(
                "json_schema",
                name if isinstance(name, str) else "",
                schema or {"type": "object"},
                strict if isinstance(strict, bool) else None,
            )
    raise invalid_request(
        "'response_format.type' must be text, json_object or json_schema.", param="response_format.type"
    )


def _effort(members: Json) -> str | None:
    effort = _text(members, "reasoning_effort")
    if effort is not None and effort not in _EFFORTS:
        raise invalid_request(f"'reasoning_effort' must be one of {', '.join(_EFFORTS)}.", param="reasoning_effort")
    return effort


def _stop(value: object) -> list[str]:
    if value is None:
        return []
    stops = [value] if isinstance(value, str) else _list(value, "stop")
    if not all(isinstance(stop, str) for stop in stops):
        raise invalid_request("'stop' must be a string or an array of strings.", param="stop")
    return [stop for stop in stops if stop]


def _object(value: object, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid_request(f"'{at or 'The request body'}' must be an object.", param=at or None)
    return value


def _list(value: object, at: str) -> list[Any]:
    if not isinstance(value, list):
        raise invalid_request(f"'{at}' must be an array.", param=at)
    return value


def _needed(members: Json, name: str, at: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value:
        raise invalid_request(f"'{at}.{name}' must be a string with something in it.", param=f"{at}.{name}")
    return value


def _text(members: Json, name: str) -> str | None:
    value = members.get(name)
    return value if isinstance(value, str) and value else None


def _flag(members: Json, name: str) -> bool | None:
    value = members.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid_request(f"'{name}' must be true or false.", param=name)
    return value


def _number(members: Json, name: str) -> float | None:
    value = members.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid_request(f"'{name}' must be a number.", param=name)
    return value


def _whole(members: Json, name: str) -> int | None:
    value = _number(members, name)
    if value is None:
        return None
    if not float(value).is_integer():
        raise invalid_request(f"'{name}' must be a whole number.", param=name)
    return int(value)

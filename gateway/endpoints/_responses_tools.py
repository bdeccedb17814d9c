"""The tools of a Responses call, told as functions, and the calls of these told back.

Functions pass as they are; a custom tool becomes a function of one text, a namespace's tools functions under joined
names. Tools of OpenAI's own that a model can do without are left out; what it cannot do without is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from gateway.core.body import Body, DecodeError, decode
from gateway.core.errors import GatewayError, invalid_request

_LEFT_OUT = ("web_search", "tool_search", "image_generation")
"""Beginnings of types: they come with dates."""
_LONGEST_NAME = 64
_INPUT = "input"
"""The one parameter of a custom tool's function."""


class Tool(NamedTuple):
    """What a client calls a tool that a model knows by another name."""

    kind: Literal["function", "custom"]
    name: str
    namespace: str | None = None


class Tools:
    """A call's tools. `functions` are as chat has them; `told` maps a function's name to the client's tool."""

    def __init__(self) -> None:
        self.functions: list[dict[str, Any]] = []
        self.told: dict[str, Tool] = {}
        self._names: dict[Tool, str] = {}

    def add(self, tools: object, at: str, namespace: str | None = None) -> None:
        """Take a list of tools in. Raises 400."""
        if not isinstance(tools, list):
            raise invalid_request(f"'{at}' must be an array.", param=at)
        for index, tool in enumerate(tools):
            self._add(tool, f"{at}[{index}]", namespace)

    def name_of(self, tool: Tool) -> str:
        """What the model knows a tool as, whether it may call it now or only did."""
        name = self._names.get(tool)
        if name is None:
            name = self._names[tool] = self._free_name(tool)
        return name

    def called(self, name: str) -> Tool:
        """The client's tool behind a function; a name that a model made up is a function's."""
        return self.told.get(name) or Tool("function", name)

    def only(self, allowed: object) -> None:
        """Keep the tools that a client allows. Raises 400 where one of them is not there."""
        names = {self._chosen(one) for one in allowed if not _is_left_out(one)} if isinstance(allowed, list) else set()
        self.functions = [function for function in self.functions if function["function"]["name"] in names]

    def choice(self, choice: object) -> Any:
        """A `tool_choice` as chat has it, None for the usual one. Raises 400."""
        match choice:
            case None | "auto":
                return None
            case "none" | "required":
                return choice
            case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": allowed}:
                self.only(allowed)
                return None if mode == "auto" else mode
            case {"type": "function" | "custom"}:
                return {"type": "function", "function": {"name": self._chosen(choice)}}
            case {"type": str(kind)}:
                raise _unknown(f"'tool_choice' asks for {kind[:100]}, which", "tool_choice")
        raise invalid_request(
            "'tool_choice' must be auto, none, required, a tool by its name, or allowed_tools.", param="tool_choice"
        )

    def _chosen(self, choice: object) -> str:
        match choice:
            case {"type": "function" | "custom" as kind, "name": str(name), **others}:
                namespace = others.get("namespace")
                wanted = Tool(kind, name, namespace if isinstance(namespace, str) else None)
                if wanted in self._names:
                    return self._names[wanted]
                raise invalid_request(
                    f"'tool_choice' names '{name[:100]}', but no tool has that name.", param="tool_choice"
                )
        raise invalid_request("'tool_choice' must name functions or custom tools.", param="tool_choice")

    def _add(self, tool: object, at: str, namespace: str | None) -> None:
        if not isinstance(tool, dict):
            raise invalid_request(f"'{at}' must be an object.", param=at)
        kind = tool.get("type")
        match kind:
            case "function":
                self._tell(tool, Tool("function", _named(tool, at), namespace), _schema(tool, at))
            case "custom":
                self._tell(tool, Tool("custom", _named(tool, at), namespace), _INPUT_SCHEMA, _grammar(tool))
            case "namespace" if namespace is None:
                self.add(tool.get("tools"), f"{at}.tools", _named(tool, at))
            case _ if _is_left_out(tool):
                return
            case _:
                raise _unknown(f"'{at}' is of type {str(kind)[:100]}, which", f"{at}.type")

    def _tell(self, tool: dict[str, Any], known: Tool, parameters: Any, more: str = "") -> None:
        name = self.name_of(known)
        description = tool.get("description")
        said = "\n\n".join(filter(None, (description if isinstance(description, str) else "", more)))
        function: dict[str, Any] = {"name": name, "parameters": parameters}
        if said:
            function["description"] = said
        if known.kind == "function" and tool.get("strict") is True:
            function["strict"] = True
        self.told[name] = known
        self.functions.append({"type": "function", "function": function})

    def _free_name(self, tool: Tool) -> str:
        """A name of its own: joined with the namespace, and shortened where it would be too long."""
        name = f"{tool.namespace}__{tool.name}" if tool.namespace else tool.name
        if len(name) > _LONGEST_NAME or name in self.told:
            mark = sha256("\0".join(map(str, tool)).encode("utf-8", "surrogatepass")).hexdigest()[:8]
            name = f"{name[: _LONGEST_NAME - 9]}_{mark}"
        return name


def tools_of(body: Body) -> Tools:
    """A call's tools, those that its input brings among them. Raises 400."""
    tools = Tools()
    tools.add(body.value("tools") or [], "tools")
    for index, item in _bringing(body):
        tools.add(item.get("tools") or [], f"input[{index}].tools")
    return tools


def custom_arguments(text: str) -> dict[str, str]:
    """A custom tool's input as its function's arguments."""
    return {_INPUT: text}


def custom_input(arguments: str) -> str:
    """A custom tool's input out of its function's arguments; whatever else a model wrote is taken as the input."""
    try:
        read = decode(arguments.encode("utf-8", "replace"))
    except DecodeError:
        return arguments
    match read:
        case {"input": str(text)}:
            return text
        case {}:
            return "" if not read else arguments
    return arguments


def _bringing(body: Body) -> Iterator[tuple[int, dict[str, Any]]]:
    """Items of the input that bring tools."""
    if b"additional_tools" not in body.raw and b"tool_search_output" not in body.raw:
        return
    items = body.value("input")
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict) and item.get("type") in ("additional_tools", "tool_search_output"):
            yield index, item


def _is_left_out(tool: object) -> bool:
    kind = tool.get("type") if isinstance(tool, dict) else None
    return isinstance(kind, str) and kind.startswith(_LEFT_OUT)


_INPUT_SCHEMA = {
    "type": "object",
    "properties": {_INPUT: {"type": "string", "description": "The whole input of the tool, as it is."}},
    "required": [_INPUT],
    "additionalProperties": False,
}


def _schema(tool: dict[str, Any], at: str) -> Any:
    parameters = tool.get("parameters")
    if parameters is None:
        return {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise invalid_request(f"'{at}.parameters' must be a JSON Schema object.", param=f"{at}.parameters")
    return parameters


def _grammar(tool: dict[str, Any]) -> str:
    match tool.get("format"):
        case {"type": "grammar", "syntax": str(syntax), "definition": str(definition)}:
            return f"The input must follow this {syntax} grammar:\n{definition}"
    return ""


def _named(tool: dict[str, Any], at: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise invalid_request(f"'{at}.name' is missing.", param=f"{at}.name")
    return name


def _unknown(what: str, at: str) -> GatewayError:
    said = f"{what} this model's provider does not have. Functions and custom tools work."
    return invalid_request(said, param=at, code="unsupported_parameter")

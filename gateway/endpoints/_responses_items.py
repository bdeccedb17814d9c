"""The input of a Responses call as chat's messages.

A model's turn is several items here and one message there: thoughts, text and calls that follow each other are put
together, and the results of the calls follow as messages of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.body import encode
from gateway.core.errors import GatewayError, invalid_request
from gateway.endpoints._responses_seal import unseal
from gateway.endpoints._responses_tools import Tool, Tools, custom_arguments

Message = dict[str, Any]

_LEFT_OUT = frozenset(
    {"web_search_call", "tool_search_call", "image_generation_call", "additional_tools", "tool_search_output"}
)
"""Items that tell of tools that are left out, or that were read with the tools."""
_SEE_BELOW = "The result is in the next message."


class Messages:
    """Takes items in, one after the other; `said` is what has come of them."""

    def __init__(self, tools: Tools) -> None:
        self.said: list[Message] = []
        self._tools = tools
        self._turn: Message | None = None
        self._thoughts: list[str] = []
        self._extras: dict[str, Any] = {}
        self._pictures: list[Any] = []

    def instruct(self, text: str) -> None:
        """What the system says. Its messages at the beginning become one: many models take no second."""
        if self.said and self.said[-1]["role"] == "system":
            self.said[-1]["content"] += f"\n\n{text}"
        else:
            self.said.append({"role": "system", "content": text})

    def take(self, item: object, at: str) -> None:
        """One item of the input. Raises 400."""
        if not isinstance(item, dict):
            raise invalid_request(f"'{at}' must be an object.", param=at)
        kind = item.get("type") or ("message" if "role" in item else "item_reference")
        match kind:
            case "message":
                self._message(item, at)
            case "reasoning":
                self._reasoning(item)
            case "function_call":
                self._call(item, Tool("function", _needed(item, "name", at), _namespace(item)), at)
            case "custom_tool_call":
                self._call(item, Tool("custom", _needed(item, "name", at), _namespace(item)), at)
            case "function_call_output" | "custom_tool_call_output":
                self._result(item, at)
            case "item_reference":
                raise _refused(f"'{at}' refers to an item that is not kept; send the item itself.", at)
            case str() if kind in _LEFT_OUT:
                return
            case _:
                raise _refused(f"'{at}' is of type {str(kind)[:100]}, which this model's provider cannot read.", at)

    def end(self) -> list[Message]:
        """The messages."""
        self._end_turn()
        self._end_results()
        return self.said

    def _message(self, item: Message, at: str) -> None:
        role = item.get("role")
        if role == "assistant":
            self._speak(item, f"{at}.content")
            return
        if role not in ("user", "system", "developer"):
            said = f"'{at}.role' must be user, assistant, system or developer."
            raise invalid_request(said, param=f"{at}.role")
        self._end_turn()
        self._end_results()
        content = _content(item.get("content"), f"{at}.content")
        if role == "user":
            self.said.append({"role": "user", "content": content})
        elif isinstance(content, str):
            self.instruct(content)
        else:
            raise invalid_request(f"'{at}.content' may hold only text.", param=f"{at}.content")

    def _speak(self, item: Message, at: str) -> None:
        """What the model said."""
        turn = self._begun_turn()
        refusals, texts = [], []
        content = item.get("content")
        for index, part in enumerate(content if isinstance(content, list) else ()):
            match part:
                case {"type": "refusal", "refusal": str(text)}:
                    refusals.append(text)
                case {"type": "output_text" | "input_text" | "text", "text": str(text)}:
                    texts.append(text)
                case _:
                    raise invalid_request(f"'{at}[{index}]' must be output_text or refusal.", param=f"{at}[{index}]")
        if isinstance(content, str):
            texts.append(content)
        for member, pieces in (("content", texts), ("refusal", refusals)):
            if pieces:
                turn[member] = "".join([turn.get(member) or "", *pieces])

    def _reasoning(self, item: Message) -> None:
        """Thoughts go back to who thought them: signed ones as they were, the text of others with the turn's calls."""
        turn = self._begun_turn()
        sealed = unseal(item.get("encrypted_content"))
        if sealed.thinking:
            turn.setdefault("thinking_blocks", []).extend(sealed.thinking)
        self._extras.update(sealed.extras)
        for parts in (item.get("content"), item.get("summary")):
            for part in parts if isinstance(parts, list) else ():
                if isinstance(part, dict) and isinstance(part.get("text"), str):
                    self._thoughts.append(part["text"])

    def _call(self, item: Message, tool: Tool, at: str) -> None:
        identity = _needed(item, "call_id", at)
        wanted = "input" if tool.kind == "custom" else "arguments"
        told = item.get(wanted)
        if not isinstance(told, str):
            raise invalid_request(f"'{at}.{wanted}' must be a string.", param=f"{at}.{wanted}")
        arguments = encode(custom_arguments(told)).decode() if tool.kind == "custom" else told
        function = {"name": self._tools.name_of(tool), "arguments": arguments}
        call = {"id": identity, "type": "function", "function": function}
        self._begun_turn().setdefault("tool_calls", []).append(call)

    def _result(self, item: Message, at: str) -> None:
        self._end_turn()
        identity = _needed(item, "call_id", at)
        content = _content(item.get("output"), f"{at}.output")
        if isinstance(content, list):
            texts = [part["text"] for part in content if part["type"] == "text"]
            self._pictures += [part for part in content if part["type"] != "text"]
            content = "\n".join(texts) or _SEE_BELOW
        self.said.append({"role": "tool", "tool_call_id": identity, "content": content})

    def _begun_turn(self) -> Message:
        if self._turn is None:
            self._end_results()
            self._turn = {"role": "assistant", "content": None}
        return self._turn

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is None:
            return
        for call in turn.get("tool_calls", ()):
            extra = self._extras.get(call["id"])
            if extra:
                call["extra_content"] = extra
        if self._thoughts and "tool_calls" in turn:
            turn["reasoning_content"] = "\n".join(self._thoughts)
        self._thoughts.clear()
        self._extras.clear()
        if len(turn) > 2 or turn["content"] is not None:
            self.said.append(turn)

    def _end_results(self) -> None:
        """What is not text cannot be in a tool's message, so it follows all of them as the user's."""
        if self._pictures:
            self.said.append({"role": "user", "content": self._pictures})
            self._pictures = []


def _content(content: object, at: str) -> str | list[dict[str, Any]]:
    """What a message or a result holds: text where there is nothing else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid_request(f"'{at}' must be a string or an array of parts.", param=at)
    parts = [_part(part, f"{at}[{index}]") for index, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _part(part: object, at: str) -> dict[str, Any]:
    match part:
        case {"type": "input_text" | "output_text" | "text" | "summary_text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "input_image", "image_url": str(url), **others}:
            image = {"url": url}
            if others.get("detail") in ("low", "high"):
                image["detail"] = str(others["detail"])
            return {"type": "image_url", "image_url": image}
        case {"type": "input_image"}:
            raise _refused(f"'{at}' must have its image as a URL or as data; this provider keeps no files.", at)
        case {"type": "input_file", **others}:
            return {"type": "file", "file": _file(others, at)}
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": str(form)}}:
            return {"type": "input_audio", "input_audio": {"data": data, "format": form}}
    raise invalid_request(
        f"'{at}' must be input_text, input_image, input_file or input_audio, with what belongs to it.", param=at
    )


def _file(part: Mapping[Any, Any], at: str) -> dict[str, Any]:
    data = part.get("file_data") or part.get("file_url")
    if isinstance(data, str) and data:
        name = part.get("filename")
        return {"file_data": data, "filename": name} if isinstance(name, str) and name else {"file_data": data}
    identity = part.get("file_id")
    if isinstance(identity, str) and identity:
        return {"file_id": identity}
    raise invalid_request(f"'{at}' needs file_data, file_url or file_id.", param=at)


def _namespace(item: Message) -> str | None:
    namespace = item.get("namespace")
    return namespace if isinstance(namespace, str) and namespace else None


def _needed(item: Message, name: str, at: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value:
        raise invalid_request(f"'{at}.{name}' is missing.", param=f"{at}.{name}")
    return value


def _refused(said: str, at: str) -> GatewayError:
    return invalid_request(said, param=at, code="unsupported_parameter")

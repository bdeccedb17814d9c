"""The texts of a request, whatever the endpoint's dialect: every string of its body that people or models wrote, and
not what only names, types or encodes something.

What a tool was given or gave is data of its own: all its strings are texts, also where they are JSON inside a string.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gateway.core.body import DecodeError, decode, encode

if TYPE_CHECKING:
    from gateway.core.call import Call

Change = Callable[[str], str]

_DECIDES = frozenset({"model", "previous_response_id", "conversation", "file"})
"""Members of a body that say where it goes, or stand for what is not in it."""

_NOT_TEXT = frozenset(
    {
        "call_id",
        "data",
        "detail",
        "encrypted_content",
        "file_data",
        "file_id",
        "file_url",
        "format",
        "id",
        "image_url",
        "item_id",
        "media_type",
        "mime_type",
        "name",
        "role",
        "signature",
        "status",
        "tool_call_id",
        "tool_use_id",
        "type",
        "url",
    }
)

_DATA = frozenset({"args", "arguments", "input", "input_schema", "json_schema", "output", "parameters", "response"})
"""Members that hold what a tool was given or gave, or the schema of it, in somebody else's words."""


def rewrite(call: Call, change: Change) -> None:
    """Put every text of the request through `change`, and the body with what came of it into the call. Where nothing
    changed the client's own bytes stay."""
    changed: dict[str, Any] = {}
    for name in call.body.members:
        if name in _DECIDES:
            continue
        value = call.body.value(name)
        told = _changed(value, change)
        if told is not value:
            changed[name] = told
    if changed:
        call.replace_body(call.body.changed(changed))


def _changed(value: Any, change: Change) -> Any:
    """The value with its texts changed; the same object where none did."""
    match value:
        case str():
            return _text(value, change)
        case list():
            return _list(value, [_changed(item, change) for item in value])
        case dict():
            return _dict(value, {name: _member(value, name, item, change) for name, item in value.items()})
    return value


def _member(holder: Mapping[str, Any], name: str, item: Any, change: Change) -> Any:
    if name == "cache_control":
        return item
    if name in _DATA and not _is_part(item):
        return _data(item, change)
    if isinstance(item, str) and name in _NOT_TEXT and not _is_text_after_all(holder, name):
        return item
    return _changed(item, change)


def _is_part(item: Any) -> bool:
    """Whether it is a list of content parts, such as a tool's output may be, rather than data."""
    return isinstance(item, list) and all(isinstance(part, dict) and "type" in part for part in item)


def _is_text_after_all(holder: Mapping[str, Any], name: str) -> bool:
    """A document in plain text, and the name of whoever speaks."""
    if name == "data":
        return holder.get("type") == "text" or str(holder.get("media_type", "")).startswith("text/")
    return name == "name" and "role" in holder


def _data(value: Any, change: Change) -> Any:
    """Data with all of its strings changed; keys stay."""
    match value:
        case str():
            return _encoded(value, change)
        case list():
            return _list(value, [_data(item, change) for item in value])
        case dict():
            return _dict(value, {name: _data(item, change) for name, item in value.items()})
    return value


def _encoded(text: str, change: Change) -> str:
    """A text that may be JSON, whose escapes must hide nothing."""
    if text[:1] in ("{", "[", '"'):
        try:
            value = decode(text.encode("utf-8", "surrogatepass"))
        except DecodeError:
            return _text(text, change)
        told = _data(value, change)
        return text if told is value else encode(told).decode()
    return _text(text, change)


def _text(text: str, change: Change) -> str:
    told = change(text)
    return text if told == text else told


def _list(old: list[Any], new: list[Any]) -> list[Any]:
    return new if any(told is not item for told, item in zip(new, old, strict=True)) else old


def _dict(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return new if any(new[name] is not item for name, item in old.items()) else old

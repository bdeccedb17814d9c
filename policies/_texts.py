"""The texts of a prompt, whatever the endpoint's dialect: every string below its prompt members that people or models
wrote, and not what only names, types or encodes something."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.core.call import Call

_NOT_TEXT = frozenset(
    {
        "cache_control",
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


def rewrite(call: Call, change: Callable[[str], str]) -> None:
    """Put every text of the prompt through `change`, and the body with what came of it into the call. Where nothing
    changed the client's own bytes stay."""
    changed: dict[str, Any] = {}
    for name in call.endpoint.prompt:
        value = call.body.value(name)
        told = _changed(value, change)
        if told is not value:
            changed[name] = told
    if changed:
        call.replace_body(call.body.changed(changed))


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    """The value with its texts changed; the same object where none did."""
    match value:
        case str():
            told = change(value)
            return value if told == value else told
        case list():
            items = [_changed(item, change) for item in value]
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        case dict():
            members = {
                name: item if name in _NOT_TEXT and isinstance(item, str) else _changed(item, change)
                for name, item in value.items()
                if name != "cache_control"
            }
            same = all(members.get(name, item) is item for name, item in value.items())
            return value if same else {**value, **members}
    return value

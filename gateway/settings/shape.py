"""What the schema says about a path: which keys are known there, and what stands at the end."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from gateway.settings.problems import KeyPath


def unwrap(annotation: Any) -> Any:
    """The type inside `Annotated[...]` and `... | None`."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, UnionType):
            annotation = next(option for option in get_args(annotation) if option is not type(None))
        else:
            return annotation


def is_section(kind: Any) -> bool:
    """Whether a value of this type has a fixed set of keys."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def is_mapping(kind: Any) -> bool:
    """Whether a value of this type has keys of its author's choice."""
    return get_origin(kind) is dict


def is_container(kind: Any) -> bool:
    """Whether a value of this type is a mapping or a list rather than a scalar."""
    return is_section(kind) or get_origin(kind) in (dict, tuple)


def fields(kind: Any) -> dict[str, Any]:
    """A section's keys as they are written, with their types; empty for anything else."""
    if not is_section(kind):
        return {}
    return {field.alias or name: unwrap(field.annotation) for name, field in kind.model_fields.items()}


def child(kind: Any, part: str | int) -> Any:
    """The type below a type, None when there is nothing below."""
    if is_section(kind):
        return fields(kind).get(str(part))
    arguments = get_args(kind)
    if get_origin(kind) is dict:
        return unwrap(arguments[1])
    if get_origin(kind) is tuple:
        return unwrap(arguments[0])
    return None


def known_keys(root: Any, path: KeyPath) -> list[str]:
    """The keys that the section at a path takes; for a list, those of its items, one of which may stand for it."""
    kind = root
    for part in path:
        kind = child(kind, part)
    return list(fields(kind) or fields(child(kind, 0)))

"""JSON Schemas as Claude keeps to them: objects closed, and what it cannot be held to told in words instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.body import encode

_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"},
)
_LISTS = ("anyOf", "allOf")
_MAPPINGS = ("properties", "$defs", "definitions")
_KEPT = frozenset(
    {"type", "enum", "const", "$ref", "title", "description", "default", "required", "items", "pattern"},
)


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with every object closed, which is what strict schemas are to Claude, and without keywords that it
    refuses: these are moved to the description."""
    told: dict[str, Any] = {}
    words: list[str] = []
    for keyword, value in schema.items():
        if keyword in _MAPPINGS and isinstance(value, Mapping):
            told[keyword] = {name: _inner(inner) for name, inner in value.items()}
        elif keyword in _LISTS and isinstance(value, list):
            told[keyword] = [_inner(inner) for inner in value]
        elif keyword == "oneOf" and isinstance(value, list):
            told["anyOf"] = [_inner(inner) for inner in value]
        elif keyword == "items":
            told[keyword] = _inner(value)
        elif keyword in _KEPT or _is_taken(keyword, value):
            told[keyword] = value
        elif keyword not in ("additionalProperties", "$schema", "$id", "strict"):
            words.append(f"{keyword}: {encode(value).decode()}")
    if "properties" in told or _is_object(told.get("type")):
        told["additionalProperties"] = False
    if words:
        described = told.get("description")
        told["description"] = (f"{described}\n" if isinstance(described, str) else "") + f"({', '.join(words)})"
    return told


def _inner(schema: object) -> object:
    return closed(schema) if isinstance(schema, Mapping) else schema


def _is_taken(keyword: str, value: object) -> bool:
    return (keyword == "format" and value in _FORMATS) or (keyword == "minItems" and value in (0, 1))


def _is_object(kind: object) -> bool:
    return kind == "object" or (isinstance(kind, list) and "object" in kind)

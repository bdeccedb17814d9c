"""JSON Schemas as Gemini takes them in `parametersJsonSchema` and `responseJsonSchema`: proper ones, but for a few
keywords that it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.errors import invalid_request

_REFUSED = frozenset({"$schema", "$comment", "strict"})
_OF_NAMES = frozenset({"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"})
"""Keywords whose members are names and not keywords."""
_LITERAL = frozenset({"enum", "default", "example", "examples", "required"})
"""Keywords whose value is no schema, whatever it looks like."""

_DEEPEST = 64


def cleaned(schema: Mapping[str, Any], at: str) -> dict[str, Any]:
    """The schema without what Gemini refuses; a `const` is an `enum` of one. Raises 400 for one that has no end."""
    return _schema(schema, at, 0)


def _schema(schema: Mapping[str, Any], at: str, depth: int) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _REFUSED:
            continue
        if keyword == "const":
            told["enum"] = [value]
        elif keyword in _OF_NAMES and isinstance(value, Mapping):
            told[keyword] = {name: _any(inner, at, depth + 1) for name, inner in value.items()}
        else:
            told[keyword] = value if keyword in _LITERAL else _any(value, at, depth + 1)
    return told


def _any(value: Any, at: str, depth: int) -> Any:
    if depth > _DEEPEST:
        raise invalid_request(f"'{at}' is nested too deeply.", param=at)
    if isinstance(value, Mapping):
        return _schema(value, at, depth)
    if isinstance(value, list):
        return [_any(inner, at, depth + 1) for inner in value]
    return value

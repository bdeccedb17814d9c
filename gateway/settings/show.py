"""A document for people, for editors, and as a fingerprint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

from pydantic import SecretStr

from gateway.settings.load import Document
from gateway.settings.problems import KeyPath
from gateway.settings.schema import Settings

Mask = Callable[[str], str]
_FROM_ENVIRONMENT = {"type": "string", "pattern": r"\$\{"}
_NOTHING = {"type": "null"}


def effective(document: Document) -> dict[str, Any]:
    """The configuration in force, defaults included, in the form it is written in. Secrets are masked."""
    return _render(document, _masked, float)


def fingerprint(document: Document) -> str:
    """A hash of what the configuration says; a changed secret changes it."""
    rendered = _render(
        document, lambda secret: hashlib.sha256(secret.encode()).hexdigest(), lambda n: str(n.normalize())
    )
    return hashlib.sha256(json.dumps(rendered, sort_keys=True).encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file, for editors."""
    schema = Settings.model_json_schema(by_alias=True)
    for part in (schema, *schema["$defs"].values()):
        part["properties"] = {name: _lenient(value) for name, value in part.get("properties", {}).items()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _lenient(value: dict[str, Any]) -> dict[str, Any]:
    """Nothing may stand for the default, and a `${...}` placeholder for what is not text."""
    around: dict[str, Any] = {key: value.pop(key) for key in ("title", "description", "default") if key in value}
    options = value.get("anyOf") or [value]
    if any(option.get("type") in ("integer", "number", "boolean") for option in options):
        options = [*options, _FROM_ENVIRONMENT]
    if _NOTHING not in options:
        options = [*options, _NOTHING]
    return {**around, "anyOf": options}


def _masked(secret: str) -> str:
    """Enough to tell two keys apart, and only of secrets long enough to spare it."""
    if len(secret) < 20:
        return "…"
    prefix = re.match(r"[A-Za-z]{1,4}[-_]", secret)
    return f"{prefix[0] if prefix else ''}…{secret[-4:]}"


def _render(document: Document, mask: Mask, number: Callable[[Decimal], object]) -> dict[str, Any]:
    dumped = document.settings.model_dump(by_alias=True, exclude_none=True)
    storage = dumped["storage"]
    storage["database"] = _url(document.settings.storage.database_url, mask)
    storage["counters"] = _url(document.settings.storage.counters, mask)
    for provider in dumped["providers"].values():
        provider["headers"] = {name: mask(value) for name, value in provider["headers"].items()}
    if "policies" in dumped:
        dumped["policies"] = [
            {entry["name"]: _settings(document, ("policies", index, entry["name"]), entry["settings"], mask)}
            if entry["settings"]
            else entry["name"]
            for index, entry in enumerate(dumped["policies"])
        ]
    rendered: dict[str, Any] = _plain(dumped, mask, number)
    return rendered


def _settings(document: Document, path: KeyPath, value: Any, mask: Mask) -> Any:
    """A policy's settings. Which of them are secret only their origin tells."""
    if isinstance(value, dict):
        return {key: _settings(document, (*path, key), inner, mask) for key, inner in value.items()}
    if isinstance(value, list):
        return [_settings(document, (*path, index), inner, mask) for index, inner in enumerate(value)]
    place = document.tree.place(path)
    return mask(value) if isinstance(value, str) and place is not None and place.private else value


def _url(url: str, mask: Mask) -> str:
    """A URL without its password, and without its options' values, which may hold one as well."""
    address, question, options = url.partition("?")
    scheme, separator, rest = address.partition("://")
    login, at, place = rest.rpartition("@")
    user, colon, password = login.partition(":")
    shown = f"{user}:{mask(password)}" if colon else user
    return f"{scheme}{separator}{shown}{at}{place}{question}{'&'.join(_option(o, mask) for o in options.split('&'))}"


def _option(option: str, mask: Mask) -> str:
    name, equals, value = option.partition("=")
    return f"{name}={mask(value)}" if equals else mask(option) if option else ""


def _plain(value: Any, mask: Mask, number: Callable[[Decimal], object]) -> Any:
    match value:
        case dict():
            return {key: _plain(inner, mask, number) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner, mask, number) for inner in value]
        case SecretStr():
            return mask(value.get_secret_value())
        case Decimal():
            return number(value)
        case date():
            return value.isoformat()
    return value

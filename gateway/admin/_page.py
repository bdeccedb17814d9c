"""The API document as a page that needs nothing else: no script, no file from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1b1f24; }
h2 { margin-top: 2.5rem; text-transform: capitalize; }
section { border-top: 1px solid #d8dee4; padding: .5rem 0 1rem; }
h3 { font: 600 15px/1.5 ui-monospace, monospace; margin: .5rem 0; }
table { border-collapse: collapse; }
td { padding: .1rem 1rem .1rem 0; vertical-align: top; }
code { font-family: ui-monospace, monospace; }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #d1d7e0; } section { border-color: #3d444d; } }
"""


def page(document: dict[str, Any], address: str) -> str:
    """The page; `address` is where the document itself is."""
    about = document["info"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(about["title"])} API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{escape(about['title'])} {escape(about['version'])}</h1><p>{escape(about['description'])}</p>"
        f"<p>Keys go into <code>Authorization: Bearer</code>, <code>x-api-key</code> or <code>api-key</code>. For "
        f'programs: <a href="{escape(address)}">{escape(address)}</a>.</p>{"".join(_tags(document))}</html>'
    )


def _tags(document: dict[str, Any]) -> Iterator[str]:
    for tag in document["tags"]:
        yield f"<h2>{escape(tag['name'])}</h2>"
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    yield from _operation(document, method, path, operation)


def _operation(document: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f'<section id="{escape(operation["operationId"])}"><h3>{method.upper()} {escape(path)}</h3>'
    yield f"<p>{escape(operation['summary'])} {escape(operation.get('description', ''))}</p><table>"
    for parameter in operation.get("parameters", ()):
        yield _row(f"{parameter['in']} {parameter['name']}", _said(parameter["schema"], needed=parameter["required"]))
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        shape = _resolved(document, content["schema"])
        for name, schema in shape["properties"].items():
            yield _row(f"{kind} {name}", _said(schema, needed=name in shape.get("required", ())))
    for status, answer in operation["responses"].items():
        yield _row(status, f"{answer['description']} {_shape(answer)}")
    yield "</table></section>"


def _row(name: str, words: str) -> str:
    return f"<tr><td><code>{escape(name)}</code><td>{escape(words.strip())}"


def _said(schema: dict[str, Any], *, needed: bool) -> str:
    kinds = [schema, *schema.get("anyOf", ())]
    kind = " or ".join(str(each["type"]) for each in kinds if "type" in each)
    default = f", {schema['default']} unless said" if schema.get("default") is not None else ""
    return f"{kind or 'anything'}{', required' if needed else ''}{default}. {schema.get('description', '')}"


def _shape(answer: dict[str, Any]) -> str:
    """The name of the answer's schema, where it has one."""
    for content in answer.get("content", {}).values():
        reference: str = content["schema"].get("$ref", "")
        return reference.rpartition("/")[2]
    return ""


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = document["components"]["schemas"][name] if name else schema
    return found

"""What the demo model knows: the same question gets the same answer, in tokens that can be counted.

A token is a piece of text of up to eight characters with the blanks before it. Nothing here waits or speaks HTTP.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any, NamedTuple, TypeGuard

from gateway.core.errors import invalid_request

MAX_LONG = 100_000
MAX_WAIT_S = 600.0
MAX_SCHEMA_NODES = 1_000
DEFAULT_DIMENSIONS = 256

_PIECE = re.compile(r"\s*\S{1,8}|\s+")
_SENTENCES = (
    "Everything around this answer is real: the key, the quota, the ledger row and the stream.",
    "Only the intelligence is missing, and it costs nothing.",
    "The same question always gets the same answer, so a test can rely on it.",
    "Add a provider to the configuration and this very request reaches a real model.",
    "Try /long 200 for a longer answer, or /error 429 to see how a client takes a refusal.",
    "Ask with stream set to true and the words arrive one by one.",
)
_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "email": "demo@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
}


class Orders(NamedTuple):
    """What the commands at the start of a message ask for; counts are in tokens, waits in seconds."""

    error: int | None = None
    slow: float = 0.0
    long: int | None = None
    cut: int | None = None
    stall: int | None = None
    tool: bool = False


def read_orders(text: str) -> Orders:
    """Commands such as `/slow 2 /long 100`. Raises a 400 for an argument that makes no sense."""
    found: dict[str, Any] = {}
    words = iter(text.split())
    for word in words:
        match word:
            case "/tool":
                found["tool"] = True
            case "/error":
                found["error"] = int(_argument(word, next(words, ""), 400, 599))
            case "/slow":
                found["slow"] = _argument(word, next(words, ""), 0, MAX_WAIT_S, whole=False)
            case "/long":
                found["long"] = int(_argument(word, next(words, ""), 1, MAX_LONG))
            case "/cut" | "/stall":
                found[word[1:]] = int(_argument(word, next(words, ""), 0, MAX_LONG))
            case _:
                break
    return Orders(**found)


def _argument(command: str, word: str, least: float, most: float, *, whole: bool = True) -> float:
    pattern = r"\d{1,9}" if whole else r"\d{1,9}(?:\.\d{1,9})?"
    if re.fullmatch(pattern, word, re.ASCII) and least <= float(word) <= most:
        return float(word)
    number = "a whole number" if whole else "a number"
    raise invalid_request(f"The demo model's {command} takes {number} from {least:g} to {most:g}.")


def pieces(text: str) -> Iterator[str]:
    """The text's tokens; joined they are the text."""
    return (found[0] for found in _PIECE.finditer(text))


def count_tokens(value: object) -> int:
    """Tokens of a prompt: of each word a quarter of its UTF-8 bytes, rounded up. Numbers are tokens already."""
    if isinstance(value, str):
        return sum(-(-len(word.encode("utf-8", "replace")) // 4) for word in value.split())
    if isinstance(value, list):
        return sum(map(count_tokens, value))
    return 1


def answer(prompt: str, variant: int, orders: Orders) -> Iterator[str]:
    """The tokens of an answer. Neighbouring variants of one prompt differ."""
    digest = hashlib.sha256(prompt.encode("utf-8", "replace")).digest()
    start = (digest[0] + variant) % len(_SENTENCES)
    sentences = [_SENTENCES[(start + step) % len(_SENTENCES)] for step in range(len(_SENTENCES))]
    if orders.long is not None:
        endless = (piece for sentence in cycle(sentences) for piece in pieces(f"{sentence} "))
        return islice(endless, orders.long)
    words = prompt.split()
    excerpt = " ".join(words[:12])[:120] + ("..." if len(words) > 12 or len(prompt) > 120 else "")
    return pieces(f'This is the built-in demo model. You said: "{excerpt}". {sentences[0]} {sentences[1]}')


def until_stop(tokens: Iterator[str], stops: list[str]) -> Iterator[str]:
    """The tokens before the first of the stop sequences."""
    if not stops:
        return tokens
    text = "".join(tokens)
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    return pieces(text[: min(ends)] if ends else text)


def vector(item: object, dimensions: int) -> bytes:
    """An embedding as little-endian float32: of unit length, and the same for the same input."""
    seed = repr(item).encode("utf-8", "replace")
    raw = struct.unpack(f"<{dimensions}i", hashlib.shake_256(seed).digest(4 * dimensions))
    length = math.sqrt(math.fsum(number * number for number in raw)) or 1.0
    return struct.pack(f"<{dimensions}f", *(number / length for number in raw))


def as_floats(packed: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))


def as_base64(packed: bytes) -> str:
    return base64.b64encode(packed).decode("ascii")


class Example:
    """The smallest value a JSON schema allows, as far as a demo needs it."""

    def __init__(self, schema: object) -> None:
        self._root = schema
        self._nodes = 0

    def value(self) -> Any:
        """Raises a 400 for a schema that is too large or cannot be met."""
        return self._of(self._root, 0)

    def _of(self, schema: object, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > MAX_SCHEMA_NODES or depth > 32:
            raise invalid_request("The schema is too large for the demo model.")
        if not isinstance(schema, dict):
            return {}
        if "$ref" in schema:
            return self._of(self._referred(schema["$ref"]), depth + 1)
        if "const" in schema:
            return schema["const"]
        if _filled(schema.get("enum")):
            return schema["enum"][0]
        for name in ("anyOf", "oneOf", "allOf"):
            if _filled(schema.get(name)):
                return self._of(self._simplest(schema[name], depth), depth + 1)
        return self._typed(schema, depth)

    def _typed(self, schema: dict[str, Any], depth: int) -> Any:
        kind = schema.get("type")
        if _filled(kind):
            kind = kind[0]
        match kind:
            case "string":
                return _string(schema)
            case "integer" | "number":
                return _number(schema)
            case "boolean":
                return True
            case "null":
                return None
            case "array":
                least = _small(schema.get("minItems"))
                return [self._of(schema.get("items"), depth + 1) for _ in range(least)]
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return {}
        required = schema.get("required")
        names = properties if not isinstance(required, list) else [name for name in properties if name in required]
        return {name: self._of(properties[name], depth + 1) for name in names}

    def _simplest(self, options: list[Any], depth: int) -> Any:
        """The first option; far down a null where there is one, so that recursive schemas end."""
        nulls = [option for option in options if option == {"type": "null"}]
        return nulls[0] if nulls and depth > 6 else options[0]

    def _referred(self, reference: object) -> Any:
        place: Any = self._root
        for step in str(reference).removeprefix("#").strip("/").split("/"):
            if step and isinstance(place, dict):
                place = place.get(step.replace("~1", "/").replace("~0", "~"))
        return place


def _filled(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and bool(value)


def _small(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        return 0
    if value > MAX_SCHEMA_NODES:
        raise invalid_request("The schema is too large for the demo model.")
    return value


def _string(schema: dict[str, Any]) -> str:
    text = _FORMATS.get(str(schema.get("format")), "demo")
    most = schema.get("maxLength")
    if isinstance(most, int) and most >= 0:
        text = text[:most]
    return text.ljust(_small(schema.get("minLength")), "o")


def _number(schema: dict[str, Any]) -> float:
    """Zero, or the bound next to it."""
    lowest = _bound(schema, "minimum", "exclusiveMinimum", 1)
    highest = _bound(schema, "maximum", "exclusiveMaximum", -1)
    if lowest is not None and lowest > 0:
        return math.ceil(lowest) if schema.get("type") == "integer" else lowest
    if highest is not None and highest < 0:
        return math.floor(highest) if schema.get("type") == "integer" else highest
    return 0


def _bound(schema: dict[str, Any], inclusive: str, exclusive: str, step: int) -> float | None:
    value = schema.get(inclusive)
    if value is None and isinstance(schema.get(exclusive), (int, float)):
        value = schema[exclusive] + step
    return value if isinstance(value, (int, float)) else None

"""Embeddings as OpenAI's clients ask for them and want them, for providers whose upstreams speak something else."""

from __future__ import annotations

import base64
import re
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.core.body import DecodeError, decode, encode, raw_items, raw_members
from gateway.core.errors import invalid_request
from providers._chat import refuse
from providers._errors import unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.core.call import Call
    from gateway.core.deployment import Target
    from gateway.core.usage import Usage

_BEGINNING = 4096
_LIST = re.compile(rb'\[\s*\{[^[\]]*"embedding"\s*:\s*\[').match
"""The beginning of embeddings that are lists of numbers."""
_KNOWN = frozenset({"model", "input", "dimensions", "encoding_format", "user"})


class Wanted(NamedTuple):
    """An embeddings request, read. `others` are members that OpenAI does not know, for targets that do."""

    inputs: Sequence[str | Sequence[int]]
    dimensions: int | None
    others: Mapping[str, Any]

    def texts(self, target: Target) -> list[str]:
        """The inputs, for a target that takes nothing but text. Raises a 400 for tokens: they are of a tokenizer that
        the target does not have."""
        texts = [item for item in self.inputs if isinstance(item, str)]
        if len(texts) < len(self.inputs):
            said = f"The model '{target.model.model_id}' takes text, not tokens; send 'input' as text."
            raise refuse("input", target, said)
        return texts


def read_embeddings(call: Call) -> Wanted:
    """What the call wants embedded, in order: one text or list of tokens, or many. Raises 400."""
    _encoding(call)
    body = call.body
    value = body.value("input")
    inputs = [value] if isinstance(value, str) or _is_tokens(value) else value
    if not isinstance(inputs, list) or not inputs or not all(isinstance(i, str) or _is_tokens(i) for i in inputs):
        raise invalid_request(
            "'input' must be a text, an array of texts, an array of tokens or an array of such arrays, none empty.",
            param="input",
        )
    others = {name: body.value(name) for name in body.members if name not in _KNOWN and name in body}
    return Wanted(inputs, body.count("dimensions", least=1), others)


class WrittenEmbeddings:
    """An `Answer` in the words of OpenAI's embeddings."""

    content_type = b"application/json"

    def __init__(self, body: bytes, usage: Usage | None) -> None:
        self.body = body
        self.usage = usage

    def produced(self) -> int:
        """Nothing is generated."""
        return 0


def written_embeddings(vectors: object, call: Call, usage: Usage | None, target: Target) -> WrittenEmbeddings:
    """The answer that holds `vectors`, a list of lists of numbers as the upstream gave them, in the order of the call's
    inputs and in the encoding it asks for. Raises a 502 where they are not one vector for every input.

    A client that asked for base64 reads floats as if they were that, without an error, so it always gets base64. And it
    always gets usage, which OpenAI promises; what the upstream did not tell is what the ledger reckons.
    """
    if not isinstance(vectors, list) or len(vectors) != _count(call):
        raise unreadable(target)
    written = [_as_base64(v, target) for v in vectors] if _encoding(call) == "base64" else _checked(vectors, target)
    tokens = call.demand.likely_prompt if usage is None else usage.total
    document: dict[str, Any] = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": it} for index, it in enumerate(written)],
        "model": target.upstream_model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return WrittenEmbeddings(encode(document), usage)


def as_asked(body: bytes, members: Mapping[str, bytes], call: Call, target: Target) -> bytes:
    """An answer of OpenAI's own shape, its vectors in base64 where the client asked for that and the upstream took no
    notice. Raises `DecodeError` for one of another shape."""
    wanted = bytes(call.body.members.get("encoding_format", b""))
    if wanted != b'"base64"' or not _LIST(bytes(members.get("data", b""))[:_BEGINNING]):
        return body
    data = [dict(raw_members(item)) for item in raw_items(members["data"])]
    written: list[Any] = [{**item, "embedding": _as_base64(decode(item["embedding"]), target)} for item in data]
    return encode({**members, "data": written})


def _encoding(call: Call) -> str:
    encoding = call.body.text("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise invalid_request("'encoding_format' must be float or base64.", param="encoding_format")
    return encoding


def _count(call: Call) -> int:
    """How many inputs the call has, without decoding them."""
    try:
        items = raw_items(call.body.members["input"])
    except DecodeError:
        return 1
    many = not items or bytes(memoryview(items[0])[:1]) in (b'"', b"[")
    return len(items) if many else 1


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _checked(vectors: list[Any], target: Target) -> list[Any]:
    if not all(map(_is_vector, vectors)):
        raise unreadable(target)
    return vectors


def _is_vector(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(number) in (int, float) for number in value)


def _as_base64(vector: object, target: Target) -> str:
    """Little-endian float32."""
    if not isinstance(vector, list) or not _is_vector(vector):
        raise unreadable(target)
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
    except (OverflowError, struct.error) as error:
        raise unreadable(target) from error

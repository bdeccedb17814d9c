"""Embeddings as Google has them: `batchEmbedContents`, and on Vertex `predict` for models that are not of Gemini's
family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gateway.core.body import DecodeError, decode, encode
from gateway.core.usage import Usage
from providers._embeddings import WrittenEmbeddings, read_embeddings, written_embeddings
from providers._errors import unreadable
from providers._google_errors import error_of, is_error
from providers._usage import count

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target

_TASK = ("task_type", "taskType")


def method(target: Target, *, vertex: bool) -> str:
    """The operation that embeds."""
    return "predict" if vertex and not _is_gemini(target) else "batchEmbedContents"


def embeddings_body(call: Call, target: Target, model: str, *, vertex: bool) -> bytes:
    """The request's body. `model` is its full name. Raises 400."""
    wanted = read_embeddings(call)
    own: dict[str, Any] = {}
    task = next((wanted.others[name] for name in _TASK if name in wanted.others), None)
    if task is not None:
        own["taskType"] = task
    if "title" in wanted.others:
        own["title"] = wanted.others["title"]
    texts = wanted.texts(target)
    if method(target, vertex=vertex) == "predict":
        named = {"task_type" if name == "taskType" else name: value for name, value in own.items()}
        told: dict[str, Any] = {"instances": [{"content": text, **named} for text in texts]}
        if wanted.dimensions is not None:
            told["parameters"] = {"outputDimensionality": wanted.dimensions}
        return encode(told)
    if wanted.dimensions is not None:
        own["outputDimensionality"] = wanted.dimensions
    # Vertex keeps these settings below a member of their own, AI Studio beside the content.
    settings = ({"embedContentConfig": own} if own else {}) if vertex else {"model": model, **own}
    return encode({"requests": [{"content": {"parts": [{"text": text}]}, **settings} for text in texts]})


def read_vectors(call: Call, target: Target, body: bytes) -> WrittenEmbeddings:
    """The answer to any of these. Raises `GatewayError` where it is none."""
    try:
        document = decode(body)
    except DecodeError as error:
        raise unreadable(target) from error
    if is_error(document):
        raise error_of(document, target)
    if not isinstance(document, Mapping):
        raise unreadable(target)
    predictions = document.get("predictions")
    if isinstance(predictions, list):
        embeddings = [_member(prediction, "embeddings") for prediction in predictions]
        return written_embeddings(_values(embeddings), call, _counted(embeddings), target)
    return written_embeddings(
        _values(document.get("embeddings")), call, _reported(document.get("usageMetadata")), target
    )


def _is_gemini(target: Target) -> bool:
    return "gemini" in target.upstream_model.rpartition("/")[2]


def _values(embeddings: object) -> list[object] | None:
    return [_member(each, "values") for each in embeddings] if isinstance(embeddings, list) else None


def _reported(report: object) -> Usage | None:
    prompt = count(_member(report, "promptTokenCount"))
    return None if prompt is None else Usage(prompt, 0)


def _counted(embeddings: list[object]) -> Usage | None:
    """Vertex counts every input for itself."""
    counts = [count(_member(_member(each, "statistics"), "token_count")) for each in embeddings]
    known = [number for number in counts if number is not None]
    return Usage(sum(known), 0) if known and len(known) == len(counts) else None


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, Mapping) else None

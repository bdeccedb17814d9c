"""Reranking as Cohere's v2 has it, asked and answered in the words of its v1 and of Jina."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.core.body import encode
from providers._chat import refuse
from providers._errors import unreadable

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target

_TAKEN = ("query", "top_n", "max_tokens_per_doc", "priority")


def rerank_body(call: Call, target: Target) -> dict[str, Any]:
    """v2 takes texts alone, and gives none back."""
    body = {"model": target.upstream_model, "documents": _texts(call, target)}
    return {**body, **{name: call.body.value(name) for name in _TAKEN if name in call.body}}


def with_documents(body: bytes, document: Any, call: Call, target: Target) -> bytes:
    """The answer with the documents that it ranks, where the client asked for them."""
    if not call.body.flag("return_documents"):
        return body
    texts = _texts(call, target)
    match document:
        case {"results": [*results]} if all(_ranks(result, texts) for result in results):
            told = [{**result, "document": {"text": texts[result["index"]]}} for result in results]
            return encode({**document, "results": told})
    raise unreadable(target)


def _ranks(result: Any, texts: list[str]) -> bool:
    return isinstance(result, dict) and type(result.get("index")) is int and 0 <= result["index"] < len(texts)


def _texts(call: Call, target: Target) -> list[str]:
    """Texts, or objects with one. Raises 400 for anything else."""
    documents = call.body.value("documents")
    if not isinstance(documents, list):
        raise refuse("documents", target)
    told = [each.get("text") if isinstance(each, dict) else each for each in documents]
    texts = [text for text in told if isinstance(text, str)]
    if len(texts) < len(told):
        raise refuse("documents", target, "Every document must be a text, or an object with one in 'text'.")
    return texts

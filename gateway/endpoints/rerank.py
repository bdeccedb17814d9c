"""`POST /v1/rerank`: documents by their relevance to a query, as Cohere and Jina have it, metered by the search, or by
the token where the upstream tells tokens."""

from __future__ import annotations

from gateway.core.body import Body, encode
from gateway.core.dialect import OPENAI
from gateway.core.endpoint import Inference, Measure
from gateway.core.errors import invalid_request

_DOCUMENTS_PER_SEARCH = 100
_TOKENS_PER_DOCUMENT = 500
"""Longer ones count as several."""


def _examine(body: Body) -> None:
    if not body.is_filled_array("documents"):
        raise invalid_request("'documents' must be an array with at least one document.", param="documents")


def _measure(body: Body) -> Measure:
    """A token has at least a byte; and the query may be read once more with every document."""
    documents = body.value("documents") or []
    query = body.size("query")
    sizes = [len(item.encode("utf-8", "replace") if isinstance(item, str) else encode(item)) for item in documents]
    pieces = sum(1 + (query + size) // _TOKENS_PER_DOCUMENT for size in sizes)
    most, likely = -(-pieces // _DOCUMENTS_PER_SEARCH), -(-len(sizes) // _DOCUMENTS_PER_SEARCH)
    return Measure("search", max(1, most), max(1, likely), prompt=query * len(sizes))


ENDPOINT = Inference(
    name="rerank",
    path="/v1/rerank",
    operation="rerank",
    dialect=OPENAI,
    required=("query", "documents"),
    prompt=("query", "documents"),
    streams=False,
    examine=_examine,
    measure=_measure,
    media=True,
)

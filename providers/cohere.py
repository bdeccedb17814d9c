"""The Cohere dialect: v2 chat, told from and to chat completions, v2 embeddings and v2 reranking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.core.body import DecodeError, decode, encode
from gateway.core.headers import safe_value
from gateway.core.upstream import Origin, UpstreamRequest
from gateway.core.usage import Usage
from providers._address import check_request, json_headers, origin, path_below
from providers._chat_reader import read_chat
from providers._cohere_answer import CohereStream, written_answer
from providers._cohere_request import chat_body
from providers._cohere_rerank import rerank_body, with_documents
from providers._embeddings import read_embeddings, written_embeddings
from providers._errors import answered_error, reported_error, unreadable
from providers._media import read_media
from providers._usage import count

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target
    from gateway.core.errors import GatewayError
    from gateway.core.headers import Headers
    from gateway.core.ports import Answer, Stream

_PATHS = {"chat/completions": "v2/chat", "embeddings": "v2/embed", "rerank": "v2/rerank"}


class Cohere:
    """The `Provider`."""

    dialect = "cohere"

    def serves(self, operation: str, target: Target) -> bool:
        return operation in _PATHS

    def request(self, call: Call, target: Target) -> UpstreamRequest:
        place, headers = _head(target)
        accept = b"text/event-stream" if call.streamed else b"application/json"
        return UpstreamRequest(
            b"POST",
            place,
            path_below(target.upstream.base_url, _PATHS[call.endpoint.operation]),
            [*headers, (b"accept", accept), (b"x-request-id", safe_value(call.request_id))],
            encode(_body(call, target)),
            target.deadlines,
        )

    def stream(self, call: Call, target: Target) -> Stream:
        return CohereStream(call, target)

    def answer(self, call: Call, target: Target, body: bytes) -> Answer:
        try:
            document = decode(body)
        except DecodeError as error:
            raise unreadable(target) from error
        match call.endpoint.operation:
            case "embeddings":
                return _embeddings(document, call, target)
            case "rerank":
                if not isinstance(document, dict) or "results" not in document:
                    raise reported_error(document, target)
                return read_media(call, target, with_documents(body, document, call, target))
        return written_answer(document, call, target)

    def error(self, status: int, headers: Headers, body: bytes, target: Target) -> GatewayError:
        return answered_error(status, headers, body, target)

    def check(self, target: Target, path: str | None) -> UpstreamRequest:
        return check_request(target, path or "v1/models", _head(target)[1])


def _head(target: Target) -> tuple[Origin, Headers]:
    """Where requests go, and the headers that all of them carry."""
    head: tuple[Origin, Headers] | None = target.memo.get("cohere")
    if head is None:
        upstream = target.upstream
        key = upstream.api_key
        own: Headers = [(b"authorization", b"Bearer " + safe_value(key.reveal().strip()))] if key else []
        head = target.memo["cohere"] = (origin(upstream.base_url), json_headers(upstream, own))
    return head


def _body(call: Call, target: Target) -> dict[str, Any]:
    match call.endpoint.operation:
        case "chat/completions":
            return chat_body(read_chat(call), call, target)
        case "rerank":
            return rerank_body(call, target)
    wanted = read_embeddings(call)
    body = {
        "model": target.upstream_model,
        "texts": wanted.texts(target),
        "input_type": wanted.others.get("input_type") or "search_document",
        "embedding_types": ["float"],
        "output_dimension": wanted.dimensions,
        "truncate": wanted.others.get("truncate"),
    }
    return {name: value for name, value in body.items() if value is not None}


def _embeddings(document: Any, call: Call, target: Target) -> Answer:
    match document:
        case {"embeddings": {"float": vectors}, **rest}:
            return written_embeddings(vectors, call, _billed(rest.get("meta")), target)
    raise unreadable(target)


def _billed(meta: Any) -> Usage | None:
    match meta:
        case {"billed_units": {"input_tokens": tokens}}:
            prompt = count(tokens)
            return None if prompt is None else Usage(prompt, 0)
    return None


PROVIDER = Cohere()

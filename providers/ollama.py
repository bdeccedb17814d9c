"""Ollama's own dialect: chat by `/api/chat`, embeddings by `/api/embed`.

Ollama also has an OpenAI-like side, which is the row `ollama` of `vendors.yaml`; this one is the row `ollama-native`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gateway.core.body import DecodeError, decode, encode
from gateway.core.headers import safe_value
from gateway.core.upstream import Origin, UpstreamRequest
from gateway.core.usage import Usage
from providers._address import check_request, json_headers, origin, path_below
from providers._embeddings import WrittenEmbeddings, read_embeddings, written_embeddings
from providers._errors import answered_error, reported_error, unreadable
from providers._ollama_answer import OllamaStream, read_answer
from providers._ollama_request import chat_body
from providers._usage import count

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target
    from gateway.core.errors import GatewayError
    from gateway.core.headers import Headers
    from gateway.core.ports import Answer

EMBEDDINGS = "embeddings"
_PATHS = {"chat/completions": "api/chat", EMBEDDINGS: "api/embed"}

_OWN_MEMBERS = ("truncate", "keep_alive", "options")
"""Ollama's own members of an embeddings request that clients may send beside OpenAI's."""


class Ollama:
    """The `Provider`."""

    dialect = "ollama"

    def serves(self, operation: str, target: Target) -> bool:
        return operation in _PATHS

    def request(self, call: Call, target: Target) -> UpstreamRequest:
        operation = call.endpoint.operation
        body = _embeddings_body(call, target) if operation == EMBEDDINGS else chat_body(call, target)
        place, headers = _head(target)
        accept = b"application/x-ndjson" if call.streamed else b"application/json"
        return UpstreamRequest(
            b"POST",
            place,
            path_below(target.upstream.base_url, _PATHS[operation]),
            [*headers, (b"accept", accept), (b"x-request-id", safe_value(call.request_id))],
            body,
            target.deadlines,
        )

    def stream(self, call: Call, target: Target) -> OllamaStream:
        return OllamaStream(call, target)

    def answer(self, call: Call, target: Target, body: bytes) -> Answer:
        return (
            _vectors(call, target, body) if call.endpoint.operation == EMBEDDINGS else read_answer(call, target, body)
        )

    def error(self, status: int, headers: Headers, body: bytes, target: Target) -> GatewayError:
        return answered_error(status, headers, body, target)

    def check(self, target: Target, path: str | None) -> UpstreamRequest:
        return check_request(target, path or "api/version", _head(target)[1])


def _head(target: Target) -> tuple[Origin, Headers]:
    """Where requests go, and the headers that all of them carry. A key is for Ollama's cloud, or a proxy."""
    head: tuple[Origin, Headers] | None = target.memo.get("ollama")
    if head is None:
        upstream = target.upstream
        key = upstream.api_key
        own = [(b"authorization", b"Bearer " + key.reveal().encode("ascii"))] if key is not None else []
        head = target.memo["ollama"] = origin(upstream.base_url), json_headers(upstream, own)
    return head


def _embeddings_body(call: Call, target: Target) -> bytes:
    wanted = read_embeddings(call)
    told: dict[str, Any] = {"model": target.upstream_model, "input": wanted.texts(target)}
    if wanted.dimensions is not None:
        told["dimensions"] = wanted.dimensions
    told |= {name: wanted.others[name] for name in _OWN_MEMBERS if name in wanted.others}
    return encode(told)


def _vectors(call: Call, target: Target, body: bytes) -> WrittenEmbeddings:
    try:
        document = decode(body)
    except DecodeError as error:
        raise unreadable(target) from error
    if not isinstance(document, Mapping):
        raise unreadable(target)
    if document.get("error"):
        raise reported_error(document, target)
    prompt = count(document.get("prompt_eval_count"))
    return written_embeddings(document.get("embeddings"), call, None if prompt is None else Usage(prompt, 0), target)


PROVIDER = Ollama()

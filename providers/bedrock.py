"""The Bedrock dialect: Amazon's Converse, told from and to chat completions, and the embeddings of Titan and Cohere.

Requests are signed with AWS keys (`auth: {kind: aws, ...}`), or carry a Bedrock API key.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gateway.core.body import DecodeError, decode, encode
from gateway.core.credentials import AwsKeys
from gateway.core.headers import first, safe_value
from gateway.core.upstream import Origin, UpstreamRequest
from gateway.core.usage import Usage
from providers._address import json_headers, origin, path_below
from providers._aws_signature import sign
from providers._bedrock_answer import BedrockStream, written_answer
from providers._bedrock_request import converse_body
from providers._chat import refuse
from providers._chat_reader import read_chat
from providers._embeddings import Wanted, read_embeddings, written_embeddings
from providers._errors import answered_error, unreadable
from providers._usage import count

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target
    from gateway.core.errors import GatewayError
    from gateway.core.headers import Headers
    from gateway.core.ports import Answer, Stream
    from gateway.core.upstream import Transport

_SERVICE = "bedrock"
_STATUS = {
    b"ThrottlingException": 429,
    b"ModelNotReadyException": 429,
    b"ServiceQuotaExceededException": 429,
    b"ValidationException": 400,
    b"ResourceNotFoundException": 404,
    b"ModelTimeoutException": 504,
    b"AccessDeniedException": 403,
    b"UnrecognizedClientException": 403,
}
"""What an error's type amounts to, whatever status it came with."""


class Bedrock:
    """The `Provider`."""

    dialect = "bedrock"

    def serves(self, operation: str, target: Target) -> bool:
        return operation in ("chat/completions", "embeddings")

    def request(self, call: Call, target: Target) -> UpstreamRequest:
        place, headers = _head(target)
        if call.endpoint.operation == "embeddings":
            verb, body = "invoke", _embeddings_body(read_embeddings(call), target)
        else:
            verb = "converse-stream" if call.streamed else "converse"
            body = converse_body(read_chat(call), target)
        # The model's id is one segment of the path, whatever it holds.
        path = f"model/{quote(target.upstream_model, safe='')}/{verb}"
        return UpstreamRequest(
            b"POST",
            place,
            path_below(target.upstream.base_url, path),
            [*headers, (b"x-request-id", safe_value(call.request_id))],
            encode(body),
            target.deadlines,
        )

    async def authorize(self, request: UpstreamRequest, target: Target, transport: Transport) -> None:
        credential = target.upstream.credential
        if isinstance(credential, AwsKeys):
            sign(request, credential, _SERVICE, datetime.now(UTC))

    def stream(self, call: Call, target: Target) -> Stream:
        return BedrockStream(call, target)

    def answer(self, call: Call, target: Target, body: bytes) -> Answer:
        try:
            document = decode(body)
        except DecodeError as error:
            raise unreadable(target) from error
        if call.endpoint.operation == "embeddings":
            return _embeddings(document, call, target)
        return written_answer(document, call, target)

    def error(self, status: int, headers: Headers, body: bytes, target: Target) -> GatewayError:
        kind = (first(headers, b"x-amzn-errortype") or b"").partition(b":")[0]
        return answered_error(_STATUS.get(kind, status), headers, body, target)


def _head(target: Target) -> tuple[Origin, Headers]:
    """Where requests go, and the headers that all of them carry."""
    head: tuple[Origin, Headers] | None = target.memo.get("bedrock")
    if head is None:
        upstream = target.upstream
        key = upstream.api_key
        own: Headers = [(b"authorization", b"Bearer " + safe_value(key.reveal().strip()))] if key else []
        head = target.memo["bedrock"] = (origin(upstream.base_url), json_headers(upstream, own))
    return head


def _embeddings_body(wanted: Wanted, target: Target) -> dict[str, Any]:
    """Each maker's own body: embeddings are not part of Converse."""
    texts = wanted.texts(target)
    if "cohere.embed" in target.upstream_model:
        kind = wanted.others.get("input_type") or "search_document"
        return {"texts": texts, "input_type": kind, "embedding_types": ["float"]}
    if "titan-embed" not in target.upstream_model:
        raise refuse("model", target, f"The model '{target.model.model_id}' gives no embeddings that are known here.")
    if len(texts) > 1:
        raise refuse("input", target, f"The model '{target.model.model_id}' takes one text at a time.")
    return {"inputText": texts[0], **({"dimensions": wanted.dimensions} if wanted.dimensions else {})}


def _embeddings(document: Any, call: Call, target: Target) -> Answer:
    match document:
        case {"embedding": vector, **rest}:
            tokens = count(rest.get("inputTextTokenCount"))
            return written_embeddings([vector], call, None if tokens is None else Usage(tokens, 0), target)
        case {"embeddings": {"float": vectors}}:
            return written_embeddings(vectors, call, None, target)
    raise unreadable(target)


PROVIDER = Bedrock()

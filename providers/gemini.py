"""Google's Gemini on AI Studio (an API key) and on Vertex AI (a service account): chat and embeddings.

Vertex serves other makers' models too, in their own dialects; this file speaks of Google's only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit

from gateway.core.credentials import ServiceAccount
from gateway.core.headers import safe_value
from gateway.core.upstream import Origin, UpstreamRequest
from providers._address import json_headers, origin, path_below
from providers._gemini_answer import GeminiStream, read_answer
from providers._gemini_embeddings import embeddings_body, method, read_vectors
from providers._gemini_request import chat_body
from providers._gemini_signatures import Signatures
from providers._google_errors import google_error
from providers._google_token import google_tokens

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target
    from gateway.core.errors import GatewayError
    from gateway.core.headers import Headers
    from gateway.core.ports import Answer
    from gateway.core.upstream import Transport

CHAT = "chat/completions"
EMBEDDINGS = "embeddings"

_VERTEX_HOST = "aiplatform.googleapis.com"
_MULTI_REGIONS = frozenset({"us", "eu"})


class _Plan(NamedTuple):
    """What a target's requests to one operation have in common."""

    origin: Origin
    path: bytes
    headers: Headers


class Gemini:
    """The `Provider`. It also `Authorizes` on Vertex."""

    dialect = "gemini"

    def __init__(self) -> None:
        self._signatures = Signatures()
        self._tokens = google_tokens()

    def serves(self, operation: str, target: Target) -> bool:
        return operation in (CHAT, EMBEDDINGS)

    def request(self, call: Call, target: Target) -> UpstreamRequest:
        if call.endpoint.operation == EMBEDDINGS:
            vertex = _is_vertex(target)
            body = embeddings_body(call, target, _resource(target), vertex=vertex)
            plan = _plan_for(method(target, vertex=vertex), target)
        else:
            body = chat_body(call, target, self._signatures)
            plan = _plan_for("streamGenerateContent" if call.streamed else "generateContent", target)
        headers = [*plan.headers, (b"x-request-id", safe_value(call.request_id))]
        return UpstreamRequest(b"POST", plan.origin, plan.path, headers, body, target.deadlines)

    def stream(self, call: Call, target: Target) -> GeminiStream:
        return GeminiStream(call, target, self._signatures)

    def answer(self, call: Call, target: Target, body: bytes) -> Answer:
        if call.endpoint.operation == EMBEDDINGS:
            return read_vectors(call, target, body)
        return read_answer(call, target, body, self._signatures)

    def error(self, status: int, headers: Headers, body: bytes, target: Target) -> GatewayError:
        error = google_error(status, headers, body, target)
        account = target.upstream.credential
        if status == 401 and isinstance(account, ServiceAccount):
            self._tokens.refused(account, error)
        return error

    def check(self, target: Target, path: str | None) -> UpstreamRequest:
        plan = _plan_for("generateContent", target)
        below = path_below(_base_url(target), path.lstrip("/") if path else quote(_resource(target), safe="/:@.-_~"))
        return UpstreamRequest(b"GET", plan.origin, below, list(plan.headers), b"", target.deadlines)

    async def authorize(self, request: UpstreamRequest, target: Target, transport: Transport) -> None:
        account = target.upstream.credential
        if isinstance(account, ServiceAccount):
            request.headers.append((b"authorization", await self._tokens.header(account, target, transport)))


def _is_vertex(target: Target) -> bool:
    """A key can go with Vertex, too: then the project is the key's own."""
    return isinstance(target.upstream.credential, ServiceAccount) or target.upstream.vendor == "vertex"


def _plan_for(operation: str, target: Target) -> _Plan:
    key = ("gemini", operation)
    plan: _Plan | None = target.memo.get(key)
    if plan is None:
        plan = target.memo[key] = _plan(operation, target)
    return plan


def _plan(operation: str, target: Target) -> _Plan:
    upstream = target.upstream
    streams = operation == "streamGenerateContent"
    own: Headers = [(b"accept", b"text/event-stream" if streams else b"application/json")]
    if upstream.api_key is not None:
        own.append((b"x-goog-api-key", upstream.api_key.reveal().encode("ascii")))
    base_url = _base_url(target)
    resource = quote(_resource(target), safe="/:@.-_~")
    path = path_below(base_url, f"{resource}:{operation}", {"alt": "sse"} if streams else None)
    return _Plan(origin(base_url), path, json_headers(upstream, own))


def _resource(target: Target) -> str:
    """The model's full name, below the base URL."""
    name = target.upstream_model
    if not _is_vertex(target):
        return name if name.startswith(("models/", "tunedModels/")) else f"models/{name}"
    if name.startswith("projects/"):
        return name
    if not name.startswith("publishers/"):
        name = f"publishers/google/models/{name.removeprefix('models/').removeprefix('google/')}"
    account = target.upstream.credential
    if isinstance(account, ServiceAccount):
        return f"projects/{account.project}/locations/{account.location}/{name}"
    return name


def _base_url(target: Target) -> str:
    """Vertex has a host for every place; the one without a place is for the place `global`."""
    base_url, account = target.upstream.base_url, target.upstream.credential
    if not isinstance(account, ServiceAccount) or urlsplit(base_url).hostname != _VERTEX_HOST:
        return base_url
    if account.location == "global":
        return base_url
    if account.location in _MULTI_REGIONS:
        return base_url.replace(_VERTEX_HOST, f"aiplatform.{account.location}.rep.googleapis.com", 1)
    return base_url.replace(_VERTEX_HOST, f"{account.location}-{_VERTEX_HOST}", 1)


PROVIDER = Gemini()

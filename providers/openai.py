"""The OpenAI dialect: chat completions, responses, completions and embeddings, passed through byte for byte.

A request is changed only where it must be: the model's name at the upstream, a request for usage, a lowered output
cap, and what the vendor is known to refuse. Vendors differ by `Upstream.quirks`, never by code of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from gateway.core.body import DecodeError, decode, encode, raw_items, raw_members
from gateway.core.credentials import EntraApp, ServiceAccount
from gateway.core.errors import GatewayError, invalid_request
from gateway.core.form import Form
from gateway.core.headers import safe_value
from gateway.core.upstream import Origin, UpstreamRequest
from providers._address import check_request, json_headers, origin, path_below
from providers._caps import CapNames, cap_names, write_cap
from providers._embeddings import as_asked
from providers._entra_token import entra_tokens
from providers._errors import answered_error, reported_error, unreadable
from providers._google_token import google_tokens
from providers._history import plainly_told, understood
from providers._media import passing, read_media
from providers._passing import is_error
from providers._reader import OpenAIStream
from providers._responses_answer import read_response
from providers._responses_reader import ResponsesStream
from providers._tokens import Tokens
from providers._usage import BYTES_PER_TOKEN, read_usage, text_bytes

if TYPE_CHECKING:
    from gateway.core.body import Body
    from gateway.core.call import Call
    from gateway.core.deployment import Target, Upstream
    from gateway.core.endpoint import Inference
    from gateway.core.headers import Headers
    from gateway.core.ports import Answer, Stream
    from gateway.core.upstream import Transport
    from gateway.core.usage import Usage

AZURE_API_VERSION = "2024-10-21"

FORWARDED = frozenset({b"traceparent", b"tracestate", b"openai-beta", b"x-client-request-id"})
"""The client's headers that an upstream gets. Not among them: credentials, cookies, addresses, organisation and
project, which are the gateway's own affair, and idempotency keys, which callers that share an account could share."""

RESPONSES = "responses"

_USUAL = frozenset({"chat/completions", "completions", "embeddings"})

_WITH_OPTIONS = frozenset({"chat/completions", "completions"})
"""What takes `stream_options`."""

_ANYTHING = (b"accept", b"*/*")
_JSON = (b"accept", b"application/json")
_EVENTS = (b"accept", b"text/event-stream")


class _Plan(NamedTuple):
    """What a target's requests to one operation have in common."""

    origin: Origin
    path: bytes
    headers: Headers
    own_names: frozenset[bytes]
    model: str
    model_json: bytes
    stream_options: bool
    caps: CapNames | None
    drop: tuple[str, ...]
    rename: tuple[tuple[str, str], ...]
    system_only: bool
    understands: frozenset[str]


class OpenAIAnswer:
    """An unstreamed answer, its bytes as they came."""

    __slots__ = ("_choices", "body", "usage")

    content_type = b"application/json"

    def __init__(self, body: bytes, usage: Usage | None, choices: bytes | None) -> None:
        self.body = body
        self.usage = usage
        self._choices = choices

    def produced(self) -> int:
        """A token per four bytes of text, rounded up; 0 for answers without choices, such as embeddings."""
        if self._choices is None:
            return 0
        try:
            size = text_bytes(decode(self._choices))
        except DecodeError:
            size = len(bytes(self._choices))
        return -(-size // BYTES_PER_TOKEN)


class OpenAI:
    """The `Provider`. It also `Authorizes`, by token: on Azure and on Vertex's side that speaks OpenAI."""

    dialect = "openai"

    def __init__(self) -> None:
        self._tokens: dict[type, Tokens[Any]] = {EntraApp: entra_tokens(), ServiceAccount: google_tokens()}

    def serves(self, operation: str, target: Target) -> bool:
        """What not every vendor has, its row or its provider must say; the upstream itself refuses the rest."""
        return operation in _USUAL or operation in (target.upstream.quirks.get("operations") or ())

    def request(self, call: Call, target: Target) -> UpstreamRequest:
        plan = _plan_for(call, target)
        headers = [
            *plan.headers,
            _ANYTHING if call.endpoint.media else _EVENTS if call.streamed else _JSON,
            (b"x-request-id", safe_value(call.request_id)),
        ]
        headers.extend(pair for pair in call.headers if pair[0] in FORWARDED and pair[0] not in plan.own_names)
        if isinstance(call.body, Form):
            return _upload(call.body, plan, headers, target)
        return UpstreamRequest(b"POST", plan.origin, plan.path, headers, _body(call, plan), target.deadlines)

    def passing(self, call: Call, target: Target, headers: Headers) -> Stream | None:
        return passing(call, target, headers)

    def stream(self, call: Call, target: Target) -> Stream:
        if call.endpoint.operation == RESPONSES:
            return ResponsesStream(target)
        return OpenAIStream(target, keep_usage=call.wants_usage, choices=call.demand.choices)

    def answer(self, call: Call, target: Target, body: bytes) -> Answer:
        if call.endpoint.media:
            return read_media(call, target, body)
        if call.endpoint.operation == RESPONSES:
            return read_response(body, target)
        try:
            members = raw_members(body)
            if is_error(members):
                raise reported_error(decode(body), target)
            report = decode(members["usage"]) if "usage" in members else None
            if call.endpoint.operation == "embeddings":
                body = as_asked(body, members, call, target)
        except DecodeError as error:
            raise unreadable(target) from error
        return OpenAIAnswer(body, read_usage(report, generates=bool(call.endpoint.caps)), members.get("choices"))

    def error(self, status: int, headers: Headers, body: bytes, target: Target) -> GatewayError:
        error = answered_error(status, headers, body, target)
        credential = target.upstream.credential
        tokens = self._tokens.get(type(credential))
        if status == 401 and tokens is not None:
            tokens.refused(credential, error)
        return error

    async def authorize(self, request: UpstreamRequest, target: Target, transport: Transport) -> None:
        credential = target.upstream.credential
        tokens = self._tokens.get(type(credential))
        if tokens is not None:
            request.headers.append((b"authorization", await tokens.header(credential, target, transport)))

    def check(self, target: Target, path: str | None) -> UpstreamRequest:
        azure = target.upstream.quirks.get("path") == "azure"
        usual = f"openai/models?api-version={_api_version(target.upstream)}" if azure else "models"
        return check_request(target, path or usual, _headers(target.upstream))


def _upload(form: Form, plan: _Plan, headers: Headers, target: Target) -> UpstreamRequest:
    """A form as the client sent it, but for the model's name."""
    kept = [header for header in headers if header[0] != b"content-type"]
    kept.append((b"content-type", form.content_type))
    source = form.written(plan.model)
    return UpstreamRequest(b"POST", plan.origin, plan.path, kept, b"", target.deadlines, source)


def request_body(call: Call, target: Target) -> bytes:
    """The body this dialect sends, for providers that take OpenAI's bytes some other way."""
    return _body(call, _plan_for(call, target))


def _plan_for(call: Call, target: Target) -> _Plan:
    key = ("openai", call.endpoint.operation)
    plan: _Plan | None = target.memo.get(key)
    if plan is None:
        plan = target.memo[key] = _plan(call.endpoint, target)
    return plan


def _plan(endpoint: Inference, target: Target) -> _Plan:
    upstream = target.upstream
    quirks = upstream.quirks
    headers = _headers(upstream)
    return _Plan(
        origin=origin(upstream.base_url),
        path=_path(endpoint.operation, target),
        headers=headers,
        own_names=frozenset(name for name, _ in headers),
        model=target.upstream_model,
        model_json=encode(target.upstream_model),
        stream_options=endpoint.operation in _WITH_OPTIONS and quirks.get("stream_options", True) is not False,
        caps=cap_names(endpoint.caps, quirks),
        drop=tuple(quirks.get("drop") or ()),
        rename=tuple((quirks.get("rename") or {}).items()),
        system_only=quirks.get("developer_role") == "system",
        understands=understood(
            frozenset(quirks.get("understands") or ()),
            target.upstream_model,
            by_openai=quirks.get("developer_role") == "keep",
        ),
    )


def _path(operation: str, target: Target) -> bytes:
    upstream = target.upstream
    if upstream.quirks.get("path") != "azure":
        return path_below(upstream.base_url, operation)
    if operation == RESPONSES:
        return path_below(upstream.base_url, "openai/v1/responses")  # the deployment goes by the model's name here
    version = _api_version(upstream)
    deployment = quote(target.upstream_model, safe="")
    return path_below(upstream.base_url, f"openai/deployments/{deployment}/{operation}", {"api-version": version})


def _api_version(upstream: Upstream) -> str:
    return str(upstream.quirks.get("api_version") or AZURE_API_VERSION)


def _headers(upstream: Upstream) -> Headers:
    """Everything that does not depend on the call."""
    own: Headers = []
    if upstream.api_key:
        key = safe_value(upstream.api_key.reveal().strip())
        if upstream.quirks.get("auth") == "api-key":
            own.append((b"api-key", key))
        else:
            own.append((b"authorization", b"Bearer " + key))
    return json_headers(upstream, own)


def _body(call: Call, plan: _Plan) -> bytes:
    """The client's own bytes, unless something has to change."""
    body = call.body
    members = body.members
    changes: dict[str, Any] = {}
    model = members.get("model")
    if model is None or bytes(model) != plan.model_json:
        changes["model"] = plan.model
    if call.streamed and plan.stream_options:
        options = _with_usage(members.get("stream_options"))
        if options is not None:
            changes["stream_options"] = options
    elif "stream_options" in members and call.endpoint.operation != RESPONSES:
        changes["stream_options"] = None
    if call.translated:
        changes |= plainly_told(body, plan.understands)
    cap = call.demand.cap_to_write
    if cap is not None and plan.caps is not None:
        write_cap(cap, plan.caps, call.endpoint.caps, body, changes)
    if plan.system_only and b'"developer"' in body.raw and "messages" in members:
        changes["messages"] = _without_developer(members["messages"])
    for name in plan.drop:
        if name in members or name in changes:
            changes[name] = None
    for old, new in plan.rename:
        _rename(old, new, body, changes)
    return body.with_members(changes) if changes else body.raw


def _with_usage(options: bytes | None) -> Mapping[str, Any] | None:
    """Stream options that ask for usage, None when the client's own already do. Other members stay as they are."""
    if options is None or bytes(options) == b"null":
        return {"include_usage": True}
    try:
        members = raw_members(options)
    except DecodeError as error:
        raise invalid_request("'stream_options' must be an object.", param="stream_options") from error
    if bytes(members.get("include_usage", b"")) == b"true":
        return None
    return {**members, "include_usage": True}


def _without_developer(messages: bytes) -> Any:
    """Messages with the role `developer` told as `system`; anything but a list is the upstream's to refuse."""
    try:
        return [_as_system(message) for message in raw_items(messages)]
    except DecodeError:
        return messages


def _as_system(message: bytes) -> Any:
    if b'"developer"' not in bytes(message):
        return message
    members: dict[str, Any] = dict(raw_members(message))
    if bytes(members.get("role", b"")) != b'"developer"':
        return message
    members["role"] = "system"
    return members


def _rename(old: str, new: str, body: Body, changes: dict[str, Any]) -> None:
    """Move a member, changed or not, to another name, unless something is said under that name already; null and
    absent are the same."""
    if old not in body.members and old not in changes:
        return
    value = changes[old] if old in changes else body.members[old] if old in body else None
    taken = changes[new] is not None if new in changes else new in body
    if value is not None and not taken:
        changes[new] = value
    changes[old] = None


PROVIDER = OpenAI()

"""Anthropic's Messages API, and what speaks it. Its own clients' calls pass byte for byte, chat is translated."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from gateway.core.headers import first, safe_value
from gateway.core.upstream import Origin, UpstreamRequest
from providers._address import check_request, json_headers, origin, path_below
from providers._anthropic_answer import MessagesStream, read_answer
from providers._anthropic_errors import anthropic_error
from providers._anthropic_model import abilities
from providers._anthropic_passing import PassedMessages, pass_answer, passed_body
from providers._anthropic_request import messages_body

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target
    from gateway.core.errors import GatewayError
    from gateway.core.headers import Headers
    from gateway.core.ports import Answer, Stream

CHAT = "chat/completions"
MESSAGES = "messages"
COUNT_TOKENS = "messages/count_tokens"

VERSION = b"anthropic-version"

FORWARDED = frozenset({b"anthropic-beta", b"traceparent", b"tracestate"})
"""The client's headers that an upstream gets, whatever dialect the client speaks."""

_BEARER_KEY = "sk-ant-oat"
"""What the tokens begin with that are not keys."""

_JSON = (b"accept", b"application/json")
_EVENTS = (b"accept", b"text/event-stream")


class _Plan(NamedTuple):
    """What a target's requests to one path have in common."""

    origin: Origin
    path: bytes
    headers: Headers
    own_names: frozenset[bytes]


class Anthropic:
    """The `Provider`."""

    dialect = "anthropic"

    def serves(self, operation: str, target: Target) -> bool:
        return operation in (CHAT, MESSAGES, COUNT_TOKENS)

    def request(self, call: Call, target: Target) -> UpstreamRequest:
        translated = call.endpoint.operation == CHAT
        plan = _plan_for(MESSAGES if translated else call.endpoint.operation, target)
        headers = [
            *plan.headers,
            _EVENTS if call.streamed else _JSON,
            (b"x-request-id", safe_value(call.request_id)),
        ]
        own = plan.own_names
        headers.extend(pair for pair in call.headers if pair[0] in FORWARDED and pair[0] not in own)
        if VERSION not in own:
            stated = None if translated else first(call.headers, VERSION)
            headers.append((VERSION, stated or abilities(target).version.encode("ascii")))
        body = messages_body(call, target) if translated else passed_body(call, target)
        return UpstreamRequest(b"POST", plan.origin, plan.path, headers, body, target.deadlines)

    def stream(self, call: Call, target: Target) -> Stream:
        return MessagesStream(call, target) if call.endpoint.operation == CHAT else PassedMessages(target)

    def answer(self, call: Call, target: Target, body: bytes) -> Answer:
        return read_answer(call, target, body) if call.endpoint.operation == CHAT else pass_answer(call, target, body)

    def error(self, status: int, headers: Headers, body: bytes, target: Target) -> GatewayError:
        return anthropic_error(status, headers, body, target)

    def check(self, target: Target, path: str | None) -> UpstreamRequest:
        plan = _plan_for("models", target)
        headers = list(plan.headers)
        if VERSION not in plan.own_names:
            headers.append((VERSION, abilities(target).version.encode("ascii")))
        if path is not None:
            return check_request(target, path, headers)
        return UpstreamRequest(b"GET", plan.origin, plan.path, headers, b"", target.deadlines)


def _plan_for(operation: str, target: Target) -> _Plan:
    key = ("anthropic", operation)
    plan: _Plan | None = target.memo.get(key)
    if plan is None:
        plan = target.memo[key] = _plan(operation, target)
    return plan


def _plan(operation: str, target: Target) -> _Plan:
    upstream = target.upstream
    own: Headers = []
    if upstream.api_key is not None:
        key = upstream.api_key.reveal()
        if upstream.quirks.get("auth") == "bearer" or key.startswith(_BEARER_KEY):
            own.append((b"authorization", b"Bearer " + safe_value(key)))
        else:
            own.append((b"x-api-key", safe_value(key)))
    headers = json_headers(upstream, own)
    base_url = upstream.base_url
    # Clients of this dialect are given an address without the version, many gateways' pages one with it.
    versioned = urlsplit(base_url).path.rstrip("/").endswith("/v1")
    path = path_below(base_url, operation if versioned else f"v1/{operation}")
    return _Plan(origin(base_url), path, headers, frozenset(name for name, _ in headers))


PROVIDER = Anthropic()

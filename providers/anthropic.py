"""Anthropic's Messages API, and what speaks it: chat completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from gateway.core.headers import safe_value
from gateway.core.upstream import Origin, UpstreamRequest
from providers._address import json_headers, origin, path_below
from providers._anthropic_answer import MessagesStream, read_answer
from providers._anthropic_errors import anthropic_error
from providers._anthropic_model import abilities
from providers._anthropic_request import messages_body

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target
    from gateway.core.errors import GatewayError
    from gateway.core.headers import Headers
    from gateway.core.ports import Answer, Stream

CHAT = "chat/completions"

VERSION = b"anthropic-version"
BETA = b"anthropic-beta"

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
        return operation == CHAT

    def request(self, call: Call, target: Target) -> UpstreamRequest:
        plan = _plan_for("messages", target)
        headers = [
            *plan.headers,
            _EVENTS if call.streamed else _JSON,
            (b"x-request-id", safe_value(call.request_id)),
        ]
        if VERSION not in plan.own_names:
            headers.append((VERSION, abilities(target).version.encode("ascii")))
        if BETA not in plan.own_names:
            headers.extend(pair for pair in call.headers if pair[0] == BETA)
        body = messages_body(call, target)
        return UpstreamRequest(b"POST", plan.origin, plan.path, headers, body, target.deadlines)

    def stream(self, call: Call, target: Target) -> Stream:
        return MessagesStream(call, target)

    def answer(self, call: Call, target: Target, body: bytes) -> Answer:
        return read_answer(call, target, body)

    def error(self, status: int, headers: Headers, body: bytes, target: Target) -> GatewayError:
        return anthropic_error(status, headers, body, target)


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

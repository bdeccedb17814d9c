"""Gemini's targets and events, as tests of its dialect need them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from gateway.core.credentials import ServiceAccount
from gateway.core.deployment import Target
from gateway.core.secret import Secret
from providers._gemini_request import chat_body
from providers._gemini_signatures import Signatures
from tests.providers.calls import a_call, a_target

BASE = "https://generativelanguage.googleapis.com/v1beta"
ACCOUNT = ServiceAccount("sa@proj.iam.gserviceaccount.com", Secret("PEM"), "proj", "europe-west4")


def studio(model: str = "gemini-3.6-flash") -> Target:
    return a_target(dialect="gemini", base_url=BASE, upstream_model=model, key="g-key-0123456789")


def vertex(
    model: str = "gemini-3.6-flash",
    *,
    account: ServiceAccount | None = ACCOUNT,
    base_url: str = "https://aiplatform.googleapis.com/v1",
) -> Target:
    target = a_target(dialect="gemini", base_url=base_url, upstream_model=model, key=None)
    return replace(target, upstream=replace(target.upstream, credential=account, vendor="vertex"), memo={})


def part(**members: Any) -> dict[str, Any]:
    return members


def said(*parts: dict[str, Any], finish: str | None = None, index: int | None = None, **members: Any) -> dict[str, Any]:
    """One candidate."""
    told: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, **members}
    if finish:
        told["finishReason"] = finish
    if index is not None:
        told["index"] = index
    return told


def reply(*candidates: dict[str, Any], usage: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
    """A `GenerateContentResponse`, which is a whole answer or an event of a stream."""
    told: dict[str, Any] = {"candidates": list(candidates), **members}
    if usage is not None:
        told["usageMetadata"] = usage
    return {**told, "modelVersion": "gemini-3.6-flash", "responseId": "r1"}


def events(*documents: Any) -> bytes:
    """As Google sends them: CRLF, and characters beyond ASCII as they are."""
    return b"".join(b"data: " + json.dumps(it, ensure_ascii=False).encode() + b"\r\n\r\n" for it in documents)


COUNTED = {"promptTokenCount": 11, "candidatesTokenCount": 4, "totalTokenCount": 15}
THOUGHT = {
    "promptTokenCount": 20,
    "cachedContentTokenCount": 8,
    "candidatesTokenCount": 5,
    "thoughtsTokenCount": 30,
    "totalTokenCount": 55,
}

USER = {"role": "user", "content": "Hi"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "strict": True,
        "parameters": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "city": {"type": ["string", "null"]},
                "unit": {"const": "celsius"},
                "const": {"type": "string"},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def asked(target: Target | None = None, signatures: Signatures | None = None, **members: Any) -> Any:
    call = a_call({"model": "m", "messages": [USER], **members})
    return json.loads(chat_body(call, target or studio(), signatures or Signatures()))


def called(identity: str, name: str = "weather", arguments: str = '{"city":"Oslo"}', **extra: Any) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}, **extra}


def contents(*messages: dict[str, Any], target: Target | None = None, signatures: Signatures | None = None) -> Any:
    return asked(target, signatures, messages=list(messages))["contents"]

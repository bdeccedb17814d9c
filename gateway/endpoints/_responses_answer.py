"""A whole chat answer told as a response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.core.body import DecodeError, decode, encode
from gateway.core.errors import GatewayError, upstream_error
from gateway.endpoints._responses_output import (
    Status,
    annotations_of,
    call_identity,
    call_item,
    logprobs_of,
    message_item,
    objects,
    reasoning_item,
    refusal_part,
    response_end,
    response_head,
    text_of,
    text_part,
    usage_of,
)
from gateway.endpoints._responses_seal import Sealed, seal
from gateway.endpoints._responses_tools import Tools, tools_of

if TYPE_CHECKING:
    from gateway.core.call import Call


def response(call: Call, body: bytes) -> bytes:
    """The first choice of a chat completion. Raises 502 where it cannot be read."""
    try:
        document = decode(body)
        choice = document["choices"][0]
        message, finish, model = choice["message"], choice.get("finish_reason"), document.get("model")
        if not isinstance(message, dict):
            raise _unreadable()
    except (KeyError, IndexError, TypeError, AttributeError, *DecodeError) as error:
        raise _unreadable() from error
    head = response_head(call, model if isinstance(model, str) else call.model_id)
    end = response_end(finish)
    output = _items(call, message, choice.get("logprobs"), end["status"])
    return encode({**head, **end, "output": output, **usage_of(document.get("usage"))})


def _items(call: Call, message: dict[str, Any], logprobs: object, status: Status) -> list[dict[str, Any]]:
    calls = objects(message.get("tool_calls"))
    thoughts = text_of(message, "reasoning_content") or text_of(message, "reasoning")
    extras = {text_of(one, "id"): extra for one in calls if isinstance(extra := one.get("extra_content"), dict)}
    sealed = seal(Sealed(objects(message.get("thinking_blocks")), extras))
    items = []
    if thoughts or sealed:
        items.append(reasoning_item(f"rs_{call.request_id}_0", thoughts, sealed))
    parts = _parts(message, logprobs)
    if parts or not calls:
        ended: Status = "completed" if calls else status
        items.append(message_item(f"msg_{call.request_id}_{len(items)}", parts or [text_part("")], ended))
    tools = tools_of(call.body) if calls else Tools()
    for index, one in enumerate(calls):
        function = one.get("function")
        told = function if isinstance(function, dict) else {}
        tool = tools.called(text_of(told, "name"))
        call_id = text_of(one, "id") or f"call_{call.request_id}_{index}"
        arguments = text_of(told, "arguments") or "{}"
        items.append(call_item(call_identity(call, tool, len(items)), tool, call_id, arguments, status))
    return items


def _parts(message: dict[str, Any], logprobs: object) -> list[dict[str, Any]]:
    parts = []
    if text := text_of(message, "content"):
        parts.append(text_part(text, annotations_of(message.get("annotations")), logprobs_of(logprobs)))
    if refusal := text_of(message, "refusal"):
        parts.append(refusal_part(refusal))
    return parts


def _unreadable() -> GatewayError:
    return upstream_error("The provider's answer cannot be told as a response.")

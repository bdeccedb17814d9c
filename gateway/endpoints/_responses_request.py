"""A Responses call told as a chat completion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.core.body import Body, encode
from gateway.core.errors import GatewayError, invalid_request
from gateway.endpoints._responses_items import Messages
from gateway.endpoints._responses_tools import Tools, tools_of

if TYPE_CHECKING:
    from gateway.core.call import Call

_TOLD = frozenset(
    {
        "model",
        "input",
        "instructions",
        "max_output_tokens",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "reasoning",
        "include",
        "stream",
        "top_logprobs",
        "user",
        "safety_identifier",
    }
)
_DROPPED = frozenset(
    {
        "background",
        "client_metadata",
        "context_management",
        "image",
        "max_tool_calls",
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "service_tier",
        "store",
        "stream_options",
        "truncation",
    }
)
"""Hints, and what concerns what is left out anyway."""
_REFUSED = frozenset({"access_programs", "background_options", "conversation", "moderation", "prompt"})


def chat_request(call: Call) -> bytes:
    """The body of the chat completion. The output cap is its provider's to write. Raises 400."""
    body = call.body
    for name in _REFUSED:
        if name in body:
            raise _unsupported(name)
    if "previous_response_id" in body:
        raise GatewayError(
            400,
            "previous_response_not_found",
            "The response that this call continues is not kept here, or no longer. Send the whole conversation as "
            "'input'; an administrator can have responses kept for a time with server.responses_store_seconds.",
            param="previous_response_id",
            headers={"x-should-retry": "false"},
        )
    tools = tools_of(body)
    told: dict[str, Any] = {"model": call.model_id, "messages": _messages(body, tools)}
    if call.streamed:
        told["stream"] = True
    told.update(_tooling(body, tools))
    told.update(_format(body))
    told.update(_reasoning(body))
    told.update(_logprobs(body))
    user = body.value("user") or body.value("safety_identifier")
    if user is not None:
        told["user"] = user
    others = {name: raw for name, raw in body.members.items() if name not in _TOLD | _DROPPED and name in body}
    return encode({**others, **told})


def _messages(body: Body, tools: Tools) -> list[dict[str, Any]]:
    messages = Messages(tools)
    instructions = body.value("instructions")
    if isinstance(instructions, str):
        if instructions:
            messages.instruct(instructions)
    elif instructions is not None:
        raise invalid_request("'instructions' must be a string.", param="instructions")
    said = body.value("input")
    if isinstance(said, str):
        said = [{"role": "user", "content": said}]
    if not isinstance(said, list) or not said:
        raise invalid_request("'input' must be a string or an array with at least one item.", param="input")
    for index, item in enumerate(said):
        messages.take(item, f"input[{index}]")
    made = messages.end()
    if not made:
        raise invalid_request("'input' holds nothing to answer.", param="input")
    return made


def _tooling(body: Body, tools: Tools) -> dict[str, Any]:
    """What chat refuses without tools is told only with them."""
    choice = tools.choice(body.value("tool_choice"))
    if not tools.functions:
        return {}
    told: dict[str, Any] = {"tools": tools.functions}
    if choice is not None:
        told["tool_choice"] = choice
    if "parallel_tool_calls" in body and not body.flag("parallel_tool_calls"):
        told["parallel_tool_calls"] = False
    return told


def _format(body: Body) -> dict[str, Any]:
    form = _object(body, "text").get("format")
    match form:
        case None | {"type": "text"}:
            return {}
        case {"type": "json_object"}:
            return {"response_format": {"type": "json_object"}}
        case {"type": "json_schema"}:
            schema = {name: form[name] for name in ("name", "description", "schema", "strict") if name in form}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
    raise invalid_request("'text.format.type' must be text, json_object or json_schema.", param="text.format")


def _reasoning(body: Body) -> dict[str, Any]:
    effort = _object(body, "reasoning").get("effort")
    return {} if effort is None else {"reasoning_effort": effort}


def _logprobs(body: Body) -> dict[str, Any]:
    """Log probabilities are asked for by what is included; how many alternatives, by a member of their own."""
    included = body.value("include")
    if not isinstance(included, list) or "message.output_text.logprobs" not in included:
        return {}
    most = body.count("top_logprobs", most=20)
    return {"logprobs": True, "top_logprobs": most} if most else {"logprobs": True}


def _object(body: Body, name: str) -> dict[str, Any]:
    value = body.value(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid_request(f"'{name}' must be an object.", param=name)
    return value


def _unsupported(name: str) -> GatewayError:
    return invalid_request(
        f"This model's provider has nothing like '{name}'; leave it out.", param=name, code="unsupported_parameter"
    )

"""A chat completion as Anthropic's Messages API is asked for it."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from gateway.core.body import encode
from gateway.core.errors import invalid_request
from providers._anthropic_model import Abilities, abilities, thinking, within
from providers._anthropic_schema import closed
from providers._anthropic_tools import must_call, refuse_forcing, told_tools
from providers._anthropic_turns import conversation, lacks_thoughts
from providers._chat import Chat, refuse
from providers._chat_reader import read_chat

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target

LONGEST_USER = 256

_OWN = ("cache_control", "container", "context_management", "inference_geo", "mcp_servers", "speed")
"""Anthropic's own members that clients may send beside OpenAI's. `thinking`, `output_config` and `top_k` are others."""

_JSON_WORDS = "Answer with one JSON object and nothing else: no words around it, no code fence."


def messages_body(call: Call, target: Target) -> bytes:
    """The request's body. Raises 400."""
    try:
        return encode(_told(read_chat(call), call, target))
    except RecursionError as error:
        raise invalid_request("The request is nested too deeply.") from error


def _told(chat: Chat, call: Call, target: Target) -> dict[str, Any]:
    able = abilities(target)
    _refuse(chat, target)
    system, messages = conversation(chat, target)
    tools = told_tools(chat, able)
    refuse_forcing(tools, target, able)
    most = _most(chat, target, able)
    told: dict[str, Any] = {"model": target.upstream_model, "max_tokens": most, "messages": messages}
    if chat.response_format is not None and chat.response_format.kind == "json_object":
        system = [*system, {"type": "text", "text": _JSON_WORDS}]
    if system:
        told["system"] = system
    told |= tools
    told |= _thinking(chat, able, most, allowed=not must_call(tools))
    told |= _format(chat, able, told.get("output_config"))
    told |= _sampling(chat, able, thinks=told.get("thinking", {}).get("type") in ("enabled", "adaptive"))
    stops = [stop for stop in chat.stop if stop.strip()]
    if stops:
        told["stop_sequences"] = stops
    if chat.user:
        told["metadata"] = {"user_id": _user(chat.user)}
    if chat.others.get("service_tier") in ("auto", "standard_only"):
        told["service_tier"] = chat.others["service_tier"]
    told |= {name: chat.others[name] for name in _OWN if name in chat.others}
    if call.streamed:
        told["stream"] = True
    return told


def _refuse(chat: Chat, target: Target) -> None:
    """What changes an answer's shape and has no like here."""
    if chat.n > 1:
        raise refuse("n", target, f"The model '{target.model.model_id}' gives one answer to a request.")
    if chat.logprobs or chat.top_logprobs:
        raise refuse("logprobs", target)
    if chat.others.get("modalities") not in (None, ["text"]) or "audio" in chat.others:
        raise refuse("modalities", target)


def _most(chat: Chat, target: Target, able: Abilities) -> int:
    if chat.max_tokens is not None:
        return chat.max_tokens
    return target.model.max_output_tokens or able.output


def _thinking(chat: Chat, able: Abilities, most: int, *, allowed: bool) -> dict[str, Any]:
    """The client's own words for it where it has any, else what its effort means."""
    own = {name: chat.others[name] for name in ("thinking", "output_config") if isinstance(chat.others.get(name), dict)}
    if "thinking" in own:
        return {name: value for name, value in (own | within(most, own["thinking"])).items() if value is not None}
    if able.thinks == "budget" and lacks_thoughts(chat):
        return own
    told = thinking(chat.reasoning_effort, able, most, allowed=allowed)
    if "output_config" in own:
        told["output_config"] = {**told.get("output_config", {}), **own["output_config"]}
    return told


def _format(chat: Chat, able: Abilities, config: dict[str, Any] | None) -> dict[str, Any]:
    wanted = chat.response_format
    if wanted is None or wanted.kind != "json_schema" or not able.schemas:
        return {}
    answer = {"type": "json_schema", "schema": closed(wanted.schema or {"type": "object"})}
    return {"output_config": {**(config or {}), "format": answer}}


def _sampling(chat: Chat, able: Abilities, *, thinks: bool) -> dict[str, Any]:
    """Claude's temperature ends at 1, and it takes one of temperature and top_p; while it thinks, neither."""
    if not able.samples or thinks:
        return {}
    told: dict[str, Any] = {}
    if chat.temperature is not None:
        told["temperature"] = min(max(chat.temperature, 0), 1)
    elif chat.top_p is not None:
        told["top_p"] = chat.top_p
    if isinstance(chat.others.get("top_k"), int):
        told["top_k"] = chat.others["top_k"]
    return told


def _user(name: str) -> str:
    return name if len(name) <= LONGEST_USER else sha256(name.encode("utf-8", "replace")).hexdigest()

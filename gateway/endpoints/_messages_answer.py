"""A chat answer as Anthropic's Messages API gives it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gateway.core.body import DecodeError, decode, encode
from gateway.core.errors import upstream_error

if TYPE_CHECKING:
    from gateway.core.call import Call

Json = dict[str, Any]

_CHARACTERS_PER_TOKEN = 4

_STOPS = {"length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use", "function_call": "tool_use"}


def told_answer(call: Call, body: bytes) -> bytes:
    """The whole answer. Raises 502 where it is none."""
    try:
        document = decode(body)
    except DecodeError:
        document = None
    choices = document.get("choices") if isinstance(document, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not isinstance(message := choice.get("message"), dict):
        raise upstream_error("The provider gave an answer that cannot be read.")
    content = list(_content(message))
    called = any(block["type"] == "tool_use" for block in content)
    told = {
        **opening(call, document.get("model")),
        "content": content,
        "stop_reason": stop_reason(choice.get("finish_reason"), called=called),
        "usage": told_usage(document.get("usage")) or estimated(call, len(encode(content))),
    }
    return encode(told)


def opening(call: Call, model: object) -> Json:
    """What every message has."""
    return {
        "id": f"msg_{call.request_id.replace('-', '')}",
        "type": "message",
        "role": "assistant",
        "model": model if isinstance(model, str) and model else call.model_id,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def stop_reason(finish: object, *, called: bool) -> str:
    """Some upstreams say `stop` although they call a tool."""
    told = _STOPS.get(finish, "end_turn") if isinstance(finish, str) else "end_turn"
    return "tool_use" if called and told == "end_turn" else told


def told_usage(report: object) -> Json | None:
    """Usage in Anthropic's counts, where what the cache gave is no part of the input. None where there is none."""
    usage: Mapping[str, Any] = report if isinstance(report, Mapping) else {}
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    cached = _count(_below(usage, "prompt_tokens_details").get("cached_tokens"))
    thought = _count(_below(usage, "completion_tokens_details").get("reasoning_tokens"))
    told: Json = {"input_tokens": max(0, prompt - (cached or 0)), "output_tokens": completion}
    if cached is not None:
        told["cache_read_input_tokens"] = cached
    if thought is not None:
        told["output_tokens_details"] = {"thinking_tokens": thought}
    return told


def estimated(call: Call, written: int) -> Json:
    """Usage where the upstream says nothing, for so many characters: clients of this dialect cannot do without."""
    return {"input_tokens": call.demand.likely_prompt, "output_tokens": -(-written // _CHARACTERS_PER_TOKEN)}


def _below(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    details = usage.get(name)
    return details if isinstance(details, Mapping) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _content(message: Mapping[str, Any]) -> Iterator[Json]:
    signed = message.get("thinking_blocks")
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(signed, list) and signed:
        yield from (block for block in signed if isinstance(block, dict) and "type" in block)
    elif isinstance(thoughts, str) and thoughts:
        yield {"type": "thinking", "thinking": thoughts, "signature": ""}
    for text in (text_of(message.get("content")), message.get("refusal")):
        if isinstance(text, str) and text:
            yield {"type": "text", "text": text}
    for position, call in enumerate(_calls(message)):
        function = call["function"]
        identity = call.get("id")
        yield {
            "type": "tool_use",
            "id": identity if isinstance(identity, str) and identity else f"toolu_{position}",
            "name": function["name"],
            "input": _input(function.get("arguments")),
        }


def text_of(content: object) -> str:
    """Content as text, which may be in parts."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(text for text in parts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _calls(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        match call:
            case {"function": {"name": str()}}:
                yield call


def _input(arguments: object) -> Any:
    """The arguments as an object; a call that was cut short has none that can be read."""
    try:
        value = decode(arguments.encode("utf-8", "replace")) if isinstance(arguments, str) and arguments else {}
    except DecodeError:
        value = {}
    return value if isinstance(value, dict) else {}

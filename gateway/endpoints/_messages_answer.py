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
        **stopped(stop_reason(choice.get("finish_reason"), called=called)),
        "usage": whole_usage(told_usage(document.get("usage")) or estimated(call, len(encode(content)))),
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
        **stopped(None),
    }


def stopped(reason: str | None) -> Json:
    """Why a message has stopped, if it has; more than the reason is not known."""
    return {"stop_reason": reason, "stop_sequence": None, "stop_details": None, "container": None}


def whole_usage(usage: Json) -> Json:
    """A whole answer's usage has members that a stream's has not."""
    return {**usage, "cache_creation": None, "inference_geo": None, "service_tier": None}


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
    return _counts(max(0, prompt - (cached or 0)), completion, cached, thought)


def estimated(call: Call, written: int) -> Json:
    """Usage where the upstream says nothing, for so many characters: clients of this dialect cannot do without."""
    return _counts(call.demand.likely_prompt, -(-written // _CHARACTERS_PER_TOKEN))


def _counts(prompt: int, completion: int, cached: int | None = None, thought: int | None = None) -> Json:
    return {
        "input_tokens": prompt,
        "output_tokens": completion,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": None,
        "output_tokens_details": None if thought is None else {"thinking_tokens": thought},
        "server_tool_use": None,
    }


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
        yield thinking_block(thoughts)
    for text in (text_of(message.get("content")), message.get("refusal")):
        if isinstance(text, str) and text:
            yield text_block(text)
    for position, call in enumerate(_calls(message)):
        function = call["function"]
        identity = call.get("id")
        told = identity if isinstance(identity, str) and identity else f"toolu_{position}"
        yield tool_block(told, function["name"], _input(function.get("arguments")))


def text_block(text: str) -> Json:
    """What the model said."""
    return {"type": "text", "text": text, "citations": None}


def tool_block(identity: str, name: str, arguments: Json) -> Json:
    """A call of a tool."""
    return {"type": "tool_use", "id": identity, "name": name, "input": arguments, "caller": {"type": "direct"}}


def thinking_block(text: str) -> Json:
    """What the model thought, unsigned."""
    return {"type": "thinking", "thinking": text, "signature": ""}


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

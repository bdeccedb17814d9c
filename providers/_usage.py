"""Token counts as upstreams that speak OpenAI report them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.core.usage import Usage

BYTES_PER_TOKEN = 4

_DEEPEST = 16

_MOST_TOKENS = 2**31 - 1
"""No call has more; an upstream that reports more is not to be believed."""


_RESPONSES_NAMES = (
    ("prompt_tokens", "input_tokens"),
    ("completion_tokens", "output_tokens"),
    ("total_tokens", "total_tokens"),
    ("prompt_tokens_details", "input_tokens_details"),
    ("completion_tokens_details", "output_tokens_details"),
)


def read_usage(report: object, *, generates: bool = True) -> Usage | None:
    """A `usage` object as ours; None when it lacks the counts that a bill needs, or they cannot be true.

    `generates` is false for endpoints whose answers hold no generated tokens: there only the prompt is counted.
    """
    if not isinstance(report, Mapping):
        return None
    prompt = count(report.get("prompt_tokens"))
    completion = count(report.get("completion_tokens"))
    total = count(report.get("total_tokens"))
    if prompt is None:
        return None
    if completion is None:
        completion = _missing_completion(prompt, total, generates=generates)
        if completion is None:
            return None
    reasoning = _detail(report, "completion_tokens_details", "reasoning_tokens")
    if reasoning and total == prompt + completion + reasoning:
        completion += reasoning  # some vendors report reasoning beside the completion instead of inside it
    if reasoning is not None and reasoning > completion:
        reasoning = None
    cached = _cached(report)
    if cached is not None and cached > prompt:
        cached = None
    return Usage(prompt, completion, cached, reasoning)


def read_responses_usage(report: object) -> Usage | None:
    """The same of the Responses API, which names everything otherwise."""
    if not isinstance(report, Mapping):
        return None
    return read_usage({ours: report[theirs] for ours, theirs in _RESPONSES_NAMES if theirs in report})


def count(value: object) -> int | None:
    """A token count, None for anything that cannot be one. Zero is a count."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_TOKENS:
        return None
    return value


def _missing_completion(prompt: int, total: int | None, *, generates: bool) -> int | None:
    if not generates:
        return 0
    if total is None or total < prompt:
        return None
    return total - prompt


def _cached(report: Mapping[str, Any]) -> int | None:
    """Cached prompt tokens: OpenAI's place first, then where DeepSeek, Moonshot and Anthropic-like vendors put them."""
    cached = _detail(report, "prompt_tokens_details", "cached_tokens")
    if cached is not None:
        return cached
    for name in ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens"):
        cached = count(report.get(name))
        if cached is not None:
            return cached
    return None


def _detail(report: Mapping[str, Any], group: str, name: str) -> int | None:
    details = report.get(group)
    return count(details.get(name)) if isinstance(details, Mapping) else None


def output_bytes(output: object) -> int:
    """Bytes of generated text in the `output` of a response."""
    if not isinstance(output, list):
        return 0
    items = [item for item in output if isinstance(item, Mapping)]
    return sum(_bytes_of(item.get(name)) for item in items for name in ("content", "summary", "arguments", "input"))


def text_bytes(choices: object) -> int:
    """Bytes of generated text in the `choices` of an answer or a stream's event, thoughts and tool calls included."""
    if not isinstance(choices, list):
        return 0
    return sum(map(_choice_bytes, choices))


def _choice_bytes(choice: object) -> int:
    if not isinstance(choice, Mapping):
        return 0
    message = choice.get("delta") or choice.get("message")
    pieces: list[object] = [choice.get("text")]
    if isinstance(message, Mapping):
        pieces += [message.get(name) for name in ("content", "reasoning_content", "reasoning", "refusal")]
        pieces += _tool_texts(message)
    return _bytes_of(pieces)


def _tool_texts(message: Mapping[str, Any]) -> Iterable[object]:
    calls = message.get("tool_calls")
    functions = [call.get("function") for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []
    functions.append(message.get("function_call"))
    for function in functions:
        if isinstance(function, Mapping):
            yield function.get("name")
            yield function.get("arguments")


def _bytes_of(value: object, depth: int = 0) -> int:
    """UTF-8 bytes of all text in a value; content may be a list of parts, and parts may have parts."""
    if depth > _DEEPEST:
        return 0
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return sum(_bytes_of(part, depth + 1) for name, part in value.items() if name != "type")
    if isinstance(value, list):
        return sum(_bytes_of(part, depth + 1) for part in value)
    return 0

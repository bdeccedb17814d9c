"""What Gemini's answers are made of, whole and streamed alike: parts of candidates, finish reasons, usage, sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from gateway.core.body import encode
from gateway.core.usage import Usage
from providers._usage import count
from providers._writer import FinishReason

MOST_INDEX = 127
_LONGEST_ID = 200

_FILTERED = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "MODEL_ARMOR",
    }
)


class Said(NamedTuple):
    """Text, or a thought in words. A `signature` belongs to the message."""

    text: str
    thought: bool
    signature: str


class Called(NamedTuple):
    """A call to a tool, always whole. `id` is empty where the model gave none."""

    id: str
    name: str
    arguments: str
    signature: str


class Pictured(NamedTuple):
    """A picture that the model made, as an `image_url` part."""

    part: Mapping[str, Any]


def candidates(document: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """An answer's candidates with their numbers. Raises `ValueError` where they are not what they should be."""
    listed = document.get("candidates")
    if listed is None:
        return
    if not isinstance(listed, list):
        raise ValueError("candidates are no list")  # noqa: TRY004  what cannot be read is a ValueError to streams
    for position, candidate in enumerate(listed):
        if not isinstance(candidate, Mapping):
            raise ValueError("a candidate is no object")  # noqa: TRY004  as above
        index = candidate.get("index", position if len(listed) > 1 else 0)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index <= MOST_INDEX:
            raise ValueError("a candidate has no number")
        yield index, candidate


def pieces(candidate: Mapping[str, Any]) -> Iterator[Said | Called | Pictured]:
    """What a candidate says, in its order. Parts of kinds that nobody asked for, such as code that the model ran, are
    left out."""
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, Mapping) else None
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, Mapping):
            yield from _pieces(part)


def _pieces(part: Mapping[str, Any]) -> Iterator[Said | Called | Pictured]:
    signature = _text(part.get("thoughtSignature"))
    call, data, text = part.get("functionCall"), part.get("inlineData"), part.get("text")
    if isinstance(call, Mapping):
        name, arguments, identity = _text(call.get("name")), call.get("args"), _text(call.get("id"))
        if name:
            written = encode(arguments).decode() if isinstance(arguments, Mapping) else "{}"
            yield Called(identity if len(identity) <= _LONGEST_ID else "", name, written, signature)
    elif isinstance(data, Mapping):
        media_type, raw = _text(data.get("mimeType")), _text(data.get("data"))
        if media_type.startswith("image/") and raw:
            yield Pictured({"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{raw}"}})
    elif isinstance(text, str) and (text or signature):
        yield Said(text, part.get("thought") is True, signature)


def finish_reason(told: object) -> str | None:
    """Gemini's own reason, None while there is none."""
    return told if isinstance(told, str) and told and told != "FINISH_REASON_UNSPECIFIED" else None


def finished(reason: str, *, called: bool) -> FinishReason:
    """Gemini's reason as chat has it. A turn that calls tools ends with STOP as any other."""
    if reason in _FILTERED:
        return "content_filter"
    if reason == "MAX_TOKENS":
        return "length"
    return "tool_calls" if called else "stop"


def blocked(document: Mapping[str, Any]) -> str | None:
    """Why the prompt was blocked, None where it was not."""
    feedback = document.get("promptFeedback")
    reason = _text(feedback.get("blockReason")) if isinstance(feedback, Mapping) else ""
    return reason[:100] if reason and reason != "BLOCKED_REASON_UNSPECIFIED" else None


def refusal(reason: str) -> str:
    """What the client reads where its prompt was blocked."""
    return f"The provider blocked the prompt ({reason})."


def usage(report: object) -> Usage | None:
    """`usageMetadata` as ours, None where it lacks what a bill needs. What tools of the provider's own fed to the model
    is prompt; thoughts are completion."""
    if not isinstance(report, Mapping):
        return None
    prompt, fed = count(report.get("promptTokenCount")), count(report.get("toolUsePromptTokenCount"))
    answered, thought = count(report.get("candidatesTokenCount")), count(report.get("thoughtsTokenCount"))
    cached, total = count(report.get("cachedContentTokenCount")), count(report.get("totalTokenCount"))
    if prompt is None:
        return None
    prompt += fed or 0
    if answered is not None:
        completion = answered + (thought or 0)
    elif total is not None and total >= prompt + (thought or 0):
        completion = total - prompt
    else:
        return None
    return Usage(prompt, completion, None if cached is not None and cached > prompt else cached, thought)


def logprobs(result: object) -> dict[str, Any] | None:
    """`logprobsResult` in chat's shape, None where there is none."""
    if not isinstance(result, Mapping):
        return None
    chosen, top = result.get("chosenCandidates"), result.get("topCandidates")
    content = []
    for position, token in enumerate(chosen if isinstance(chosen, list) else ()):
        told = _probability(token)
        if told is None:
            continue
        others = top[position] if isinstance(top, list) and position < len(top) else None
        listed = others.get("candidates") if isinstance(others, Mapping) else None
        listed = listed if isinstance(listed, list) else []
        content.append({**told, "top_logprobs": [other for each in listed if (other := _probability(each))]})
    return {"content": content, "refusal": None} if content else None


def _probability(token: object) -> dict[str, Any] | None:
    if not isinstance(token, Mapping):
        return None
    text, logprob = token.get("token"), token.get("logProbability", 0.0)
    if not isinstance(text, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
        return None
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

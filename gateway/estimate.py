"""How much a call may use, before it is made.

The prompt's bound is its size in bytes: a token stands for at least one byte of the JSON that carries it, and the
JSON around a message outweighs what a chat template adds. Images, audio and files do not follow that rule; they are
counted apart, data URLs by a flat bound instead of their length.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.core.call import Call, Demand
from gateway.core.money import Price

_MOST_TOKENS_PER_PART = 50_000
"""No vision model in use charges more for one image, and no audio clip that fits a request does."""

_CHARACTERS_PER_TOKEN = 4

_PAYLOADS = ("url", "data", "file_data")
"""Where media parts keep what is not text."""


def demand(call: Call) -> Demand:
    """The most the call can use, by what its body says. Raises a 400 for members that make no sense."""
    endpoint, body = call.endpoint, call.body
    requested: int | None = None
    for name in endpoint.caps:
        requested = body.count(name)
        if requested is not None:
            break
    return Demand(
        prompt_tokens=_prompt_bound(call),
        choices=endpoint.choices(body) if endpoint.choices is not None else 1,
        requested_cap=requested,
        output_cap=requested,
        price=_dearest(call),
    )


def likely_prompt(call: Call) -> int:
    """The prompt's tokens as a guess rather than a bound, for a call that ended without usage."""
    return max(1, min(_prompt_bytes(call), call.demand.prompt_tokens) // _CHARACTERS_PER_TOKEN)


def _prompt_bytes(call: Call) -> int:
    size = call.body.size
    total = 0
    for name in call.endpoint.prompt:
        total += size(name)
    return total


def _prompt_bound(call: Call) -> int:
    bound = _prompt_bytes(call)
    if _carries_media(call.body.raw):
        bound += sum(_MOST_TOKENS_PER_PART - size for size in _media_sizes(call.body.value("messages")))
    window = 0
    for target in call.route.every_target:
        if target.model.context_window is None:
            return bound
        window = max(window, target.model.context_window)
    return min(bound, window)


def _carries_media(body: bytes) -> bool:
    """Whether there may be parts that are not text: their names are in it, or escapes that can hide letters."""
    named = b'_url"' in body or b'"input_' in body or b'"file"' in body
    return named or b"\\u005" in body or b"\\u006" in body or b"\\u007" in body


def _media_sizes(messages: object) -> Iterator[int]:
    """For every part that is not text, how much of the body its media take."""
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and _is_media(part):
                yield sum(_payload_sizes(part))


def _is_media(part: dict[str, object]) -> bool:
    return part.get("type") not in ("text", "refusal") and bool(part.keys() - {"type", "text"})


def _payload_sizes(part: dict[str, object]) -> Iterator[int]:
    for value in part.values():
        if isinstance(value, dict):
            yield from (len(inner) for name in _PAYLOADS if isinstance(inner := value.get(name), str))


def _dearest(call: Call) -> Price:
    """A price that no target exceeds."""
    targets = call.route.every_target
    prices = [target.model.prices.at(call.created_at) for target in targets]
    if len(prices) == 1:
        return prices[0]
    return Price(max(p.input for p in prices), max(p.output for p in prices), version="dearest")

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

_MEDIA = (b'"image_url"', b'"input_audio"', b'"input_image"', b'"file"')
_CHARACTERS_PER_TOKEN = 4


def demand(call: Call) -> Demand:
    """The most the call can use, by what its body says. Raises a 400 for members that make no sense."""
    endpoint, body = call.endpoint, call.body
    requested = next((cap for name in endpoint.caps if (cap := body.count(name)) is not None), None)
    return Demand(
        prompt_tokens=_prompt_bound(call),
        choices=endpoint.choices(body) if endpoint.choices is not None else 1,
        requested_cap=requested,
        output_cap=requested,
        price=_dearest(call),
    )


def likely_prompt(call: Call) -> int:
    """The prompt's tokens as a guess rather than a bound, for a call that ended without usage."""
    bound = sum(call.body.size(name) for name in call.endpoint.prompt)
    return max(1, min(bound, call.demand.prompt_tokens) // _CHARACTERS_PER_TOKEN)


def _prompt_bound(call: Call) -> int:
    body = call.body
    bound = sum(body.size(name) for name in call.endpoint.prompt)
    if any(mark in body.raw for mark in _MEDIA):
        bound += sum(_MOST_TOKENS_PER_PART - size for size in _media_sizes(body.value("messages")))
    windows = [target.model.context_window for target in call.route.every_target]
    known = [window for window in windows if window is not None]
    return min(bound, max(known)) if len(known) == len(windows) else bound


def _media_sizes(messages: object) -> Iterator[int]:
    """The sizes of the strings that carry media, wherever they stand."""
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") not in ("text", "refusal", None):
                yield sum(_string_sizes(part))


def _string_sizes(part: dict[str, object]) -> Iterator[int]:
    for value in part.values():
        if isinstance(value, dict):
            yield from (len(inner) for inner in value.values() if isinstance(inner, str))


def _dearest(call: Call) -> Price:
    """A price that no target exceeds."""
    targets = call.route.every_target
    prices = [target.model.prices.at(call.created_at) for target in targets]
    if len(prices) == 1:
        return prices[0]
    return Price(max(p.input for p in prices), max(p.output for p in prices), version="dearest")

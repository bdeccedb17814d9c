"""How much a call may use, before it is made.

The prompt's bound is its size in bytes: a token stands for at least one byte of the JSON that carries it, and the
JSON around a message outweighs what a chat template adds. Images, audio and files do not follow that rule; they are
counted apart, data URLs by a flat bound instead of their length. Beside the bound there is a guess, for whoever would
rather have what is likely.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.core.call import Call, Demand
from gateway.core.money import Price

_MOST_TOKENS_PER_PART = 50_000
"""No vision model in use charges more for one image, and no audio clip that fits a request does."""

_LIKELY_TOKENS_PER_PART = 1_000
"""About what an ordinary photograph or a few seconds of sound come to."""

_BYTES_PER_TOKEN = 4

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
    bound, likely = _prompt(call)
    return Demand(
        prompt_tokens=bound,
        likely_prompt=likely,
        choices=endpoint.choices(body) if endpoint.choices is not None else 1,
        requested_cap=requested,
        output_cap=requested,
        price=_dearest(call),
    )


def assumed(call: Call, prompt_tokens: int, output_cap: int | None) -> Demand:
    """The demand of a call that nobody has written yet."""
    prompt = min(prompt_tokens, _widest_window(call) or prompt_tokens)
    return Demand(
        prompt_tokens=prompt,
        likely_prompt=prompt,
        requested_cap=output_cap,
        output_cap=output_cap,
        price=_dearest(call),
    )


def likely_prompt(call: Call) -> int:
    """The prompt's tokens as a guess rather than a bound, for a call that ended without usage."""
    return call.demand.likely_prompt


def _prompt(call: Call) -> tuple[int, int]:
    """The prompt's tokens: the most there can be, and a guess that is at least 1."""
    size = call.body.size
    bound = 0
    for name in call.endpoint.prompt:
        bound += size(name)
    likely = bound // _BYTES_PER_TOKEN
    if _carries_media(call.body.raw):
        media = list(_media_sizes(call.body.value("messages")))
        text = max(0, bound - sum(media))
        bound = text + len(media) * _MOST_TOKENS_PER_PART
        likely = text // _BYTES_PER_TOKEN + len(media) * _LIKELY_TOKENS_PER_PART
    window = _widest_window(call)
    return (bound, max(1, likely)) if window is None else (min(bound, window), max(1, min(likely, window)))


def _widest_window(call: Call) -> int | None:
    """The largest context window of the possible targets, None where one of them has none."""
    widest = 0
    for target in call.route.every_target:
        window = target.model.context_window
        if window is None:
            return None
        widest = max(widest, window)
    return widest


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

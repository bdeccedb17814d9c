"""How much a call may use, before it is made.

The prompt's bound is the size of the whole body in bytes: a token stands for at least one byte of the JSON that carries
it, and upstreams read members that the gateway does not know. Images, audio and files do not follow that rule; they are
counted apart, images and audio by a flat bound instead of their length, files by the larger of the two. Where the body
only refers to a conversation that the upstream keeps, nothing but the model's context window bounds it. Beside the
bound there is a guess, for whoever would rather have what is likely: it knows the endpoint's own prompt members only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gateway.core.call import Call, Demand
from gateway.core.endpoint import Measure
from gateway.core.money import RATES, Price

_MOST_TOKENS_PER_PART = 50_000
"""No vision model in use charges more for one image, and no audio clip that fits a request does."""

_LIKELY_TOKENS_PER_PART = 1_000
"""About what an ordinary photograph or a few seconds of sound come to."""

_BYTES_PER_TOKEN = 4

_PAYLOADS = ("url", "data", "file_data", "image_url")
"""Where media parts keep what is not text."""

_NAMED_INPUT = re.compile(rb'"input_(?!text")').search

_MEDIA_TYPES = ("image/", "audio/", "video/")

_MEDIA_URLS = tuple(f"data:{kind}" for kind in _MEDIA_TYPES)
"""What a URL that holds an image, audio or video starts with; others may hold documents, which are text to a model."""

_TEXTS = frozenset(
    {
        "text",
        "refusal",
        "input_text",
        "output_text",
        "summary_text",
        "reasoning_text",
        "thinking",
        "redacted_thinking",
        "tool_reference",
    }
)
_TEXTS_END = ("_use", "_result")
"""Parts that are text throughout, by their types."""

_DEEPEST = 4


def demand(call: Call) -> Demand:
    """The most the call can use, by what its body says. Raises a 400 for members that make no sense."""
    endpoint, body = call.endpoint, call.body
    requested = endpoint.requested_cap(body)
    bound, likely = _prompt(call)
    refers = endpoint.refers is not None and endpoint.refers(body)
    window = _widest_window(call) if refers else None
    made = Demand(
        prompt_tokens=(window or bound) if endpoint.uses_tokens else 0,
        likely_prompt=likely if endpoint.uses_tokens else 0,
        bounded=not refers or window is not None,
        choices=endpoint.choices(body) if endpoint.choices is not None else 1,
        requested_cap=requested,
        output_cap=requested,
        price=_dearest(call),
        priced_at=call.created_at,
    )
    if endpoint.measure is not None:
        _add_units(made, endpoint.measure(body), call)
    return made


def _add_units(made: Demand, measure: Measure, call: Call) -> None:
    """Tokens are reckoned with unless the call is known to be sold by the unit alone, and nobody counts its tokens."""
    made.unit = measure.unit
    made.expect_units(measure.most, measure.likely)
    if _counts_tokens(call) or not all(price.sells_only(measure.unit) for price in _prices(call)):
        made.prompt_tokens += measure.prompt
        made.likely_prompt += measure.prompt * measure.likely // measure.most if measure.most else 0
        made.expected_output = min(measure.output, _most_written(measure, call))


def _counts_tokens(call: Call) -> bool:
    return any(limit.metric == "tokens" and limit.action == "deny" for limit in (*call.limits.rate, *call.limits.quota))


def _most_written(measure: Measure, call: Call) -> int:
    """What the models themselves may write, where that is known of all of them: in each image, else in all."""
    answers = measure.most if measure.unit == "image" else 1
    caps = [target.model.max_output_tokens for target in call.route.every_target]
    return max((measure.output if cap is None else cap * answers for cap in caps), default=measure.output)


def assumed(call: Call, prompt_tokens: int, output_cap: int | None) -> Demand:
    """The demand of a call that nobody has written yet."""
    prompt = min(prompt_tokens, _widest_window(call) or prompt_tokens)
    made = Demand(
        prompt_tokens=prompt,
        likely_prompt=prompt,
        requested_cap=output_cap,
        output_cap=output_cap,
        price=_dearest(call),
        priced_at=call.created_at,
    )
    if call.endpoint.measure is not None:
        _add_units(made, call.endpoint.measure(call.body), call)
    return made


def likely_prompt(call: Call) -> int:
    """The prompt's tokens as a guess rather than a bound."""
    return _prompt(call)[1]


def _prompt(call: Call) -> tuple[int, int]:
    """The prompt's tokens: the most there can be, and a guess that is at least 1."""
    body = call.body
    bound, text, parts = len(body.raw), sum(map(body.size, call.endpoint.prompt)), 0
    if _carries_media(body.raw):
        for part in _parts_of(call):
            length, most = _weight(part)
            bound += most - length
            text -= length
            parts += 1
    likely = max(0, text) // _BYTES_PER_TOKEN + parts * _LIKELY_TOKENS_PER_PART
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
    return widest or None


def _carries_media(body: bytes) -> bool:
    """Whether there may be parts that are not text: their names are in it, or escapes that can hide letters."""
    named = b'_url"' in body or _NAMED_INPUT(body) is not None or b'"file"' in body or b'"source"' in body
    return named or b"\\u005" in body or b"\\u006" in body or b"\\u007" in body


def _parts_of(call: Call) -> Iterator[dict[str, object]]:
    """Every part of the prompt that is not text, in whichever of the endpoint's members."""
    for name in call.endpoint.prompt:
        messages = call.body.value(name)
        for message in messages if isinstance(messages, list) else ():
            if isinstance(message, dict):
                yield from _media(message.get("content") or message.get("output"))


def _media(content: object, depth: int = 0) -> Iterator[dict[str, object]]:
    """The media among parts, and among the parts that hold parts, such as the results of tools."""
    for part in content if isinstance(content, list) else (content,):
        if not isinstance(part, dict):
            continue
        source = part.get("source")
        inner = source.get("content") if isinstance(source, dict) else part.get("content")
        if isinstance(inner, list) and depth < _DEEPEST:
            yield from _media(inner, depth + 1)
        elif _is_media(part):
            yield part


def _is_media(part: dict[str, object]) -> bool:
    kind = part.get("type")
    if isinstance(kind, str) and (kind in _TEXTS or kind.endswith(_TEXTS_END)):
        return False
    return bool(part.keys() - {"type", "text"})


def _weight(part: dict[str, object]) -> tuple[int, int]:
    """How much of the body a part's payloads take, and the most tokens it can be."""
    payloads = list(_payloads(part))
    documents = sum(length for length, is_document in payloads if is_document)
    return sum(length for length, _ in payloads), max(_MOST_TOKENS_PER_PART, documents)


def _payloads(part: dict[str, object]) -> Iterator[tuple[int, bool]]:
    """The length of each payload, and whether it may hold text for every byte of it."""
    for member, value in part.items():
        of_image = part.get("type") == "image" and isinstance(value, dict) and _is_image(value)
        payloads = list(map(value.get, _PAYLOADS)) if isinstance(value, dict) else []
        if member in _PAYLOADS:
            payloads.append(value)
        for payload in payloads:
            if isinstance(payload, str):
                is_media = of_image or member == "input_audio" or payload.startswith(_MEDIA_URLS)
                yield len(payload), not is_media


def _is_image(source: dict[str, object]) -> bool:
    return str(source.get("media_type")).startswith(_MEDIA_TYPES)


def _dearest(call: Call) -> Price:
    """A price that no target exceeds."""
    prices = _prices(call)
    if len(prices) == 1:
        return prices[0]
    units = {name: max(getattr(price, name) for price in prices) for name, _ in RATES.values()}
    return Price(max(p.input for p in prices), max(p.output for p in prices), version="dearest", **units)


def _prices(call: Call) -> list[Price]:
    """What the call's possible targets cost."""
    return [target.model.prices.at(call.created_at) for target in call.route.every_target]

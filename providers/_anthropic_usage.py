"""Token counts as Anthropic reports them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.usage import Usage
from providers._usage import count

_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


class Counted:
    """The usage of one answer. A stream reports it twice, at its beginning and, with more, at its end: every count only
    grows, so the largest is the last."""

    __slots__ = ("_counts", "_final")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._final = False

    def add(self, report: object, *, final: bool = True) -> None:
        """Take in a `usage` object; what is no count is passed over. Until the `final` one the output is not known."""
        if not isinstance(report, Mapping):
            return
        self._final = self._final or final
        for name in _COUNTS:
            self._take(name, report.get(name))
        details = report.get("output_tokens_details")
        if isinstance(details, Mapping):
            self._take("thinking_tokens", details.get("thinking_tokens"))

    @property
    def usage(self) -> Usage | None:
        """As ours: the prompt includes what was read from the cache and written to it. None while one of the two
        counts that a bill needs is missing."""
        counts = self._counts
        if "input_tokens" not in counts or "output_tokens" not in counts:
            return None
        cached, thought = counts.get("cache_read_input_tokens"), counts.get("thinking_tokens")
        prompt = counts["input_tokens"] + (cached or 0) + counts.get("cache_creation_input_tokens", 0)
        completion = counts["output_tokens"]
        return Usage(prompt, completion, cached, thought if thought is None or thought <= completion else None)

    def so_far(self, produced: int) -> Usage | None:
        """The usage of a stream that may have broken off, with an estimate of what was produced where the upstream had
        no time to say; None where nothing was."""
        usage = self.usage
        if usage is None or self._final:
            return usage
        return usage._replace(completion=produced, source="estimated") if produced else None

    def _take(self, name: str, value: Any) -> None:
        known = count(value)
        if known is not None:
            self._counts[name] = max(known, self._counts.get(name, 0))


def read_usage(report: object) -> Usage | None:
    """The usage of a whole answer."""
    counted = Counted()
    counted.add(report)
    return counted.usage

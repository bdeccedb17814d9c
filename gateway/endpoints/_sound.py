"""How long a sound is that a form brings."""

from __future__ import annotations

from gateway.core.body import Body
from gateway.core.endpoint import Measure

_LEAST_BYTES_PER_SECOND = 500
"""The poorest speech codecs take more."""
_LIKELY_BYTES_PER_SECOND = 16_000
"""MP3 at 128 kbit/s."""
_MOST_TOKENS_PER_SECOND = 20
"""Of sound, and of speech written down."""


def measure(body: Body) -> Measure:
    """By the file's own head where that tells, else by its size."""
    file = body.value("file")
    about = file if isinstance(file, dict) else {}
    size, seconds = about.get("bytes"), about.get("seconds")
    if isinstance(seconds, int):
        most = likely = seconds
    else:
        size = size if isinstance(size, int) else 0
        most, likely = max(1, -(-size // _LEAST_BYTES_PER_SECOND)), max(1, -(-size // _LIKELY_BYTES_PER_SECOND))
    tokens = most * _MOST_TOKENS_PER_SECOND
    return Measure("second", most, likely, prompt=tokens, output=tokens)

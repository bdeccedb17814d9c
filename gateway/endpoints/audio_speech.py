"""`POST /v1/audio/speech`: text to sound, passed on as it comes, metered by the characters of the text."""

from __future__ import annotations

from gateway.core.body import Body
from gateway.core.dialect import OPENAI
from gateway.core.endpoint import Inference, Measure

_MOST_TOKENS_PER_CHARACTER = 4
"""Of sound. People speak about 15 characters a second, and models take about 20 tokens for one."""
_MOST_TOKENS_OF_SILENCE = 200


def _measure(body: Body) -> Measure:
    characters = len(body.text("input") or "")
    output = characters * _MOST_TOKENS_PER_CHARACTER + _MOST_TOKENS_OF_SILENCE
    return Measure("character", characters, characters, output=output)


ENDPOINT = Inference(
    name="audio.speech",
    path="/v1/audio/speech",
    operation="audio/speech",
    dialect=OPENAI,
    required=("input",),
    prompt=("input", "instructions"),
    streams=False,
    measure=_measure,
    media=True,
)

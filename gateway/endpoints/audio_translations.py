"""`POST /v1/audio/translations`: sound to English text, metered like a transcription."""

from __future__ import annotations

from gateway.core.dialect import OPENAI
from gateway.core.endpoint import Inference
from gateway.endpoints._sound import measure

ENDPOINT = Inference(
    name="audio.translations",
    path="/v1/audio/translations",
    operation="audio/translations",
    dialect=OPENAI,
    required=("file",),
    prompt=("prompt",),
    streams=False,
    measure=measure,
    form=True,
    media=True,
)

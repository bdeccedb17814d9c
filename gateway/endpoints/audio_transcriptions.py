"""`POST /v1/audio/transcriptions`: sound to text in its own language, metered by the second, or by the token where the
upstream tells tokens."""

from __future__ import annotations

from gateway.core.dialect import OPENAI
from gateway.core.endpoint import Inference
from gateway.endpoints._sound import measure

ENDPOINT = Inference(
    name="audio.transcriptions",
    path="/v1/audio/transcriptions",
    operation="audio/transcriptions",
    dialect=OPENAI,
    required=("file",),
    prompt=("prompt",),
    measure=measure,
    form=True,
    media=True,
)

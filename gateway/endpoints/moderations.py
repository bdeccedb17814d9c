"""`POST /v1/moderations`. Nothing is generated; OpenAI's clients may leave the model out."""

from __future__ import annotations

from gateway.core.dialect import OPENAI
from gateway.core.endpoint import Inference

ENDPOINT = Inference(
    name="moderations",
    path="/v1/moderations",
    operation="moderations",
    dialect=OPENAI,
    required=("input",),
    prompt=("input",),
    streams=False,
    default_model="omni-moderation-latest",
)

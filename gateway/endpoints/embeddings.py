"""`POST /v1/embeddings`. Nothing is generated, so nothing but the input is reserved."""

from __future__ import annotations

from gateway.core.dialect import OPENAI
from gateway.core.endpoint import Inference

ENDPOINT = Inference(
    name="embeddings",
    path="/v1/embeddings",
    operation="embeddings",
    dialect=OPENAI,
    required=("input",),
    prompt=("input",),
    streams=False,
)

"""`POST /v1/images/generations`, metered by the image, or by the token where the upstream tells tokens."""

from __future__ import annotations

from gateway.core.body import Body
from gateway.core.dialect import OPENAI
from gateway.core.endpoint import Inference, Measure

_MOST_IMAGES = 128
_MOST_TOKENS_PER_IMAGE = 32_768
"""More than any model takes for its largest image at its best."""
_TOKENS_PER_PARTIAL_IMAGE = 100


def _measure(body: Body) -> Measure:
    images = body.count("n", least=1, most=_MOST_IMAGES) or 1
    partial = body.count("partial_images", most=_MOST_IMAGES) or 0
    tokens = images * (_MOST_TOKENS_PER_IMAGE + partial * _TOKENS_PER_PARTIAL_IMAGE)
    return Measure("image", images, images, output=tokens)


ENDPOINT = Inference(
    name="images.generations",
    path="/v1/images/generations",
    operation="images/generations",
    dialect=OPENAI,
    required=("prompt",),
    prompt=("prompt",),
    measure=_measure,
    media=True,
)

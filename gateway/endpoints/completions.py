"""`POST /v1/completions`: the older text completion."""

from __future__ import annotations

from gateway.core.body import Body
from gateway.core.dialect import OPENAI
from gateway.core.endpoint import Inference


def _choices(body: Body) -> int:
    """Answers to every prompt of a batch, or the candidates behind the best one."""
    prompt = body.value("prompt")
    batch = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    candidates = max(body.count("n", least=1, most=128) or 1, body.count("best_of", least=1, most=128) or 1)
    return batch * candidates


ENDPOINT = Inference(
    name="completions",
    path="/v1/completions",
    operation="completions",
    dialect=OPENAI,
    required=("prompt",),
    prompt=("prompt", "suffix"),
    caps=("max_tokens",),
    choices=_choices,
)

"""`POST /v1/chat/completions`."""

from __future__ import annotations

from gateway.core.body import Body
from gateway.core.dialect import OPENAI
from gateway.core.endpoint import Inference
from gateway.core.errors import invalid_request


def _examine(body: Body) -> None:
    if not body.is_filled_array("messages"):
        raise invalid_request("'messages' must be an array with at least one message.", param="messages")


def _choices(body: Body) -> int:
    """Answers, or the candidates behind them at the upstreams that know `best_of`."""
    return max(body.count("n", least=1, most=128) or 1, body.count("best_of", least=1, most=128) or 1)


def _refers(body: Body) -> bool:
    """Whether a part of the prompt is kept by the upstream: Gemini's cached contents."""
    return b"ached" in body.raw and any(name in body for name in ("cachedContent", "cached_content", "google"))


ENDPOINT = Inference(
    name="chat.completions",
    path="/v1/chat/completions",
    operation="chat/completions",
    dialect=OPENAI,
    required=("messages",),
    prompt=("messages", "tools", "functions", "response_format"),
    caps=("max_completion_tokens", "max_tokens"),
    choices=_choices,
    examine=_examine,
    refers=_refers,
)

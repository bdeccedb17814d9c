"""From the URL of the counters to the store of answers that goes with them."""

from __future__ import annotations

from gateway.idempotency.memory import MemoryAnswers
from gateway.idempotency.redis import RedisAnswers
from gateway.idempotency.seam import AnswerStore


def answer_store(counters_url: str) -> AnswerStore:
    """Where processes share counters they share answers too. Not started."""
    return MemoryAnswers() if counters_url.startswith("memory:") else RedisAnswers(counters_url)

"""From the URL of the counters to the stores of answers that go with them."""

from __future__ import annotations

from gateway.idempotency.memory import MemoryAnswers
from gateway.idempotency.redis import CACHE_PREFIX, RedisAnswers
from gateway.idempotency.seam import AnswerCache, AnswerStore


def answer_store(counters_url: str) -> AnswerStore:
    """Where processes share counters they share answers too. Not started."""
    return MemoryAnswers() if _in_memory(counters_url) else RedisAnswers(counters_url)


def answer_cache(counters_url: str) -> AnswerCache:
    """The same for answers that may be forgotten, with bounds of its own."""
    return MemoryAnswers() if _in_memory(counters_url) else RedisAnswers(counters_url, prefix=CACHE_PREFIX)


def _in_memory(counters_url: str) -> bool:
    return counters_url.startswith("memory:")

"""From the URL of the counters to the store of conversations that goes with them."""

from __future__ import annotations

from gateway.conversations.memory import MemoryConversations
from gateway.conversations.redis import RedisConversations
from gateway.conversations.seam import ConversationStore


def conversation_store(counters_url: str) -> ConversationStore:
    """Where processes share counters they share conversations too."""
    return MemoryConversations() if counters_url.startswith("memory:") else RedisConversations(counters_url)

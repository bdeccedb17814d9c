"""What every store of conversations must do, the same for all."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from gateway.conversations.memory import MemoryConversations
from gateway.conversations.redis import RedisConversations
from gateway.conversations.seam import OVERHEAD, ConversationStore
from tests.support.redis_server import redis_server

TALK = b'[{"role":"user","content":"\xc3\xa9\\n\x00\xff"}]'
ROOM = 10 * (100 + OVERHEAD)
Open = Callable[[], ConversationStore]


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with redis_server() as server:
        yield server.url


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[ConversationStore]:
    """With room for ten conversations of a hundred bytes."""
    opened: ConversationStore
    if request.param == "memory":
        opened = MemoryConversations(ROOM)
    else:
        url = request.getfixturevalue("redis_url")
        opened = RedisConversations(url, prefix=uuid.uuid4().hex, within_s=5.0, most_bytes=ROOM)
    yield opened
    await opened.close()


async def test_what_is_put_is_got_byte_for_byte(store: ConversationStore) -> None:
    assert await store.get("a") is None
    await store.put("a", TALK, 60)
    assert await store.get("a") == TALK
    assert await store.get("a") == TALK
    assert await store.get("b") is None


async def test_what_is_put_again_is_replaced(store: ConversationStore) -> None:
    await store.put("a", TALK, 60)
    await store.put("a", b"[]", 60)
    assert await store.get("a") == b"[]"


async def test_a_conversation_is_forgotten_in_its_time(store: ConversationStore) -> None:
    await store.put("a", TALK, 1)
    await asyncio.sleep(1.1)
    assert await store.get("a") is None
    await store.put("a", b"[]", 60)
    assert await store.get("a") == b"[]"


async def test_the_oldest_make_room(store: ConversationStore) -> None:
    for number in range(12):
        await store.put(f"c{number}", b"x" * 100, 60)
        await asyncio.sleep(0.002)  # Redis counts in milliseconds
    kept = [number for number in range(12) if await store.get(f"c{number}")]
    assert kept == list(range(2, 12))


async def test_what_is_larger_than_all_the_room_leaves_an_empty_store_that_goes_on(store: ConversationStore) -> None:
    await store.put("a", b"x" * 100, 60)
    await asyncio.sleep(0.002)
    await store.put("b", b"x" * 2 * ROOM, 60)
    assert (await store.get("a"), await store.get("b")) == (None, None)
    await store.put("c", TALK, 60)
    assert await store.get("c") == TALK


async def test_what_is_dropped_is_gone_and_can_come_back(store: ConversationStore) -> None:
    assert not await store.drop("a")
    await store.put("a", TALK, 60)
    assert await store.drop("a")
    assert await store.get("a") is None
    assert not await store.drop("a")
    await store.put("a", b"[]", 60)
    assert await store.get("a") == b"[]"


async def test_many_at_once_do_not_mix(store: ConversationStore) -> None:
    await asyncio.gather(*(store.put(f"c{number}", b"%d" % number, 60) for number in range(8)))
    assert await asyncio.gather(*(store.get(f"c{number}") for number in range(8))) == [b"%d" % n for n in range(8)]

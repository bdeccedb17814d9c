"""What every store of answers must do, the same for all."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.idempotency.memory import MemoryAnswers
from gateway.idempotency.redis import RedisAnswers
from gateway.idempotency.seam import Answer, AnswerCache, AnswerStore
from tests.support.redis_server import redis_server

DAY_S = 86_400
HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-request-id", b"r1"), (b"empty", b"")]
ANSWER = Answer(200, HEADERS, b'data: {"a": "\xc3\xa9\n\r\x00\xff"}\n\ndata: [DONE]\n\n')


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with redis_server() as server:
        yield server.url


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[AnswerStore]:
    opened: AnswerStore
    if request.param == "memory":
        opened = MemoryAnswers()
    else:
        url = request.getfixturevalue("redis_url")
        opened = RedisAnswers(url, prefix=uuid.uuid4().hex, decision_s=5.0)
    await opened.start()
    yield opened
    await opened.close()


async def test_the_first_claim_is_granted_and_the_others_wait_for_its_answer(store: AnswerStore) -> None:
    assert await store.claim("s", "body", "r1") == "granted"
    assert await store.claim("s", "body", "r2") == "running"
    await store.keep("s", "body", "r1", ANSWER, DAY_S)
    assert await store.claim("s", "body", "r3") == ANSWER
    assert await store.claim("s", "body", "r4") == ANSWER


async def test_of_a_hundred_claims_at_once_one_is_granted(store: AnswerStore) -> None:
    found = await asyncio.gather(*(store.claim("s", "body", f"r{number}") for number in range(100)))
    assert Counter(found) == {"granted": 1, "running": 99}


async def test_another_body_is_told_apart_while_the_call_runs_and_after(store: AnswerStore) -> None:
    await store.claim("s", "body", "r1")
    assert await store.claim("s", "other", "r2") == "other_body"
    await store.keep("s", "body", "r1", ANSWER, DAY_S)
    assert await store.claim("s", "other", "r3") == "other_body"


async def test_scopes_know_nothing_of_each_other(store: AnswerStore) -> None:
    await store.claim("s", "body", "r1")
    await store.keep("s", "body", "r1", ANSWER, DAY_S)
    assert await store.claim("t", "body", "r2") == "granted"


async def test_a_freed_scope_is_granted_again_whatever_its_body(store: AnswerStore) -> None:
    await store.claim("s", "body", "r1")
    await store.free("s", "r1")
    assert await store.claim("s", "other", "r2") == "granted"


async def test_only_its_owner_frees_a_claim_and_nobody_frees_an_answer(store: AnswerStore) -> None:
    await store.claim("s", "body", "r1")
    await store.free("s", "r2")
    assert await store.claim("s", "body", "r3") == "running"
    await store.keep("s", "body", "r1", ANSWER, DAY_S)
    await store.free("s", "r1")
    assert await store.claim("s", "body", "r4") == ANSWER


async def test_only_its_owner_keeps_an_answer(store: AnswerStore) -> None:
    await store.claim("s", "body", "r1")
    await store.keep("s", "body", "r0", ANSWER, DAY_S)
    assert await store.claim("s", "body", "r2") == "running"


async def test_an_answer_too_large_to_keep_is_remembered_as_such(store: AnswerStore) -> None:
    await store.claim("s", "body", "r1")
    await store.keep("s", "body", "r1", None, DAY_S)
    assert await store.claim("s", "body", "r2") == "not_kept"
    assert await store.claim("s", "other", "r3") == "other_body"


async def test_an_empty_answer_is_an_answer(store: AnswerStore) -> None:
    empty = Answer(200, [], b"")
    await store.claim("s", "body", "r1")
    await store.keep("s", "body", "r1", empty, DAY_S)
    assert await store.claim("s", "body", "r2") == empty


async def test_an_answer_lapses(store: AnswerStore) -> None:
    await store.claim("s", "body", "r1")
    await store.keep("s", "body", "r1", ANSWER, 1)
    assert await store.claim("s", "body", "r2") == ANSWER
    await asyncio.sleep(1.1)
    assert await store.claim("s", "other", "r3") == "granted"
    await store.keep("s", "other", "r3", ANSWER, DAY_S)
    assert await store.claim("s", "other", "r4") == ANSWER


@pytest.fixture
def cache(store: AnswerStore) -> AnswerCache:
    """The same store as whoever promises nothing uses it."""
    assert isinstance(store, MemoryAnswers | RedisAnswers)
    return store


async def test_what_is_put_is_found_and_nothing_else(cache: AnswerCache) -> None:
    assert await cache.find("s") is None
    await cache.put("s", ANSWER, DAY_S)
    assert await cache.find("s") == ANSWER
    assert await cache.find("t") is None


async def test_what_is_put_takes_the_place_of_what_was_there_and_none_leaves_nothing(cache: AnswerCache) -> None:
    for answer in (ANSWER, Answer(200, [], b"newer"), ANSWER):
        await cache.put("s", answer, DAY_S)
        assert await cache.find("s") == answer
    await cache.put("s", None, DAY_S)
    assert await cache.find("s") is None
    await cache.put("s", ANSWER, DAY_S)
    assert await cache.find("s") == ANSWER


async def test_what_was_put_lapses(cache: AnswerCache) -> None:
    await cache.put("s", ANSWER, DAY_S)
    await cache.put("s", ANSWER, 1)
    await asyncio.sleep(1.1)
    assert await cache.find("s") is None


async def test_an_empty_answer_that_was_put_is_found(cache: AnswerCache) -> None:
    empty = Answer(200, [], b"")
    await cache.put("s", empty, DAY_S)
    assert await cache.find("s") == empty

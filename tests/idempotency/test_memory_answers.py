"""What bounds the answers kept in a process."""

from gateway.idempotency.memory import MemoryAnswers
from gateway.idempotency.seam import OVERHEAD, Answer


async def keep(store: MemoryAnswers, scope: str, size: int = 100, for_s: int = 60) -> None:
    assert await store.claim(scope, "body", scope) == "granted"
    await store.keep(scope, "body", scope, Answer(200, [], b"x" * size), for_s)


async def known(store: MemoryAnswers, *scopes: str) -> list[bool]:
    """Which are answered. Asking with another body takes nothing in hand where one is known."""
    return [await store.claim(scope, "other", "asking") == "other_body" for scope in scopes]


async def test_the_oldest_answers_make_room_for_new_ones() -> None:
    store = MemoryAnswers(most_bytes=3 * (OVERHEAD + 100))
    for scope in "abcd":
        await keep(store, scope)
    assert await known(store, "a", "b", "c", "d") == [False, True, True, True]


async def test_there_are_never_more_keys_than_may_be_and_running_ones_stay() -> None:
    store = MemoryAnswers(most_keys=3)
    await store.claim("running", "body", "r")
    await store.claim("too", "body", "r")
    for scope in "abc":
        await keep(store, scope, 0)
    assert await known(store, "running", "too", "a", "b", "c") == [True, True, False, False, True]


async def test_running_calls_beyond_the_bound_still_end_well() -> None:
    store = MemoryAnswers(most_keys=1)
    await store.claim("running", "body", "r")
    await keep(store, "a")
    assert await known(store, "running", "a") == [True, False]


async def test_what_has_lapsed_takes_no_room() -> None:
    now = 0.0
    store = MemoryAnswers(most_bytes=2 * (OVERHEAD + 100), clock=lambda: now)
    await keep(store, "a", for_s=10)
    await keep(store, "b", for_s=1000)
    now = 11.0
    await keep(store, "a")
    assert await known(store, "a", "b") == [True, True]


async def test_an_answer_put_in_the_place_of_another_takes_its_room_too_and_is_new_again() -> None:
    store = MemoryAnswers(most_bytes=2 * (OVERHEAD + 100))
    for scope in ("a", "a", "b", "a", "c"):
        await store.put(scope, Answer(200, [], b"x" * 100), 60)
    assert [await store.find(scope) is not None for scope in "abc"] == [True, False, True]

"""What is held back comes out once, in order, and in time."""

from __future__ import annotations

import asyncio

import pytest

from gateway import prelude
from gateway.prelude import MOST_BYTES, Prelude
from tests.support.until import until


class Client:
    """Takes its time over every piece."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    async def take(self, data: bytes) -> None:
        await asyncio.sleep(0.01)
        self.sent.append(data)


async def test_what_was_held_comes_before_the_first_content_in_one_piece() -> None:
    client = Client()
    made = Prelude(client.take)
    assert made.hold(b"a")
    assert made.hold(b"b")
    await made.release(b"c")
    assert client.sent == [b"abc"]
    await made.close()


async def test_more_than_may_be_held_is_not() -> None:
    made = Prelude(Client().take)
    assert made.hold(b"x" * MOST_BYTES)
    assert not made.hold(b"x")
    assert made.take() == b"x" * MOST_BYTES
    await made.close()


async def test_what_is_held_too_long_goes_out_and_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prelude, "LONGEST_S", 0.01)
    client = Client()
    made = Prelude(client.take)
    made.hold(b"a")
    await until(lambda: made.sending is not None)
    await made.sent()
    assert client.sent == [b"a"]
    await made.close()


async def test_a_stream_that_began_in_time_hears_no_more_of_the_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prelude, "LONGEST_S", 0.02)
    client = Client()
    made = Prelude(client.take)
    made.hold(b"a")
    await made.release(b"b")
    await asyncio.sleep(0.05)
    await made.close()
    assert client.sent == [b"ab"]


async def test_content_that_comes_as_the_timer_ends_follows_what_the_timer_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prelude, "LONGEST_S", 0.0)
    client = Client()
    made = Prelude(client.take)
    made.hold(b"a")
    await until(lambda: made.sending is not None)
    await made.sent()
    await client.take(b"b")
    assert client.sent == [b"a", b"b"]
    await made.close()


async def test_a_stream_that_ends_in_time_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prelude, "LONGEST_S", 0.01)
    client = Client()
    made = Prelude(client.take)
    made.hold(b"a")
    await made.close()
    await asyncio.sleep(0.03)
    assert client.sent == []

"""Ordering, sharing, retrying and giving up, over a link that does as it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from itertools import chain

import pytest

from gateway.core.ports import DECISION_S, StoreUnavailable
from gateway.quotas import batcher as batching
from gateway.quotas.batcher import Batcher, Command, LinkBroken, Refused, Reply
from tests.support.until import until


class ScriptedLink:
    """Answers each exchange with the next entry of `plan`: an exception, or a pause in seconds; then normally."""

    def __init__(self) -> None:
        self.plan: list[Exception | float] = []
        self.refuse: set[str] = set()
        self.sent: list[list[str]] = []
        self.patience: list[float] = []
        self.closed = False

    async def exchange(self, commands: Sequence[Command], within_s: float) -> Sequence[Reply | Refused]:
        self.sent.append([command.tag for command in commands])
        self.patience.append(within_s)
        for command in commands:
            command.sent = True
        step = self.plan.pop(0) if self.plan else 0.0
        if isinstance(step, Exception):
            raise step
        await asyncio.sleep(step)
        return [Refused("OOM") if c.tag in self.refuse else [c.tag.encode(), b"ok"] for c in commands]

    async def refresh(self, within_s: float) -> None:
        self.sent.append(["what are you"])
        if self.plan and isinstance(self.plan[0], Exception):
            raise self.plan.pop(0)  # type: ignore[misc]

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def link() -> ScriptedLink:
    return ScriptedLink()


@pytest.fixture
async def batcher(link: ScriptedLink) -> AsyncIterator[Batcher]:
    batcher = Batcher(link)
    batcher.start()
    yield batcher
    await batcher.close(1)


def command(tag: str) -> Command:
    return Command("verb", tag, (), b"")


async def sent(link: ScriptedLink, tag: str) -> None:
    await until(lambda: any(tag in batch for batch in link.sent))


async def test_calls_of_one_turn_share_a_batch_in_order(link: ScriptedLink, batcher: Batcher) -> None:
    async def settle() -> None:
        batcher.post(command("b"))

    await asyncio.sleep(0)
    await asyncio.gather(batcher.call(command("a")), settle(), batcher.call(command("c")))
    assert link.sent == [["a", "b", "c"]]


async def test_what_comes_while_a_batch_is_on_its_way_makes_the_next_one(link: ScriptedLink, batcher: Batcher) -> None:
    link.plan = [0.05]
    first = asyncio.ensure_future(batcher.call(command("a")))
    await sent(link, "a")
    await asyncio.gather(*(batcher.call(command(tag)) for tag in "bcd"))
    await first
    assert link.sent == [["a"], ["b", "c", "d"]]


async def test_a_broken_connection_is_tried_again_with_the_same_commands(link: ScriptedLink, batcher: Batcher) -> None:
    link.plan = [LinkBroken("reset"), LinkBroken("reset")]
    assert await batcher.call(command("a")) == [b"a", b"ok"]
    assert link.sent == [["a"]] * 3
    assert not batcher.down


async def test_after_three_broken_tries_the_caller_is_told(link: ScriptedLink, batcher: Batcher) -> None:
    link.plan = [LinkBroken("reset")] * 3
    with pytest.raises(StoreUnavailable):
        await batcher.call(command("a"))
    assert batcher.down


async def test_silence_fails_everybody_who_waits_and_keeps_what_was_posted(
    link: ScriptedLink, batcher: Batcher
) -> None:
    link.plan = [TimeoutError()]
    calls = [asyncio.ensure_future(batcher.call(command("a")))]
    batcher.post(command("kept"))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable]
    with pytest.raises(StoreUnavailable):
        await batcher.call(unsent := command("b"))
    assert not unsent.sent
    await sent(link, "kept")
    await until(lambda: not batcher.down)
    assert await batcher.call(command("c")) == [b"c", b"ok"]
    assert ["kept"] in link.sent


async def test_a_store_that_is_down_is_probed_until_it_is_back(link: ScriptedLink, batcher: Batcher) -> None:
    link.plan = [TimeoutError(), TimeoutError(), TimeoutError()]
    with pytest.raises(StoreUnavailable):
        await batcher.call(command("a"))
    await until(lambda: not batcher.down)
    assert link.sent == [["a"], [], [], []]


async def test_a_caller_who_left_before_the_batch_is_not_sent(link: ScriptedLink, batcher: Batcher) -> None:
    link.plan = [0.05]
    first = asyncio.ensure_future(batcher.call(command("a")))
    await sent(link, "a")
    gone = asyncio.ensure_future(batcher.call(command("gone")))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(first, gone, return_exceptions=True)
    await batcher.call(command("b"))
    assert link.sent == [["a"], ["b"]]


async def test_those_who_queue_behind_have_only_what_is_left_of_their_time(
    link: ScriptedLink, batcher: Batcher
) -> None:
    link.plan = [0.1]
    first = asyncio.ensure_future(batcher.call(command("a")))
    await sent(link, "a")
    await batcher.call(command("b"))
    await first
    assert link.patience[1] < DECISION_S - 0.05


async def test_a_caller_with_less_time_is_told_in_time_and_costs_the_others_nothing(
    link: ScriptedLink, batcher: Batcher
) -> None:
    link.plan = [0.15]
    patient = asyncio.ensure_future(batcher.call(command("patient")))
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await batcher.call(hurried := command("hurried"), began + 0.05)
    assert 0.04 < time.monotonic() - began < 0.15
    assert hurried.sent, "whoever asked has to take back what may have been applied"
    assert await patient == [b"patient", b"ok"]
    assert not batcher.down
    assert [set(batch) for batch in link.sent] == [{"patient", "hurried"}]
    assert link.patience[0] > DECISION_S - 0.05


async def test_a_caller_with_less_time_leaves_the_queue_when_it_is_over(link: ScriptedLink, batcher: Batcher) -> None:
    link.plan = [0.1]
    first = asyncio.ensure_future(batcher.call(command("a")))
    await sent(link, "a")
    with pytest.raises(StoreUnavailable):
        await batcher.call(late := command("late"), time.monotonic() + 0.03)
    await first
    await batcher.call(command("b"), time.monotonic() + 0.1)
    assert link.sent == [["a"], ["b"]]
    assert not late.sent


async def test_a_caller_without_time_asks_nothing(link: ScriptedLink, batcher: Batcher) -> None:
    with pytest.raises(StoreUnavailable):
        await batcher.call(command("late"), time.monotonic())
    await batcher.call(command("a"))
    assert link.sent == [["a"]]


async def test_an_answer_that_came_while_the_process_was_busy_is_still_taken(
    link: ScriptedLink, batcher: Batcher
) -> None:
    link.plan = [0.02]
    call = asyncio.ensure_future(batcher.call(command("a"), time.monotonic() + 0.05))
    await sent(link, "a")
    time.sleep(0.15)  # noqa: ASYNC251 - the loop is to stand still
    assert await call == [b"a", b"ok"]


async def test_a_refused_settlement_is_tried_again_aside(
    link: ScriptedLink, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "PARKED_S", 0.02)
    link.refuse = {"a", "b"}
    batcher.post(command("a"))
    with pytest.raises(StoreUnavailable, match="OOM"):
        await batcher.call(command("b"))
    assert await batcher.call(command("c")) == [b"c", b"ok"]
    await asyncio.sleep(0.05)
    link.refuse = set()
    before = len(link.sent)
    await asyncio.sleep(0.1)
    assert sum("a" in batch for batch in link.sent[before:]) == 1
    assert all("b" not in batch for batch in link.sent[1:])


async def test_closing_delivers_what_was_posted(link: ScriptedLink) -> None:
    batcher = Batcher(link)
    batcher.start()
    link.plan = [LinkBroken("reset"), TimeoutError()]
    for tag in "abc":
        batcher.post(command(tag))
    assert await batcher.close(5)
    assert link.sent[-1] == ["a", "b", "c"]
    assert link.closed
    with pytest.raises(StoreUnavailable):
        await batcher.call(command("late"))


async def test_closing_does_not_wait_for_ever(link: ScriptedLink, caplog: pytest.LogCaptureFixture) -> None:
    batcher = Batcher(link)
    batcher.start()
    link.plan = [TimeoutError() for _ in range(1000)]
    batcher.post(command("a"))
    assert not await batcher.close(0.1)
    assert link.closed
    assert [record.count for record in caplog.records if hasattr(record, "count")] == [1]
    assert batcher.lossy


async def test_a_defect_in_the_link_costs_a_try_and_nothing_else(
    link: ScriptedLink, batcher: Batcher, caplog: pytest.LogCaptureFixture
) -> None:
    link.plan = [RuntimeError("a defect")]
    batcher.post(command("a"))
    assert await batcher.call(command("b"))
    assert link.sent == [["a", "b"], ["a", "b"]]
    assert "unknown way" in caplog.text


async def test_an_absent_store_takes_bounded_memory(
    link: ScriptedLink, batcher: Batcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batching, "BACKLOG", 10)
    link.plan = [0.05]
    for i in range(15):
        batcher.post(command(str(i)))
    with pytest.raises(StoreUnavailable, match="too many"):
        await batcher.call(command("one more"))
    assert batcher.lossy
    assert sum("away too long" in record.message for record in caplog.records) == 1
    await sent(link, "9")
    assert list(chain.from_iterable(link.sent)) == [str(i) for i in range(10)]


async def test_a_settlement_that_is_refused_for_good_is_remembered(
    link: ScriptedLink, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "PARKED_S", 0.001)
    monkeypatch.setattr(batching, "REFUSALS", 3)
    link.refuse = {"a"}
    batcher.post(command("a"))
    assert not batcher.lossy
    await until(lambda: batcher.lossy)
    assert link.sent == [["a"]] * 3


async def test_a_look_at_the_store_comes_before_what_is_asked_after_it(link: ScriptedLink, batcher: Batcher) -> None:
    batcher.look()
    await batcher.call(command("a"))
    await batcher.call(command("b"))
    assert link.sent == [["what are you"], ["a"], ["b"]]


async def test_a_look_that_fails_is_a_try_that_failed(link: ScriptedLink, batcher: Batcher) -> None:
    link.plan = [TimeoutError()]
    batcher.look()
    with pytest.raises(StoreUnavailable):
        await batcher.call(command("a"))
    await until(lambda: not batcher.down)
    assert link.sent == [["what are you"], []]

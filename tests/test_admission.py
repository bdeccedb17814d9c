"""Who gets a place, who waits for one, and who is told at once that there is none."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from gateway.admission import Admission, FairQueue, Waiter
from gateway.client import Client, ClientGone
from gateway.core.errors import GatewayError
from gateway.settings.schema import ServerSettings
from gateway.telemetry.metrics import Metrics
from tests.support.until import until


class Peer:
    """A server's side of a client, which can leave."""

    gone = False
    _callback: Callable[[], None] | None = None

    def on_gone(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def leave(self) -> None:
        assert self._callback is not None
        self._callback()


class Gate:
    """An admission, and callers that ask it for places."""

    def __init__(self, places: int = 1, queue: int = 100, timeout: float = 30.0) -> None:
        self.metrics = Metrics("test")
        self.admission = Admission(self.metrics, places)
        self.server = ServerSettings(max_inflight=places, max_queue=queue, queue_timeout=timeout)
        self.served: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, key: str, peer: Peer | None = None) -> asyncio.Task[None]:
        """A call that takes a place and keeps it; it is where it can get to without anything else happening."""
        task = asyncio.create_task(self._enter(key, peer or Peer()))
        self.tasks.append(task)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return task

    async def _enter(self, key: str, peer: Peer) -> None:
        if not self.admission.enter():
            await self.admission.wait(key, a_client(peer), self.server)
        self.served.append(key)

    async def depart(self, times: int = 1) -> None:
        for _ in range(times):
            self.admission.leave()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    @property
    def depth(self) -> float:
        return self.metrics.queue_depth.value

    def shed(self, reason: str) -> float:
        return self.metrics.shed.labels(reason).value

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def a_client(peer: Peer | None = None) -> Client:
    async def never() -> Any:
        await asyncio.Event().wait()

    async def nowhere(_message: Any) -> None:
        return

    extensions = {} if peer is None else {"aidock.client": peer}
    return Client({"type": "http", "headers": [], "extensions": extensions}, never, nowhere)


async def told(task: asyncio.Task[None]) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        await task
    assert (refused.value.status, refused.value.code) == (503, "overloaded")
    return refused.value


async def test_places_are_given_while_there_are_some_and_then_by_departures() -> None:
    gate = Gate(places=2)
    for key in "abcd":
        await gate.ask(key)
    assert gate.served == ["a", "b"]
    assert gate.depth == 2
    await gate.depart(2)
    assert gate.served == ["a", "b", "c", "d"]
    assert gate.depth == 0
    await gate.depart(2)
    gate.admission.resize(1)
    assert gate.admission.enter(), "every place came back"


async def test_keys_have_their_turns_however_many_callers_one_has() -> None:
    gate = Gate()
    await gate.ask("running")
    for key in ("greedy",) * 6 + ("b", "c", "b"):
        await gate.ask(key)
    await gate.depart(9)
    assert gate.served[1:] == ["greedy", "b", "c", "greedy", "b", "greedy", "greedy", "greedy", "greedy"]
    await gate.close()


async def test_a_newcomer_does_not_overtake_who_waits() -> None:
    gate = Gate()
    await gate.ask("a")
    await gate.ask("b")
    gate.admission.leave()
    assert not gate.admission.enter(), "the place is b's already"
    await asyncio.sleep(0)
    assert gate.served == ["a", "b"]


async def test_a_full_queue_turns_a_greedy_key_away_and_makes_room_for_a_modest_one() -> None:
    gate = Gate(queue=4)
    await gate.ask("running")
    greedy = [await gate.ask("greedy") for _ in range(4)]
    await told(await gate.ask("greedy"))
    assert gate.shed("queue_full") == 1
    modest = [await gate.ask("modest") for _ in range(3)]
    await told(greedy[3])
    await told(greedy[2])
    await told(modest[2])
    assert (gate.shed("displaced"), gate.shed("queue_full"), gate.depth) == (2, 2, 4)
    await gate.depart(4)
    assert gate.served[1:] == ["greedy", "modest", "greedy", "modest"]
    await gate.close()


async def test_more_keys_than_the_queue_has_room_for_displace_nobody() -> None:
    gate = Gate(queue=2)
    for key in ("running", "a", "b"):
        await gate.ask(key)
    await told(await gate.ask("c"))
    assert gate.shed("displaced") == 0
    await gate.close()


async def test_without_a_queue_nobody_waits() -> None:
    gate = Gate(queue=0)
    await gate.ask("a")
    refused = await told(await gate.ask("b"))
    assert refused.headers["retry-after"] == "1"
    await gate.depart()
    assert gate.admission.enter()


async def test_who_waits_too_long_is_told_so_and_the_others_wait_on() -> None:
    gate = Gate(timeout=0.05)
    await gate.ask("running")
    first = await gate.ask("a")
    await asyncio.sleep(0.03)
    second = await gate.ask("b")
    await told(first)
    assert gate.shed("timeout") == 1
    assert not second.done()
    await gate.depart()
    assert gate.served == ["running", "b"]
    await gate.close()


async def test_a_client_that_leaves_while_it_waits_frees_its_place_in_the_queue() -> None:
    gate = Gate(queue=1)
    await gate.ask("running")
    peer = Peer()
    waiting = await gate.ask("a", peer)
    peer.leave()
    with pytest.raises(ClientGone):
        await waiting
    assert gate.depth == 0
    await gate.ask("b")
    await gate.depart()
    assert gate.served == ["running", "b"]
    await gate.close()


async def test_a_call_that_is_cancelled_in_the_moment_it_gets_its_place_gives_it_back() -> None:
    gate = Gate()
    await gate.ask("running")
    waiting = await gate.ask("a")
    gate.admission.leave()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert gate.admission.enter()


async def test_a_client_that_leaves_in_the_moment_it_gets_its_place_keeps_it_until_its_call_ends() -> None:
    gate = Gate()
    await gate.ask("running")
    peer = Peer()
    waiting = await gate.ask("a", peer)
    gate.admission.leave()
    peer.leave()
    await waiting
    assert not gate.admission.enter()
    await gate.depart()
    assert gate.admission.enter()


async def test_a_reload_that_allows_more_lets_the_waiting_in_first() -> None:
    gate = Gate()
    for key in ("running", "a", "b", "c"):
        await gate.ask(key)
    gate.admission.resize(3)
    assert not gate.admission.enter(), "the new places are a's and b's already"
    await asyncio.sleep(0)
    assert gate.served == ["running", "a", "b"]
    assert gate.depth == 1
    await gate.depart()
    assert gate.served == ["running", "a", "b", "c"]
    await gate.close()


async def test_a_reload_that_allows_fewer_lets_nobody_in_until_enough_have_left() -> None:
    gate = Gate(places=4)
    for key in ("1", "2", "3", "4", "a", "b"):
        await gate.ask(key)
    gate.admission.resize(2)
    await gate.depart(2)
    assert gate.served == ["1", "2", "3", "4"]
    await gate.depart()
    assert gate.served == ["1", "2", "3", "4", "a"]
    await gate.depart()
    assert gate.served == ["1", "2", "3", "4", "a", "b"]
    assert not gate.admission.enter()
    await gate.close()


async def test_at_the_end_all_that_wait_are_told() -> None:
    gate = Gate()
    await gate.ask("running")
    waiting = [await gate.ask("a"), await gate.ask("b")]
    gate.admission.close()
    for task in waiting:
        await told(task)
    await told(await gate.ask("c"))


async def test_over_a_server_that_cannot_tell_of_departures_the_body_is_left_alone() -> None:
    gate = Gate()
    await gate.ask("running")
    client = a_client()
    task = asyncio.create_task(gate.admission.wait("a", client, gate.server))
    await until(lambda: gate.depth == 1)
    assert len(asyncio.all_tasks()) == 2, "nobody reads beside the call itself"
    await gate.depart()
    await task


@pytest.mark.parametrize(("gap", "told_s"), [(0.001, 1), (0.5, 3), (30.0, 30)])
async def test_retry_after_is_when_the_waiting_will_have_had_their_turn(
    gap: float, told_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(queue=4)
    clock = FakeClock()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: clock)
    await gate.ask("running")
    for key in "abcd":
        await gate.ask(key)
    for key in "efg":
        clock.now += 2 * gap + 1e-9
        await gate.depart(2 if clock.now >= 2 * gap else 1)
        await gate.ask(key)
        await gate.ask(key)
    refused = await told(await gate.ask("g"))
    assert int(refused.headers["retry-after"]) == told_s
    monkeypatch.undo()
    await gate.close()


class FakeClock:
    """A loop whose time stands still until it is moved."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Any, *arguments: Any) -> asyncio.TimerHandle:
        return self._loop.call_at(self._loop.time() + 3600, callback, *arguments)

    def create_future(self) -> asyncio.Future[None]:
        return self._loop.create_future()


class PlainQueue:
    """The fair queue as one would write it with lists alone."""

    def __init__(self) -> None:
        self.arrivals: list[Waiter] = []
        self.turns: list[str] = []

    def line(self, key: str) -> list[Waiter]:
        return [waiter for waiter in self.arrivals if waiter.key == key]

    def add(self, waiter: Waiter) -> None:
        self.arrivals.append(waiter)
        if waiter.key not in self.turns:
            self.turns.append(waiter.key)

    def remove(self, waiter: Waiter) -> None:
        self.arrivals.remove(waiter)
        if not self.line(waiter.key):
            self.turns.remove(waiter.key)

    def next(self) -> Waiter:
        key = self.turns.pop(0)
        self.turns.append(key)
        waiter = self.line(key)[0]
        self.remove(waiter)
        return waiter


@pytest.mark.parametrize("seed", range(5))
async def test_the_queue_does_what_plain_lists_would(seed: int) -> None:
    chance = random.Random(seed)
    loop = asyncio.get_running_loop()
    fair, plain = FairQueue(), PlainQueue()
    for _ in range(2000):
        act = chance.random()
        if act < 0.5 or not plain.arrivals:
            waiter = Waiter(chance.choice("abcdefg"), loop.create_future(), 0.0)
            fair.add(waiter)
            plain.add(waiter)
        elif act < 0.75:
            assert fair.next() is plain.next()
        else:
            waiter = chance.choice(plain.arrivals)
            assert fair.remove(waiter)
            assert not fair.remove(waiter)
            plain.remove(waiter)
        assert len(fair) == len(plain.arrivals)
        if plain.arrivals:
            assert fair.oldest() is plain.arrivals[0]
        longest = max((len(plain.line(key)) for key in plain.turns), default=0)
        for key in "abx":
            outranked = fair.outranked_by(key)
            if outranked is None:
                assert len(plain.line(key)) + 1 >= longest
            else:
                line = plain.line(outranked.key)
                assert len(line) == longest > len(plain.line(key)) + 1
                assert outranked is line[-1]

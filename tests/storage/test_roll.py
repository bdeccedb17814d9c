"""The roll of gateways: who is on it, who has told, and who is struck off."""

from __future__ import annotations

import asyncio

from gateway.roll import Roll
from gateway.storage.engine import Database

BEAT_S = 0.05
LAPSE_S = 0.3


def roll(database: Database, name: str) -> Roll:
    return Roll(database, name, beat_s=BEAT_S, lapse_s=LAPSE_S)


async def beating(*rolls: Roll, for_s: float) -> None:
    ending = asyncio.get_running_loop().time() + for_s
    while asyncio.get_running_loop().time() < ending:
        for each in rolls:
            await each.beat()
        await asyncio.sleep(BEAT_S)


async def test_who_is_on_the_roll_is_silent_until_it_has_told_of_just_this_rebuild(database: Database) -> None:
    one, two = roll(database, "one"), roll(database, "two")
    assert await one.silent("first") == []
    await one.sign()
    await two.sign()
    assert sorted(await one.silent("first")) == ["one", "two"]
    await two.tell("first")
    assert await one.silent("first") == ["one"]
    await two.beat()
    assert await one.silent("first") == ["one"], "a beat takes nothing back"
    assert sorted(await one.silent("second")) == ["one", "two"]
    await two.leave()
    assert await two.silent("second") == ["one"]


async def test_who_has_not_been_heard_of_for_long_is_struck_off(database: Database) -> None:
    one, two, dead = (roll(database, name) for name in ("one", "two", "dead"))
    await dead.sign()
    await beating(one, two, for_s=LAPSE_S / 2)
    assert "dead" in await one.silent("x")
    await beating(one, two, for_s=LAPSE_S)
    assert sorted(await one.silent("x")) == ["one", "two"]


async def test_nobody_is_struck_off_for_a_time_in_which_this_one_could_not_beat_either(database: Database) -> None:
    one, two = roll(database, "one"), roll(database, "two")
    await beating(one, two, for_s=2 * BEAT_S)
    await asyncio.sleep(2 * LAPSE_S)
    await one.beat()
    assert sorted(await one.silent("x")) == ["one", "two"]


async def test_who_was_struck_off_and_lives_is_back_with_the_next_beat(database: Database) -> None:
    one, two = roll(database, "one"), roll(database, "two")
    await two.tell("x")
    await one.strike("two")
    await two.beat()
    await one.sign()
    assert await one.silent("x") == ["one"]

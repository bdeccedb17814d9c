"""Reloading: a good change is taken up whole, a bad one leaves what is in force alone."""

import asyncio
import logging
from pathlib import Path

import pytest

from gateway.settings.compile import Snapshot
from gateway.settings.problems import ConfigError
from gateway.settings.watch import Reloader, Watcher
from tests.settings.configs import source, write

GOOD = "models: [{model_id: one, base_url: http://h/v1}]\n"
BETTER = "models: [{model_id: two, base_url: http://h/v1}]\n"
BAD = "models: [{model_id: two, base_url: http://h/v1}\n"


def test_a_start_without_a_good_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Reloader(source(write(tmp_path, BAD)))


def test_a_change_is_taken_up_and_subscribers_are_told(tmp_path: Path) -> None:
    reloader = Reloader(source(write(tmp_path, GOOD)))
    told: list[Snapshot] = []
    reloader.on_change(told.append)
    before = reloader.current
    write(tmp_path, BETTER)
    assert reloader.reload()
    assert set(reloader.current.models) == {"two"}
    assert reloader.current.version == 2
    assert told == [reloader.current]
    assert set(before.models) == {"one"}


def test_a_file_that_says_the_same_makes_no_version(tmp_path: Path) -> None:
    reloader = Reloader(source(write(tmp_path, GOOD)))
    told: list[Snapshot] = []
    reloader.on_change(told.append)
    write(tmp_path, "# a remark\n" + GOOD)
    assert reloader.reload()
    assert (reloader.current.version, told) == (1, [])


def test_a_bad_file_keeps_the_last_good_one_and_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, GOOD)
    reloader = Reloader(source(path))
    before = reloader.current
    write(tmp_path, BAD)
    assert not reloader.reload()
    assert reloader.current is before
    assert not reloader.last_reload_ok
    assert reloader.last_error is not None
    assert reloader.last_error.startswith(f"{path}:2:1: syntax")
    assert f"keeping version 1: {path}:2:1" in caplog.text
    write(tmp_path, BETTER)
    assert reloader.reload()
    assert reloader.last_reload_ok
    assert reloader.current.version == 2


def test_a_file_that_vanished_keeps_the_last_good_one(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    reloader = Reloader(source(path))
    path.unlink()
    assert not reloader.reload()
    assert set(reloader.current.models) == {"one"}


def test_a_subscriber_can_take_a_change_back(tmp_path: Path) -> None:
    reloader = Reloader(source(write(tmp_path, GOOD)))
    seen: list[int] = []

    def refuse(snapshot: Snapshot) -> None:
        raise ValueError("rate_limit has no setting x")

    reloader.on_change(lambda snapshot: seen.append(snapshot.version))
    reloader.on_change(refuse)
    write(tmp_path, BETTER)
    assert not reloader.reload()
    assert set(reloader.current.models) == {"one"}
    assert seen == [2, 1]
    assert reloader.last_error == "rate_limit has no setting x"


def test_what_needs_a_restart_stays_and_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reloader = Reloader(source(write(tmp_path, GOOD)))
    write(tmp_path, BETTER + "server: {port: 9, max_inflight: 7}\nstorage: {counters: 'redis://h/0'}\n")
    assert reloader.reload()
    assert set(reloader.current.models) == {"two"}
    assert (reloader.current.server.port, reloader.current.server.max_inflight) == (8080, 7)
    assert reloader.current.storage.counters == "memory://"
    assert "server.port has changed; restart to apply it" in caplog.text
    assert "storage.counters has changed; restart to apply it" in caplog.text
    caplog.clear()
    assert reloader.reload()
    assert caplog.text == ""


async def test_the_watcher_takes_up_a_replaced_file(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    reloader = Reloader(source(path))
    changed = asyncio.Event()
    reloader.on_change(lambda snapshot: changed.set())
    watching = asyncio.create_task(Watcher(reloader, interval=0.01).run())
    write(tmp_path, BETTER, "next.yaml").replace(path)
    async with asyncio.timeout(20):
        await changed.wait()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert set(reloader.current.models) == {"two"}


async def test_a_half_written_file_is_tried_again_before_it_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reloader = Reloader(source(write(tmp_path, GOOD)))
    watcher = Watcher(reloader)
    write(tmp_path, BAD)
    await watcher.look()
    assert reloader.last_reload_ok
    assert caplog.records == []
    write(tmp_path, BETTER + "# done\n")
    await watcher.look()
    assert set(reloader.current.models) == {"two"}
    assert reloader.last_reload_ok


async def test_a_file_that_stays_bad_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reloader = Reloader(source(write(tmp_path, GOOD)))
    watcher = Watcher(reloader)
    write(tmp_path, BAD)
    with caplog.at_level(logging.ERROR):
        for _ in range(4):
            await watcher.look()
    assert not reloader.last_reload_ok
    assert len(caplog.records) == 1
    assert set(reloader.current.models) == {"one"}


async def test_two_reloads_at_once_end_with_the_newest(tmp_path: Path) -> None:
    reloader = Reloader(source(write(tmp_path, GOOD)))
    slow = asyncio.create_task(reloader.refresh())
    await asyncio.sleep(0)
    write(tmp_path, BETTER)
    assert reloader.reload()
    await slow
    assert set(reloader.current.models) == {"two"}
    assert reloader.current.version == 2

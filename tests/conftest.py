"""Servers that several rooms test against, one of each for the whole session; and how tests run side by side."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.alone import room
from tests.support.postgres_server import PostgresServer, postgres_server

_LONG = ("faults", "clients", "docs", "e2e", "cli", "quotas", "storage")
"""Rooms with files that take long. They are begun first, so that no worker is left with one at the end."""
_MOST_WORKERS = 4


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Tests that stop it start it again."""
    with postgres_server() as server:
        yield server


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: tests wait half of their time, for servers that start and deadlines. Few in
    any case, as a container may have less of the processors than it sees."""
    return min(len(os.sched_getaffinity(0)) + 1, _MOST_WORKERS)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """The wait for the machine is no part of a test's time."""
    with room(alone=_alone(item)):
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long rooms first, and last what runs alone, when the others have next to nothing left to do."""
    items.sort(key=lambda item: (_alone(item), _rank(item)))


def _alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def _rank(item: pytest.Item) -> int:
    name = item.path.relative_to(Path(__file__).parent).parts[0]
    return _LONG.index(name) if name in _LONG else len(_LONG)

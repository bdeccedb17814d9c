"""Servers that several rooms test against, one of each for the whole session; and how tests run side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres_server import PostgresServer, postgres_server
from tests.support.processes import MOST_WORKERS

_LONG = ("faults", "docs", "e2e", "cli", "quotas", "storage")
"""Rooms with files that take longest. They are begun first, so that no worker is left with one at the end."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Tests that stop it start it again."""
    with postgres_server() as server:
        yield server


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: tests wait half of their time, for servers that start and deadlines."""
    return min((os.cpu_count() or 1) + 1, MOST_WORKERS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    rank = {room: number for number, room in enumerate(_LONG)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(here).parts[0], len(rank)))

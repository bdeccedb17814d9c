"""Redis servers for the stories of this room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.redis_server import RedisServer, redis_server


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    """For tests that leave the server as it was."""
    with redis_server() as server:
        yield server


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """For tests that stop or change the server; what it counted outlives a restart."""
    with redis_server(durable=True) as server:
        yield server

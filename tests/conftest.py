"""Servers that several rooms test against, one of each for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.postgres_server import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Tests that stop it start it again."""
    with postgres_server() as server:
        yield server

"""Every story of this room is told of both databases."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.storage.engine import Database
from gateway.storage.migrate import migrate
from tests.support.database import database_url
from tests.support.postgres_server import PostgresServer


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("migrated")
    migrate(database_url(directory))
    return directory / "aidock.db"


@pytest.fixture
def sqlite(migrated_file: Path, tmp_path: Path) -> str:
    """The URL of a file of this test's own, up to date."""
    shutil.copy(migrated_file, tmp_path)
    return database_url(tmp_path)


@pytest.fixture
def postgresql(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a database of this test's own, up to date."""
    url = postgres.database()
    yield url
    postgres.drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a database of this test's own, up to date."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
async def database(url: str, tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(url, tmp_path)
    yield database
    await database.close()

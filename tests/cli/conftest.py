"""A shell on fresh data, with a database that is up to date already."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.storage.migrate import migrate
from tests.cli.command import Shell


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template") / "data"
    directory.mkdir(mode=0o700)
    migrate(f"sqlite:///{directory / 'aidock.db'}")
    return directory


@pytest.fixture
def shell(tmp_path: Path, template: Path) -> Shell:
    """Nobody has been here, but the database is made."""
    made = Shell(tmp_path)
    shutil.copytree(template, made.data)
    return made


@pytest.fixture
def fresh(tmp_path: Path) -> Shell:
    """Nothing is here at all."""
    return Shell(tmp_path)

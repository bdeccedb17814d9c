from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path
from shutil import copytree

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import create_async_engine

from gateway.core.money import Price
from gateway.core.records import OutcomeRecord
from gateway.paths import migrations_dir
from gateway.storage.errors import DatabaseUnavailable, Invalid, MigrationRefused
from gateway.storage.migrate import current, migrate, pending
from gateway.storage.tables import LEDGER, PRICES_SEEN, USAGE_DAILY, Base, price_of


def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'deep' / 'aidock.db'}"


def file(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "aidock.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request, tmp_path):
    """A database that nobody has migrated yet."""
    if request.param == "sqlite":
        return url(tmp_path)
    return request.getfixturevalue("postgres").empty_database()


async def on(database_url, work):
    """Do work on a connection of its own, in a transaction."""
    sqlite = database_url.startswith("sqlite")
    engine = create_async_engine(database_url.replace("://", "+aiosqlite://" if sqlite else "+asyncpg://", 1))
    async with engine.begin() as connection:
        result = await connection.run_sync(work)
    await engine.dispose()
    return result


def test_the_migrated_schema_is_the_one_the_tables_declare(empty):
    def compare(connection):
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return compare_metadata(context, Base.metadata)

    migrate(empty)
    assert asyncio.run(on(empty, compare)) == []


OLD_ROW = {
    "created_at": 1_790_000_000.0,
    **dict.fromkeys(("user", "department", "key_id", "endpoint", "model_id", "provider", "upstream_model"), "x"),
    "streamed": True,
    "status": 200,
    "outcome": "ok",
    "prompt_tokens": 3,
    "cost_microusd": 7,
    "price_version": "v1",
    "latency_ms": 5,
    "attempts": 1,
}


def test_rows_of_the_first_release_are_kept_and_every_call_has_one_end(empty):
    kinds = [("a", "charge"), ("b", "orphan"), ("b", "charge"), ("c", "refund"), ("c", "orphan"), ("c", "adjust")]

    def fill(connection):
        for request_id, kind in kinds:
            values = {"request_id": request_id, "kind": kind, **OLD_ROW}
            names = ", ".join(f'"{name}"' for name in values)
            places = ", ".join(f":{name}" for name in values)
            connection.execute(text(f"INSERT INTO ledger ({names}) VALUES ({places})"), values)

    def look(connection):
        return connection.execute(select(LEDGER).order_by(*LEDGER.primary_key)).all()

    migrate(empty, "0001")
    assert current(empty) == "0001"
    asyncio.run(on(empty, fill))
    assert [step.partition(":")[0] for step in pending(empty)][:1] == ["0002"]
    migrate(empty)
    rows = asyncio.run(on(empty, look))
    assert [(row.request_id, row.kind, row.number) for row in rows] == [
        ("a", "charge", 0),
        ("b", "adjust", 2),
        ("b", "charge", 0),
        ("c", "adjust", 1),
        ("c", "adjust", 2),
        ("c", "refund", 0),
    ]
    new = {"reserved_tokens": 0, "reserved_cost": 0, "decisions": None}
    for row in rows:
        assert row._asdict().items() >= (OLD_ROW | new).items()


def test_rows_and_prices_of_before_there_were_units_have_none(empty):
    def fill(connection):
        row = {"request_id": "a", "kind": "charge", **OLD_ROW}
        price = {"version": "v1", "input": 1, "output": 2, "first_seen": 1.5}
        for table, values in (("ledger", row), ("prices_seen", price)):
            names = ", ".join(f'"{name}"' for name in values)
            places = ", ".join(f":{name}" for name in values)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), values)

    def look(connection):
        return connection.execute(select(LEDGER)).one(), connection.execute(select(PRICES_SEEN)).one()

    migrate(empty, "0002")
    asyncio.run(on(empty, fill))
    migrate(empty)
    row, price = asyncio.run(on(empty, look))
    assert (row.units, row.unit, row.number) == (None, None, 0)
    assert price_of(price) == Price(1, 2, None, "v1")


def test_what_was_used_before_there_was_a_cache_saved_nothing(empty):
    sums = dict.fromkeys(("requests", "refunds", "prompt_tokens", "completion_tokens", "cached_tokens"), 1)
    day = {"day": "2026-01-01", **dict.fromkeys(("department", "user", "key_id", "model_id", "provider"), "x"), **sums}

    def fill(connection):
        row = {"request_id": "a", "kind": "charge", **OLD_ROW}
        for table, values in (("ledger", row), ("usage_daily", day | {"reasoning_tokens": 1, "cost_microusd": 7})):
            names = ", ".join(f'"{name}"' for name in values)
            places = ", ".join(f":{name}" for name in values)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), values)

    def look(connection):
        return connection.execute(select(LEDGER)).one(), connection.execute(select(USAGE_DAILY)).one()

    migrate(empty, "0003")
    asyncio.run(on(empty, fill))
    migrate(empty)
    for found in asyncio.run(on(empty, look)):
        assert (found.cost_microusd, found.saved_microusd) == (7, 0)


def test_a_schema_can_be_taken_back_by_hand(empty):
    """For the release before: `downgrade` of the newest migration leaves what that one made."""

    def downgrade(connection):
        config = Config()
        config.set_main_option("script_location", str(migrations_dir()))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")

    migrate(empty)
    asyncio.run(on(empty, downgrade))
    assert pending(empty)[0].startswith("0002: ")
    migrate(empty)
    assert pending(empty) == []


def test_the_ledger_has_the_fields_of_the_record_in_its_order():
    assert tuple(column.name for column in LEDGER.columns) == OutcomeRecord._fields


def test_pending_lists_what_migrate_then_applies_and_touches_nothing(tmp_path):
    assert current(url(tmp_path)) is None
    waiting = pending(url(tmp_path))
    assert waiting
    assert waiting[0].startswith("0001: ")
    assert not file(tmp_path).exists()
    migrate(url(tmp_path))
    assert pending(url(tmp_path)) == []


def test_a_second_migration_changes_nothing_and_copies_nothing(tmp_path):
    migrate(url(tmp_path))
    before = file(tmp_path).read_bytes()
    migrate(url(tmp_path))
    assert file(tmp_path).read_bytes() == before
    assert list(tmp_path.rglob("*.before-*")) == []


def test_files_and_directory_are_for_the_owner_only(tmp_path):
    migrate(url(tmp_path))
    assert file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert file(tmp_path).parent.stat().st_mode & 0o777 == 0o700


def test_a_database_of_a_newer_release_is_refused_and_left_alone(tmp_path):
    migrate(url(tmp_path))
    with closing(sqlite3.connect(file(tmp_path))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(MigrationRefused, match="newer AI Dock"):
        migrate(url(tmp_path))
    with pytest.raises(MigrationRefused, match="9999"):
        pending(url(tmp_path))
    with pytest.raises(MigrationRefused, match="8888"):
        migrate(url(tmp_path), "8888")


def test_an_existing_file_is_copied_with_its_rows_before_it_is_upgraded(tmp_path, monkeypatch):
    scripts = scripts_with_one_more(tmp_path, "op.add_column('settings', sa.Column('note', sa.String()))")
    migrate(url(tmp_path))
    with closing(sqlite3.connect(file(tmp_path))) as connection, connection:
        connection.execute("INSERT INTO settings VALUES ('colour', 'blue')")
    monkeypatch.setattr("gateway.storage.migrate.migrations_dir", lambda: scripts)
    migrate(url(tmp_path))
    copy = file(tmp_path).with_name("aidock.db.before-9000")
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT * FROM settings").fetchall() == [("colour", "blue")]
    with closing(sqlite3.connect(file(tmp_path))) as connection:
        assert connection.execute("SELECT * FROM settings").fetchall() == [("colour", "blue", None)]


def test_an_upgrade_that_fails_half_way_leaves_the_old_schema(tmp_path, monkeypatch):
    scripts = scripts_with_one_more(tmp_path, "op.drop_table('ledger'); op.execute('no such statement')")
    migrate(url(tmp_path))
    monkeypatch.setattr("gateway.storage.migrate.migrations_dir", lambda: scripts)
    with pytest.raises(DatabaseUnavailable):
        migrate(url(tmp_path))
    with closing(sqlite3.connect(file(tmp_path))) as connection:
        assert connection.execute("SELECT count(*) FROM ledger").fetchone() == (0,)
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (newest(),)


def newest() -> str:
    return max(path.name for path in (migrations_dir() / "versions").glob("*.py")).partition("_")[0]


def scripts_with_one_more(tmp_path: Path, statement: str) -> Path:
    """The project's migrations and one after them."""
    scripts = copytree(migrations_dir(), tmp_path / "scripts")
    text = f"""
        '''one more'''
        import sqlalchemy as sa
        from alembic import op
        revision = "9000"
        down_revision = "{newest()}"
        branch_labels = depends_on = None
        def upgrade() -> None:
            {statement}
    """
    (scripts / "versions" / "9000_one_more.py").write_text(textwrap.dedent(text))
    return scripts


def test_processes_that_start_at_once_migrate_once(tmp_path):
    program = f"from gateway.storage.migrate import migrate; migrate({url(tmp_path)!r})"
    processes = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) for _ in range(3)]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert pending(url(tmp_path)) == []


def test_importing_storage_does_not_import_alembic():
    program = "import gateway.storage.engine, gateway.storage.ledger, sys; sys.exit('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("wrong", ["", "nonsense", "mysql://root:hunter2@host/db", "sqlite://", "sqlite:///:memory:"])
def test_a_url_of_another_kind_is_refused_without_repeating_it(wrong):
    with pytest.raises(Invalid) as caught:
        pending(wrong)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database_is_reported_as_unavailable(tmp_path):
    file(tmp_path).parent.mkdir()
    file(tmp_path).write_text("this is not a database, but it is long enough to be looked at" * 100)
    with pytest.raises(DatabaseUnavailable, match="not a database"):
        migrate(url(tmp_path))

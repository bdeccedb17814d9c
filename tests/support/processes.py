"""Child processes of tests: ended by their id, reached on ports below the ephemeral range."""

from __future__ import annotations

import random
import signal
import socket
import subprocess

PORTS = range(20_000, 32_000)
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


def free_port() -> int:
    """A port that nobody listens on."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port

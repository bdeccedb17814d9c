"""What others wrote, installed apart from the gateway on first use: SDKs for Node by `npm ci`, and in `.venv-clients`
what `requirements.txt` names. Programs here use them, are asked for deeds in lines of JSON, and say what came."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import ROOT, Gateway

HERE = Path(__file__).parent
_VENV = ROOT / ".venv-clients"


def node_with_packages() -> str:
    """The program. Skips the test where it cannot be had; with `CI=true` that is a failure."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return _missing("Node and npm are not installed")
    _install(
        HERE / "node_modules" / ".installed",
        (HERE / "package-lock.json",),
        lambda: [[npm, "ci", "--no-fund", "--no-audit", "--prefix", str(HERE)]],
    )
    return node


def python_with_packages() -> str:
    """The interpreter of `.venv-clients`. Skips the test where it cannot be had; with `CI=true` that is a failure."""
    python = str(_VENV / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    told = (HERE / "requirements.txt", HERE / "constraints.txt")
    _install(
        _VENV / ".installed",
        told,
        lambda: [
            [sys.executable, "-m", "venv", "--clear", str(_VENV)],
            [*pip, "--requirement", str(told[0]), "--constraint", str(told[1])],
        ],
    )
    return python


def _install(stamp: Path, told: Sequence[Path], commands: Callable[[], list[list[str]]]) -> None:
    """Run the commands unless the stamp says that they were run for what is told now."""
    now = sha256(b"".join(each.read_bytes() for each in told)).hexdigest()
    with _alone():
        if stamp.exists() and stamp.read_text() == now:
            return
        for command in commands():
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                _missing(f"{' '.join(command)} failed: {done.stderr[-500:]}")
        stamp.write_text(now)


@contextmanager
def _alone() -> Iterator[None]:
    """One of the processes that test side by side installs, and the others wait for it."""
    with (HERE / "package.json").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _missing(reason: str) -> Any:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class Program:
    """One of the programs here, running, with a gateway's address and key. Raises `AssertionError` with its words where
    it fails."""

    def __init__(self, interpreter: str, name: str, gateway: Gateway, base_url: str) -> None:
        environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/tmp")}
        self._process = subprocess.Popen(
            [interpreter, str(HERE / name)],
            env={**environ, "BASE_URL": base_url, "API_KEY": gateway.key},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    async def __call__(self, deed: str, **told: Any) -> Any:
        return await asyncio.to_thread(self._ask, json.dumps([deed, told]))

    def _ask(self, asked: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(asked, file=self._process.stdin)
        line = self._process.stdout.readline()
        assert line, f"it ended with {self._process.wait()}"
        answer = json.loads(line)
        assert "failed" not in answer, answer["failed"]
        return answer["told"]

    def stop(self) -> None:
        """End it, as the end of what it is asked does."""
        self._process.communicate(timeout=20)


@contextmanager
def running_program(interpreter: str, name: str, gateway: Gateway, base_url: str) -> Iterator[Program]:
    """A program, until the end."""
    program = Program(interpreter, name, gateway, base_url)
    try:
        yield program
    finally:
        program.stop()

"""`aidock` as a person runs it, with an environment of its own and no terminal.

`aidock` runs a command in this process, which takes no second to begin; `process` runs the program itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from gateway.cli import aidock

INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def traceback(self) -> bool:
        return "Traceback" in self.err or "Traceback" in self.out


class Shell:
    """A directory to be in, and the data directory in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"

    def environ(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return {**inherited, "AIDOCK_DATA": str(self.data), **(extra or {})}

    def aidock(self, *words: str, env: Mapping[str, str] | None = None) -> Result:
        """Run one command to its end. Anything but an orderly end is raised."""
        unset = {name: None for name in os.environ if name.startswith("AIDOCK_")}
        with contextlib.chdir(self.directory):
            done = CliRunner().invoke(aidock, words, env={**unset, **self.environ(env)}, prog_name="aidock")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Result(done.exit_code, done.stdout, done.stderr)

    def process(self, *words: str, env: Mapping[str, str] | None = None) -> Result:
        """Run the program to its end. One that waits for a person would run into the time limit."""
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *words],
            cwd=self.directory,
            env=self.environ(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *words: str, env: Mapping[str, str] | None = None) -> Result:
        result = self.aidock(*words, env=env)
        assert result.code == 0, f"{words}: {result}"
        return result

    def each(self, commands: Sequence[tuple[tuple[str, ...], Mapping[str, str]]]) -> list[Result]:
        """Processes that have nothing to do with each other, two at a time."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda command: self.process(*command[0], env=command[1]), commands))

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path

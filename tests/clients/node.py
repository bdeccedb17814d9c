"""Node with the SDKs that `package.json` names, as `npm ci` installs them."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway

HERE = Path(__file__).parent
_LOCK = HERE / "package-lock.json"
_INSTALLED = HERE / "node_modules" / ".package-lock.json"


def node_with_packages() -> str:
    """The program. Skips the test where it cannot be had; with `CI=true` that is a failure."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return missing("Node and npm are not installed")
    with (HERE / "package.json").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # one of the processes that test side by side
        if not _INSTALLED.exists() or _INSTALLED.stat().st_mtime < _LOCK.stat().st_mtime:
            done = subprocess.run([npm, "ci", "--no-fund", "--no-audit"], cwd=HERE, capture_output=True, text=True)
            if done.returncode:
                return missing(f"npm ci failed: {done.stderr[-500:]}")
            _INSTALLED.touch()
    return node


def missing(reason: str) -> Any:
    """Skip, or fail where everything must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class Program:
    """One of the programs here, which is asked to do something and says as JSON what came of it."""

    def __init__(self, node: str, name: str, gateway: Gateway, base_url: str) -> None:
        self._command = (node, str(HERE / name))
        self._environ = {"PATH": os.environ["PATH"], "BASE_URL": base_url, "API_KEY": gateway.key}

    async def __call__(self, deed: str, **told: Any) -> Any:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            deed,
            json.dumps(told),
            env=self._environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, words = await process.communicate()
        assert process.returncode == 0, words.decode()
        return json.loads(out)

"""Wall clocks that a test moves while the program that reads them runs: libfaketime, preloaded.

clock = Clock(tmp_path / "clock")
gateway = Gateway(directory, config, environ=clock.environ)
clock.jump(7200)     # two hours ahead, at once; durations (the monotonic clock) are not touched
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_LIBRARIES = ("/usr/lib", "/usr/local/lib", "/lib")
_NAME = "libfaketime.so.1"


class Clock:
    """The wall clock of the programs that are started with `environ`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.jump(0)
        self.environ = {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_NO_CACHE": "1",
        }

    def jump(self, seconds: int) -> None:
        """Put it so far ahead of the real time, or behind it."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.replace(self._file)


def _library() -> Path:
    """Without the library the test is skipped; where `CI` is true it fails instead."""
    for root in _LIBRARIES:
        if found := sorted(Path(root).glob(f"*/faketime/{_NAME}")) + sorted(Path(root).glob(f"faketime/{_NAME}")):
            return found[0]
    reason = f"no {_NAME}; on Debian: apt-get install faketime"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)

"""Where the workers of one instance leave their metrics for whichever of them is scraped."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.core.body import DecodeError, decode, encode
from gateway.telemetry.instruments import State


class Shelf:
    """A directory with one file for each process. A process that ended leaves its counts behind."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._own = directory / f"{os.getpid()}.json"

    def put(self, state: State) -> None:
        """Leave this process's state, whole or not at all."""
        rows = {name: list(children.items()) for name, children in state.items()}
        draft = self._own.with_suffix(".new")
        draft.write_bytes(encode(rows))
        draft.replace(self._own)

    def others(self) -> tuple[list[State], list[State]]:
        """The states of the other processes: of those that live, and of those that have ended."""
        living: list[State] = []
        ended: list[State] = []
        for path in self._directory.glob("*.json"):
            if path != self._own:
                state = _read(path)
                (living if _lives(int(path.stem)) else ended).append(state)
        return living, ended


def _read(path: Path) -> State:
    try:
        rows = decode(path.read_bytes())
    except (OSError, *DecodeError):
        return {}  # replaced or removed under our eyes; the next scrape has it
    return {name: {tuple(values): numbers for values, numbers in children} for name, children in rows.items()}


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

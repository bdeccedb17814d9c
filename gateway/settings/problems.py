"""What is wrong with a configuration, and where."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]
"""The way to a value: mapping keys and list positions, from the root."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a value was written: a file with line and column (from 1), or the name of a variable or option (line 0).

    `private` marks a value that came from the environment or a secret file, which no message may show.
    """

    source: str
    line: int = 0
    column: int = 0
    private: bool = False

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend. Prints as `FILE:LINE:COL: path: message (did you mean 'x'?)`."""

    place: Place | None
    path: str
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        where = "".join(f"{part}: " for part in (str(self.place or ""), self.path) if part)
        hint = f" (did you mean '{self.suggestion}'?)" if self.suggestion else ""
        return f"{where}{self.message}{hint}"


class ConfigError(Exception):
    """A configuration that cannot be used, with everything that is wrong with it, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=_order))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def _order(problem: Problem) -> tuple[str, int, int, str]:
    place = problem.place or Place("")
    return place.source, place.line, place.column, problem.path


def dotted(path: KeyPath) -> str:
    """A path as people write it: `models[0].price.input`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(word: str, options: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The option that a misspelt word most likely meant."""
    spelt = {option.casefold(): option for option in options}
    found = difflib.get_close_matches(word[:100].casefold(), spelt, n=1, cutoff=cutoff)
    return spelt[found[0]] if found else None

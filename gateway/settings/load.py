"""From file, environment and command line to a checked document. Defaults give way to the file, it to the
environment, and that to the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gateway.settings.environment import apply_environment
from gateway.settings.problems import ConfigError, KeyPath, Place, Problem, dotted
from gateway.settings.schema import Settings
from gateway.settings.source import Tree, read_file
from gateway.settings.validate import validate


@dataclass(frozen=True, slots=True)
class Document:
    """A configuration whose every value has the right type, and where each was written. `origin` is the file."""

    settings: Settings
    origin: str | None
    tree: Tree = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)

    def problem(self, path: KeyPath, message: str, suggestion: str | None = None) -> Problem:
        return Problem(self.tree.place(path), dotted(path), message, suggestion)

    def place(self, path: KeyPath) -> str:
        """Where a value was written, for messages that name a second place."""
        return str(self.tree.place(path) or "the built-in default")

    def shown(self, path: KeyPath, value: str) -> str:
        """A value as a message may show it: not what came from the environment or a secret file."""
        place = self.tree.place(path)
        if place is not None and place.private:
            return "(a value from the environment)"
        return repr(value if len(value) <= 80 else f"{value[:80]}…")


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Document:
    """Read and check a configuration; no path is the embedded default. `flags` are settings by dotted path, such as
    `{"server.port": 9000}`; None is no flag. Raises `ConfigError` with every problem found."""
    problems: list[Problem] = []
    tree = Tree() if path is None else read_file(path, environ, problems)
    apply_environment(tree, environ, problems)
    for name, value in flags.items():
        if value is not None:
            steps = tuple(name.split("."))
            tree.graft(steps, value, Place(f"--{steps[-1].replace('_', '-')}"))
    settings = validate(Settings, tree, problems)
    if problems or settings is None:
        raise ConfigError(problems)
    return Document(settings, str(path) if path else None, tree, MappingProxyType(dict(environ)))

"""What checking a document turns up: problems that refuse it, and warnings that do not."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.settings.load import Document
from gateway.settings.problems import KeyPath, Problem


@dataclass(frozen=True, slots=True)
class Findings:
    """Collects while a document is compiled."""

    document: Document
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def refuse(self, path: KeyPath, message: str, suggestion: str | None = None) -> None:
        self.problems.append(self.document.problem(path, message, suggestion))

    def warn(self, path: KeyPath, message: str) -> None:
        self.warnings.append(str(self.document.problem(path, message)))

    def shown(self, path: KeyPath, value: str) -> str:
        return self.document.shown(path, value)

    def place(self, path: KeyPath) -> str:
        return self.document.place(path)

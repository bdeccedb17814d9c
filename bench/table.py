"""Figures as people read them: medians with their spread, ratios, verdicts, one table."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bench import targets

Verdict = Literal["meets stretch", "meets bar", "misses", "no reference", "skipped", "BROKEN"]

LIBRARIES = ("uvloop", "httptools", "uvicorn", "starlette", "msgspec", "redis")
COLUMNS = ("row", "measured", "reference", "ratio", "bar", "stretch", "verdict")


class Spread(NamedTuple):
    """The median of several rounds, and how far they lay apart."""

    median: float
    low: float
    high: float


def spread(samples: Iterable[float]) -> Spread:
    """Raises `statistics.StatisticsError` when there are none."""
    ordered = sorted(samples)
    return Spread(statistics.median(ordered), ordered[0], ordered[-1])


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a row is held to. `bar` and `stretch` are upper bounds, of the ratio to the reference where `by_ratio`,
    else of the measured median."""

    title: str
    unit: str
    bar: float
    stretch: float
    by_ratio: bool = False


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured, in the goal's unit, and what the reference took for the same."""

    measured: Spread
    reference: Spread | None = None
    reference_name: str = "nginx"
    note: str = ""

    @property
    def ratio(self) -> float | None:
        if self.reference is None or self.reference.median <= 0:
            return None
        return self.measured.median / self.reference.median


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. Without figures, `trouble` is why: a reason to skip, or what broke."""

    goal: Goal
    figures: Figures | None = None
    trouble: str = ""
    broken: bool = False

    @property
    def verdict(self) -> Verdict:
        if self.figures is None:
            return "BROKEN" if self.broken else "skipped"
        judged = self.figures.ratio if self.goal.by_ratio else self.figures.measured.median
        if judged is None:
            return "no reference"
        if judged <= self.goal.stretch:
            return "meets stretch"
        return "meets bar" if judged <= self.goal.bar else "misses"

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `COLUMNS`."""
        goal, figures = self.goal, self.figures
        suffix = "x" if goal.by_ratio else f" {goal.unit}"
        measured = reference = ratio = "-"
        if figures is not None:
            measured = shown(figures.measured, goal.unit)
            if figures.reference is not None:
                reference = f"{figures.reference_name} {shown(figures.reference, goal.unit)}"
            if figures.ratio is not None:
                ratio = f"{figures.ratio:.2f}x"
        return (
            goal.title,
            measured,
            reference,
            ratio,
            f"<= {goal.bar:g}{suffix}",
            f"<= {goal.stretch:g}{suffix}",
            self.verdict,
        )

    def as_json(self) -> dict[str, Any]:
        figures = self.figures
        return {
            **asdict(self.goal),
            "measured": figures.measured._asdict() if figures else None,
            "reference": figures.reference._asdict() if figures and figures.reference else None,
            "reference_name": figures.reference_name if figures else None,
            "ratio": figures.ratio if figures else None,
            "verdict": self.verdict,
            "remarks": self.remarks,
        }

    @property
    def remarks(self) -> list[str]:
        note = self.figures.note if self.figures else ""
        return [remark for remark in (note, self.trouble) if remark]


def shown(figure: Spread, unit: str) -> str:
    """`113 us (108..121)`; three significant digits or whole numbers."""
    return f"{_number(figure.median)} {unit} ({_number(figure.low)}..{_number(figure.high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def render(rows: Sequence[Row]) -> str:
    """The table, and below it what there is to say about single rows."""
    lines = [COLUMNS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    padded = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    padded.insert(1, "  ".join("-" * width for width in widths))
    remarks = [f"{row.goal.title}: {remark}" for row in rows for remark in row.remarks]
    return "\n".join([*padded, "", *remarks] if remarks else padded)


def environment() -> dict[str, str]:
    """Where the figures come from."""
    return {
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{library: version(library) for library in LIBRARIES},
        "nginx": _server_version(targets.nginx_command(), "-v"),
        "redis-server": _server_version(targets.redis_command(), "--version"),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _server_version(command: str | None, option: str) -> str:
    if command is None:
        return "none"
    done = subprocess.run([command, option], capture_output=True, text=True, timeout=10, check=False)
    return (done.stdout or done.stderr).strip().removeprefix("nginx version: ")

"""Prints the fault table that a run has noted: `python -m tests.faults.table FILE`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

COLUMNS = {
    "fault": "fault",
    "calls": "N calls",
    "lost": "lost",
    "duplicate": "duplicate",
    "drift": "drift",
    "overspend": "overspend",
    "leaked": "leaked",
    "recovery_s": "recovery s",
}


def table(findings: Iterable[Mapping[str, Any]]) -> str:
    """Findings as markdown."""
    rows = [list(COLUMNS.values()), ["---", *["--:"] * (len(COLUMNS) - 1)]]
    rows += [[str(finding[name]) for name in COLUMNS] for finding in findings]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    lines = Path(sys.argv[1]).read_text().splitlines()
    print(table(json.loads(line) for line in lines))

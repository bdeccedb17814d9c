"""What a process and its descendants have used: CPU time and memory. Linux only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED = 2
"""The kind of per-process clock that counts scheduled run time, see clock_getcpuclockid(3)."""


class Stat(NamedTuple):
    """The part of `/proc/PID/stat` that is of use here; times in clock ticks."""

    parent: int
    user_ticks: int
    system_ticks: int


def parse_stat(line: str) -> Stat:
    """Read a `/proc/PID/stat` line. The command's name may hold spaces and parentheses; fields follow the last one."""
    fields = line[line.rindex(")") + 2 :].split()
    return Stat(parent=int(fields[1]), user_ticks=int(fields[11]), system_ticks=int(fields[12]))


def parse_resident(status: str) -> int:
    """Resident bytes from the text of `/proc/PID/status`."""
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError("a process without memory has ended")


def descendants(root: int) -> list[int]:
    """`root` and every process below it, parents first."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = parse_stat((entry / "stat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        children.setdefault(stat.parent, []).append(int(entry.name))
    family = [root]
    for pid in family:
        family.extend(children.get(pid, ()))
    return family


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that the processes have used so far, all of their threads. Raises `ProcessLookupError`."""
    return sum(_cpu_seconds(pid) for pid in pids)


def _cpu_seconds(pid: int) -> float:
    # The process's CPU clock has nanoseconds and counts every thread, ended ones too. `/proc/PID/schedstat` has
    # nanoseconds but knows the main thread only; `/proc/PID/stat` knows all threads, in ticks of 10 ms.
    try:
        return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return _cpu_seconds_by_ticks(pid)


def _cpu_seconds_by_ticks(pid: int) -> float:
    stat = parse_stat(_read(pid, "stat"))
    return (stat.user_ticks + stat.system_ticks) / _TICKS_PER_SECOND


def resident_bytes(pids: Iterable[int]) -> int:
    """Memory the processes have in RAM; pages they share count once for each. Raises `ProcessLookupError`."""
    return sum(parse_resident(_read(pid, "status")) for pid in pids)


def _read(pid: int, name: str) -> str:
    try:
        return (PROC / str(pid) / name).read_text()
    except FileNotFoundError as error:
        raise ProcessLookupError(f"process {pid} has ended") from error

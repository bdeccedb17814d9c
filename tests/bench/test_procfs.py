import subprocess
import sys
import time

import pytest

from bench import procfs


def test_a_stat_line_is_read_past_a_command_name_with_spaces_and_parentheses() -> None:
    line = "42 (a (b) c) S 7 42 42 0 -1 4194304 100 0 0 0 123 45 6 7 20 0 1 0 999 1000 200 18446744073709551615"
    assert procfs.parse_stat(line) == procfs.Stat(parent=7, user_ticks=123, system_ticks=45)


def test_resident_memory_is_read_in_bytes() -> None:
    assert procfs.parse_resident("Name:\tx\nVmPeak:\t  900 kB\nVmRSS:\t     512 kB\n") == 512 * 1024


def test_a_zombie_without_memory_counts_as_ended() -> None:
    with pytest.raises(ProcessLookupError):
        procfs.parse_resident("Name:\tx\nState:\tZ (zombie)\n")


def test_cpu_time_counts_every_thread() -> None:
    burn = (
        "import threading, time\ndef spin():\n  while True: pass\nthreading.Thread(target=spin).start()\ntime.sleep(9)"
    )
    with subprocess.Popen([sys.executable, "-c", burn]) as child:
        try:
            deadline = time.monotonic() + 20
            while procfs.cpu_seconds([child.pid]) < 0.3 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert procfs.cpu_seconds([child.pid]) >= 0.3
        finally:
            child.kill()
    with pytest.raises(ProcessLookupError):
        procfs.cpu_seconds([child.pid])


def test_descendants_are_found_below_their_parents() -> None:
    parent = (
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import sys; print(1, flush=True); input()'])"
    )
    command = [sys.executable, "-c", parent]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        family = procfs.descendants(child.pid)
        child.communicate(b"\n", timeout=20)
    assert family[0] == child.pid
    assert len(family) == 2

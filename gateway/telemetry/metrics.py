"""The metrics by name; the only importer of prometheus_client.

A call touches its metrics through a `Series`: the children for its labels, looked up once per distinct label set.
Labels come from the configuration, never from a request, so their number is bounded; departments past a cap share
the label `other`. With several workers a scrape adds all of them up, whichever is asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.core.limits import Actual, Claim, Level
from gateway.core.money import MICROS_PER_DOLLAR
from gateway.telemetry.instruments import AnyFamily, Counts, Levels, Spreads, State, merged, state_of
from gateway.telemetry.sharing import Shelf

_DURATIONS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_FIRST_TOKEN = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0)
_OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
_MOST_DEPARTMENTS = 200
_CALL = ("endpoint", "model", "provider")


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
        spent = (model, provider, department)
        self.requests = metrics.requests.labels(
            endpoint, model, provider, department, code, "true" if streamed else "false"
        )
        self.duration = metrics.duration.labels(endpoint, model, provider)
        self.first_token = metrics.first_token.labels(endpoint, model, provider)
        self.overhead = metrics.overhead.labels(endpoint)
        self.prompt = metrics.tokens.labels("prompt", *spent)
        self.completion = metrics.tokens.labels("completion", *spent)
        self.cached = metrics.tokens.labels("cached", *spent)
        self.reasoning = metrics.tokens.labels("reasoning", *spent)
        self.cost = metrics.cost.labels(*spent)


class Metrics:
    """Every metric the gateway has. One object per process; `shared` is where its instance's workers meet."""

    def __init__(self, version: str, shared: Path | None = None) -> None:
        self._of_calls()
        self._of_limits()
        self._of_the_crowd()
        self._of_the_ledger()
        self._of_the_process(version)
        self._families = [each for each in vars(self).values() if isinstance(each, AnyFamily)]
        self._shelf = None if shared is None else Shelf(shared)
        self._registry = CollectorRegistry()
        self._registry.register(_Exposed(self))
        if shared is None:
            ProcessCollector(registry=self._registry)
        self._series: dict[Labels, Series] = {}
        self._departments: set[str] = set()
        self._levels: deque[Sequence[Level]] = deque(maxlen=1000)

    def _of_calls(self) -> None:
        self.requests = Counts(
            "aidock_requests", "Inference requests answered.", (*_CALL, "department", "code", "streamed")
        )
        self.duration = Spreads(
            "aidock_request_duration_seconds",
            "From the request's arrival to the end of its answer.",
            _CALL,
            _DURATIONS,
        )
        self.first_token = Spreads(
            "aidock_time_to_first_token_seconds",
            "From the request's arrival to the first byte of a streamed answer.",
            _CALL,
            _FIRST_TOKEN,
        )
        self.overhead = Spreads(
            "aidock_gateway_overhead_seconds",
            "Time a call spent in the gateway itself, before its upstream was asked.",
            ("endpoint",),
            _OVERHEAD,
        )
        self.tokens = Counts(
            "aidock_tokens",
            "Tokens used, by kind; cached is a part of prompt, reasoning of completion.",
            ("kind", "model", "provider", "department"),
        )
        self.cost = Counts("aidock_cost_usd", "US dollars charged.", ("model", "provider", "department"))
        self.attempts = Counts("aidock_upstream_attempts", "Requests to upstreams.", ("provider", "outcome"))
        self.fallbacks = Counts("aidock_fallbacks", "Calls passed on to another target.", ("model",))
        self.cache_hits = Counts("aidock_cache_hits", "Calls answered from the cache.", ("model",))
        self.cache_misses = Counts("aidock_cache_misses", "Calls that the cache had no answer for.", ("model",))
        self.cache_saved = Counts(
            "aidock_cache_saved_usd", "US dollars that answers from the cache had cost when they were made.", ("model",)
        )
        self.deployment_up = Levels(
            "aidock_deployment_up",
            "1 while a deployment of the model is well; 0 while all rest.",
            "min",
            ("model", "provider"),
        )

    def _of_limits(self) -> None:
        self.rejections = Counts("aidock_quota_rejections", "Calls refused by a limit.", ("scope", "metric"))
        self.over_limit = Counts(
            "aidock_quota_over_limit",
            "Calls that went past a limit that only warns or shadows.",
            ("scope", "metric", "action"),
        )
        self.unmetered_calls = Counts(
            "aidock_quota_allowed_unmetered", "Calls let through uncounted because the counter store was away."
        )
        self.overspend = Counts(
            "aidock_overspend", "Tokens and US dollars that calls used beyond what they had reserved.", ("metric",)
        )
        self.quota_used = Levels(
            "aidock_quota_used_ratio", "The fullest limit lately seen of each kind.", "max", ("scope", "metric")
        )
        self.unmetered = self.unmetered_calls.labels()

    def _of_the_crowd(self) -> None:
        self.disconnects = Counts(
            "aidock_client_disconnects", "Clients that left before their answer's end.", ("phase",)
        )
        self.shed = Counts("aidock_shed", "Calls turned away because as many ran and waited as may.", ("reason",))
        self.running = Levels("aidock_inflight_requests", "Inference calls under way.", "sum")
        self.waiting = Levels("aidock_queue_depth", "Inference calls that wait for a place.", "sum")
        self.inflight = self.running.labels()
        self.queue_depth = self.waiting.labels()

    def _of_the_ledger(self) -> None:
        self.rows = Counts("aidock_ledger_rows", "Rows written to the ledger.")
        self.orphans = Counts("aidock_ledger_orphans", "Calls of dead processes that were entered without an end.")
        self.quarantined = Counts("aidock_ledger_quarantined", "Rows that the ledger would not take.")
        self.damage = Counts(
            "aidock_journal_damage", "What could not be read back from journals: records, or damaged bytes.", ("kind",)
        )
        self.depth = Levels("aidock_journal_depth", "Outcomes not yet in the ledger.", "sum")
        self.ledger_rows = self.rows.labels()
        self.ledger_orphans = self.orphans.labels()
        self.ledger_quarantined = self.quarantined.labels()
        self.journal_depth = self.depth.labels()

    def _of_the_process(self, version: str) -> None:
        self.reloaded = Levels(
            "aidock_config_last_reload_successful", "Whether the newest configuration could be used.", "min"
        )
        self.config_version = Levels(
            "aidock_config_version_info", "The configuration in force.", "max", ("version", "hash")
        )
        self.build = Levels("aidock_build_info", "The release that runs.", "max", ("version",))
        self.reload_ok = self.reloaded.labels()
        self.reload_ok.set(1)
        self.build.labels(version).set(1)

    def series(self, labels: Labels) -> Series:
        """The children for these labels; a few tenths of a microsecond once they are known."""
        found = self._series.get(labels)
        if found is None:
            labels = labels._replace(department=self._bounded(labels.department))
            found = self._series.get(labels)
            if found is None:
                found = self._series[labels] = Series(self, labels)
        return found

    def note_levels(self, levels: Sequence[Level]) -> None:
        """Limits as a call has just seen them; `publish` looks at the newest thousand calls."""
        self._levels.append(levels)

    def note_overspend(self, claims: Sequence[Claim], actual: Actual) -> None:
        """What a call used beyond the most that it held for a limit that could have refused it."""
        tokens = cost = None
        for limit, held in claims:
            if limit.action == "deny":
                if limit.metric == "tokens":
                    tokens = held if tokens is None else max(tokens, held)
                elif limit.metric == "cost":
                    cost = held if cost is None else max(cost, held)
        if tokens is not None and tokens < actual.tokens:
            self.overspend.labels("tokens").inc(actual.tokens - tokens)
        if cost is not None and cost < actual.cost:
            self.overspend.labels("cost").inc((actual.cost - cost) / MICROS_PER_DOLLAR)

    def publish(self) -> None:
        """Bring up to date what is too dear to do at every call, and leave the state for the other workers."""
        fullest: dict[tuple[str, str], float] = {}
        for level in (level for levels in self._levels for level in levels):
            key = (level.limit.scope, level.limit.metric)
            ratio = level.used / level.limit.amount if level.limit.amount else 1.0
            fullest[key] = max(ratio, fullest.get(key, 0.0))
        self._levels.clear()
        for (scope, metric), ratio in fullest.items():
            self.quota_used.labels(scope, metric).set(ratio)
        if self._shelf is not None:
            self._shelf.put(state_of(self._families))

    def show_config(self, version: int, digest: str) -> None:
        """The configuration now in force; the one before disappears."""
        self.config_version.clear()
        self.config_version.labels(str(version), digest[:12]).set(1)

    def exposition(self) -> tuple[bytes, str]:
        """Prometheus' text format and its content type, of all workers where there are several."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """Every family as prometheus_client shows it."""
        state = state_of(self._families)
        if self._shelf is not None:
            living, ended = self._shelf.others()
            state = merged(self._families, [state, *living], ended)
        for family in self._families:
            yield _shown(family, state)

    def _bounded(self, department: str) -> str:
        if department in self._departments:
            return department
        if len(self._departments) >= _MOST_DEPARTMENTS:
            return "other"
        self._departments.add(department)
        return department


class _Exposed(Collector):
    """Puts `Metrics` into a registry of prometheus_client."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.collect()


def _shown(family: AnyFamily, state: State) -> Metric:
    rows: Mapping[tuple[str, ...], list[float]] = state.get(family.name, {})
    if isinstance(family, Spreads):
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.label_names)
        bounds = [*map(repr, family.bounds), "+Inf"]
        for values, (*counts, total) in rows.items():
            histogram.add_metric(values, list(zip(bounds, accumulate(counts), strict=True)), total)
        return histogram
    shape = CounterMetricFamily if isinstance(family, Counts) else GaugeMetricFamily
    shown = shape(family.name, family.help, labels=family.label_names)
    for values, (value,) in rows.items():
        shown.add_metric(values, value)
    return shown

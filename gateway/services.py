"""Everything a gateway process consists of, built once in the order things need each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway import __version__, plugins
from gateway.admission import Admission
from gateway.attempt import Carrier
from gateway.books import Books
from gateway.cache import ResponseCache
from gateway.conversations.connect import conversation_store
from gateway.core.deployment import Target, Tls, Upstream
from gateway.core.limits import Limit
from gateway.core.ports import Authorizes, Passes
from gateway.core.upstream import Transport
from gateway.health import Health
from gateway.idempotency.connect import answer_cache, answer_store
from gateway.identity.directory import Directory
from gateway.identity.pepper import load_pepper
from gateway.ledger.journal import open_journal
from gateway.ledger.recovery import Adopter
from gateway.ledger.table import LedgerTable
from gateway.ledger.writer import LedgerWriter
from gateway.quotas.connect import counter_store
from gateway.recount import Recount
from gateway.relay import Relay
from gateway.settings.compile import Snapshot
from gateway.settings.watch import Reloader, Source
from gateway.shadow import ShadowLog
from gateway.storage.engine import Database
from gateway.telemetry import logs
from gateway.telemetry.instruments import Count
from gateway.telemetry.metrics import Metrics
from gateway.upstream.pool import PoolLimits
from gateway.upstream.tls import TlsSettings
from gateway.upstream.transport import HttpTransport
from gateway.world import build

_BOUNDED_ELSEWHERE = PoolLimits(connections=1_000_000)
"""A call has one connection at a time, and `max_inflight` bounds the calls, also after a reload has raised it."""
_NEARLY_FULL = 0.8
"""A journal this full means that the ledger database has been away for long."""


class Services:
    """The parts of a gateway. `world` is what serves new calls; `file_limits` the configuration's limits in force."""

    def __init__(self, reloader: Reloader, environ: Mapping[str, str]) -> None:
        snapshot = reloader.current
        self.started = False
        self.draining = False
        self.reloader = reloader
        self.data = Path(snapshot.storage.data)
        self.file_limits: tuple[Limit, ...] = ()
        self.log = logs.set_up(snapshot.server.log_format)
        self.metrics = Metrics(__version__, _metrics_directory(environ))
        self.database = Database.open(snapshot.storage.database_url, self.data)
        self.directory = Directory(self.database, load_pepper(environ, self.data), lambda: self.file_limits)
        self.counters = counter_store(snapshot.storage.counters, snapshot.zone)
        self.answers = answer_store(snapshot.storage.counters)
        self.conversations = conversation_store(snapshot.storage.counters)
        self.kept = answer_cache(snapshot.storage.counters)
        self.admission = Admission(self.metrics, snapshot.server.max_inflight)
        storage = snapshot.storage
        self.journal = open_journal(
            self.data / "journal", max_bytes=storage.journal_bytes, max_open=storage.journal_open
        )
        self.sink = LedgerTable(self.database, snapshot.zone)
        self.shadow = ShadowLog(self.database, snapshot.zone)
        self.writer = LedgerWriter(self.journal, self.sink)
        self.adopter = Adopter(self.data / "journal", self.sink, own=self.journal.path)
        self.limits_in_force = True
        self.recount: Recount | None = None
        self.health = Health()
        books = Books(self.journal, self.counters, self.metrics, self.log)
        self.relay = Relay(books, self.metrics, self.health)
        self.cache = ResponseCache(self.kept, books, self.metrics)
        self._environ = environ
        self._providers = plugins.providers()
        self._transports: dict[Tls, HttpTransport] = {}
        self.apply(snapshot)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Services:
        """As the environment says. Raises `ConfigError`, and what a part that cannot be built raises."""
        path = environ.get("AIDOCK_CONFIG")
        source = Source(
            path=Path(path) if path else None,
            environ=environ,
            flags={},
            known_policies=plugins.policy_names(),
            known_dialects=frozenset(plugins.providers()),
            check_policy=plugins.policy,
        )
        return cls(Reloader(source), environ)

    def apply(self, snapshot: Snapshot) -> None:
        """Serve new calls by a snapshot. Raises `ValueError`, and changes nothing, where it cannot be used."""
        self.world = build(snapshot, {name: self._carrier(upstream) for name, upstream in snapshot.upstreams.items()})
        self.admission.resize(snapshot.server.max_inflight)
        self.health.keep(self.targets())
        self.metrics.show_config(snapshot.version, snapshot.hash)

    def targets(self) -> list[Target]:
        """Every place that the configuration in force sends calls to, once."""
        routes = self.world.snapshot.routes.values()
        return list(dict.fromkeys(target for route in routes for target in route.every_target))

    def ready(self) -> tuple[bool, dict[str, str]]:
        """Whether new calls are welcome, and each check by name.

        A database that is away does not turn calls away: known callers go on, and the journal keeps their records.
        """
        journal_ok = self.journal.healthy and self.journal.fullness < _NEARLY_FULL
        waiting = "" if self.limits_in_force else "; its new limits wait to be counted up"
        checks = {
            "gateway": "draining" if self.draining else "ok" if self.started else "starting",
            "journal": "ok" if journal_ok else f"{self.journal.fullness:.0%} full, or its disk fails",
            "directory": "ok" if self.directory.healthy else "degraded: the database does not answer",
            "ledger": "ok" if self.writer.sink_available else "degraded: rows wait in the journal",
            "counters": "ok" if self.recount is None else self.recount.state,
            "config": self.reloader.last_error or f"ok, version {self.world.snapshot.version}{waiting}",
        }
        return self.started and not self.draining and journal_ok, checks

    def exposition(self) -> tuple[bytes, str]:
        """The metrics, up to date."""
        self.publish()
        return self.metrics.exposition()

    def publish(self) -> None:
        """Bring the gauges up to date that are read rather than counted."""
        metrics = self.metrics
        metrics.publish()
        metrics.journal_depth.set(self.journal.depth)
        metrics.reload_ok.set(self.reloader.last_reload_ok)
        for (model, provider), up in self.health.up(self.targets()).items():
            metrics.deployment_up.labels(model, provider).set(up)
        found = self.adopter.recovered
        _raise_to(metrics.ledger_rows, self.writer.rows + self.adopter.rows)
        _raise_to(metrics.ledger_orphans, self.writer.orphans + found.orphans)
        _raise_to(metrics.ledger_quarantined, self.writer.quarantined + self.adopter.quarantined)
        _raise_to(metrics.damage.labels("missing"), self.writer.gaps + found.missing)
        _raise_to(metrics.damage.labels("unreadable"), self.writer.unreadable + found.unreadable)
        _raise_to(metrics.damage.labels("bytes"), self.writer.damaged_bytes + found.damaged_bytes)

    def close_transports(self) -> None:
        """Drop the connections to upstreams."""
        for transport in self._transports.values():
            transport.close()

    def _carrier(self, upstream: Upstream) -> Carrier:
        provider = self._providers[upstream.dialect]
        passing = provider.passing if isinstance(provider, Passes) else None
        if isinstance(provider, Transport):
            return Carrier(provider, provider, passing=passing)
        authorize = provider.authorize if isinstance(provider, Authorizes) and upstream.credential is not None else None
        return Carrier(provider, self._transport(upstream.tls), authorize, passing)

    def _transport(self, tls: Tls) -> HttpTransport:
        """The pool for upstreams met this way. It outlives reloads, and so do its connections."""
        transport = self._transports.get(tls)
        if transport is None:
            settings = TlsSettings(
                tls.ca_file or self._environ.get("SSL_CERT_FILE") or None, tls.client_cert, tls.client_key, tls.verify
            )
            try:
                transport = HttpTransport(tls=settings, environ=self._environ, limits=_BOUNDED_ELSEWHERE)
            except OSError as error:
                raise ValueError(f"a TLS file of a provider cannot be used: {error}") from error
            self._transports[tls] = transport
        return transport


def _raise_to(counter: Count, total: float) -> None:
    """Let a metric show a sum that is kept elsewhere."""
    counter.inc(max(0.0, total - counter.value))


def _metrics_directory(environ: Mapping[str, str]) -> Path | None:
    """Where the workers of one instance share their metrics; `serve` makes it where there are several."""
    directory = environ.get("AIDOCK_METRICS_DIR")
    return Path(directory) if directory else None

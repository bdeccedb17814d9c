"""What a scrape shows: the contract's names and labels, bounded, and right with any number of workers."""

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.limits import Level
from gateway.telemetry.metrics import Labels, Metrics
from tests.support.calls import a_limit

CALL = {"endpoint", "model", "provider"}
CONTRACT: dict[str, tuple[str, set[str]]] = {
    "aidock_requests": ("counter", CALL | {"department", "code", "streamed"}),
    "aidock_request_duration_seconds": ("histogram", CALL),
    "aidock_time_to_first_token_seconds": ("histogram", CALL),
    "aidock_gateway_overhead_seconds": ("histogram", {"endpoint"}),
    "aidock_tokens": ("counter", {"kind", "model", "provider", "department"}),
    "aidock_cost_usd": ("counter", {"model", "provider", "department"}),
    "aidock_inflight_requests": ("gauge", set()),
    "aidock_upstream_attempts": ("counter", {"provider", "outcome"}),
    "aidock_fallbacks": ("counter", {"model"}),
    "aidock_cache_hits": ("counter", {"model"}),
    "aidock_cache_misses": ("counter", {"model"}),
    "aidock_cache_saved_usd": ("counter", {"model"}),
    "aidock_deployment_up": ("gauge", {"model", "provider"}),
    "aidock_quota_rejections": ("counter", {"scope", "metric"}),
    "aidock_quota_used_ratio": ("gauge", {"scope", "metric"}),
    "aidock_client_disconnects": ("counter", {"phase"}),
    "aidock_journal_depth": ("gauge", set()),
    "aidock_ledger_rows": ("counter", set()),
    "aidock_config_last_reload_successful": ("gauge", set()),
    "aidock_config_version_info": ("gauge", {"version", "hash"}),
    "aidock_build_info": ("gauge", {"version"}),
    # beyond the contract
    "aidock_quota_over_limit": ("counter", {"scope", "metric", "action"}),
    "aidock_overspend": ("counter", {"metric"}),
    "aidock_quota_allowed_unmetered": ("counter", set()),
    "aidock_queue_depth": ("gauge", set()),
    "aidock_shed": ("counter", {"reason"}),
    "aidock_ledger_orphans": ("counter", set()),
    "aidock_ledger_quarantined": ("counter", set()),
    "aidock_journal_damage": ("counter", {"kind"}),
}
OK = Labels("chat.completions", "m", "corp", "research", "200", True)


def scraped(metrics: Metrics) -> dict[str, tuple[str, set[str]]]:
    text = metrics.exposition()[0].decode()
    families = {}
    for family in text_string_to_metric_families(text):
        if family.name.startswith("aidock_"):
            labels = {name for sample in family.samples for name in sample.labels} - {"le"}
            families[family.name] = (family.type, labels)
    return families


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = metrics.exposition()[0].decode()
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, frozenset(labels.items())]


def exercised() -> Metrics:
    metrics = Metrics("1.0")
    series = metrics.series(OK)
    for count in (series.requests, series.prompt, series.completion, series.cached, series.reasoning, series.cost):
        count.inc()
    for spread in (series.duration, series.first_token, series.overhead):
        spread.observe(0.2)
    metrics.attempts.labels("corp", "ok").inc()
    metrics.fallbacks.labels("m").inc()
    for each in (metrics.cache_hits, metrics.cache_misses, metrics.cache_saved):
        each.labels("m").inc()
    metrics.rejections.labels("department", "tokens").inc()
    metrics.over_limit.labels("department", "tokens", "warn").inc()
    metrics.overspend.labels("tokens").inc()
    metrics.disconnects.labels("streaming").inc()
    metrics.deployment_up.labels("m", "corp").set(1)
    metrics.inflight.inc()
    metrics.journal_depth.set(0)
    metrics.unmetered.inc()
    metrics.shed.labels("timeout").inc()
    metrics.ledger_rows.inc()
    metrics.ledger_orphans.inc()
    metrics.ledger_quarantined.inc()
    metrics.damage.labels("missing").inc()
    metrics.note_levels([Level(a_limit("tokens", 100), 50, None)])
    metrics.publish()
    metrics.show_config(3, "0123456789abcdef")
    return metrics


def test_names_kinds_and_labels_are_the_contracts() -> None:
    assert scraped(exercised()) == CONTRACT


def test_no_label_names_a_user_or_a_key() -> None:
    for _, labels in scraped(exercised()).values():
        assert not labels & {"user", "key", "key_id", "request_id"}


def test_what_has_no_labels_is_there_from_the_start() -> None:
    text = Metrics("1.0").exposition()[0].decode()
    for name in ("aidock_inflight_requests 0.0", "aidock_ledger_rows_total 0.0", "aidock_journal_depth 0.0"):
        assert f"\n{name}\n" in text
    assert "process_resident_memory_bytes" in text


def test_departments_past_two_hundred_share_a_label_and_lose_no_count() -> None:
    metrics = Metrics("1.0")
    for number in range(300):
        for _ in range(2):
            metrics.series(OK._replace(department=f"d{number}")).requests.inc()
    counted = {
        dict(labels)["department"]: count
        for (name, labels), count in samples(metrics).items()
        if name == "aidock_requests_total"
    }
    assert len(counted) == 201
    assert counted["other"] == 200
    assert sum(counted.values()) == 600
    assert metrics.series(OK._replace(department="d7", code="429")).requests is not None


def test_a_label_may_hold_anything_a_name_may() -> None:
    metrics = Metrics("1.0")
    odd = 'a"b\\c\nd é'
    metrics.series(OK._replace(department=odd, model=odd)).requests.inc()
    found = [dict(labels) for name, labels in samples(metrics) if name == "aidock_requests_total"]
    assert (found[0]["department"], found[0]["model"]) == (odd, odd)


def test_a_histogram_counts_into_the_bucket_whose_bound_it_does_not_pass() -> None:
    metrics = Metrics("1.0")
    series = metrics.series(OK)
    for seconds in (0.05, 0.06, 0.1, 700.0):
        series.duration.observe(seconds)
    name, labels = "aidock_request_duration_seconds", {"endpoint": OK.endpoint, "model": "m", "provider": "corp"}
    assert value(metrics, f"{name}_bucket", le="0.05", **labels) == 1
    assert value(metrics, f"{name}_bucket", le="0.1", **labels) == 3
    assert value(metrics, f"{name}_bucket", le="600.0", **labels) == 3
    assert value(metrics, f"{name}_bucket", le="+Inf", **labels) == value(metrics, f"{name}_count", **labels) == 4
    assert value(metrics, f"{name}_sum", **labels) == pytest.approx(700.21)


def test_the_fullest_limit_of_a_kind_is_shown() -> None:
    metrics = Metrics("1.0")
    metrics.note_levels([Level(a_limit("tokens", 100), 20, None), Level(a_limit("tokens", 10), 9, None)])
    metrics.note_levels([Level(a_limit("tokens", 100), 21, None), Level(a_limit("requests", 0), 0, None)])
    metrics.publish()
    assert value(metrics, "aidock_quota_used_ratio", scope="department", metric="tokens") == 0.9
    assert value(metrics, "aidock_quota_used_ratio", scope="department", metric="requests") == 1


def test_only_the_configuration_in_force_is_shown() -> None:
    metrics = Metrics("1.0")
    metrics.show_config(1, "a" * 64)
    metrics.show_config(2, "b" * 64)
    shown = [dict(labels) for name, labels in samples(metrics) if name == "aidock_config_version_info"]
    assert shown == [{"version": "2", "hash": "b" * 12}]


def test_a_metric_is_not_asked_for_with_the_wrong_labels() -> None:
    with pytest.raises(ValueError, match="aidock_fallbacks"):
        Metrics("1.0").fallbacks.labels("m", "too many")


def test_a_scrape_adds_up_the_workers_and_keeps_what_ended_ones_counted(tmp_path: Path) -> None:
    def worker(requests: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.telemetry.counting_process", str(tmp_path), str(requests)]
        root = Path(__file__).parent.parent.parent
        return subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    own = Metrics("1.0", tmp_path)
    own.series(OK).requests.inc()
    own.inflight.inc()
    workers = [worker(10), worker(100)]
    try:
        for each in workers:
            assert each.stdout is not None
            assert each.stdout.readline() == b"ready\n"
        labels = dict(zip(("endpoint", "model", "provider", "department", "code"), OK[:5], strict=True))
        assert value(own, "aidock_requests_total", streamed="true", **labels) == 111
        assert value(own, "aidock_inflight_requests") == 7
        assert value(own, "aidock_config_last_reload_successful") == 0, "one worker could not, so not all could"
        assert value(own, "aidock_build_info", version="1.0") == 1

        own.publish()  # its own file must not be added to itself
        workers[1].communicate(timeout=20)
        assert value(own, "aidock_requests_total", streamed="true", **labels) == 111, "a counter never goes back"
        assert value(own, "aidock_inflight_requests") == 4, "and what ran there runs no more"
        (tmp_path / "1.json").write_bytes(b"{half a fi")
        assert value(own, "aidock_inflight_requests") == 4
    finally:
        for each in workers:
            each.kill()
            each.communicate()

"""Rules of a document: its time zone, the policy chain and the limits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from gateway.core.limits import Limit, Scope
from gateway.core.money import MAX_AMOUNT, micros
from gateway.settings.findings import Findings
from gateway.settings.problems import KeyPath, nearest
from gateway.settings.scalars import Expanded, resolve
from gateway.settings.schema import MEMORY, PolicySettings, QuotaSettings, Settings

DEFAULT_POLICIES = ("model_access", "rate_limit", "concurrency", "quota")

PolicyCheck = Callable[[str, Mapping[str, object]], object]


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """A policy of the chain and what it is told."""

    name: str
    settings: Mapping[str, object] = field(repr=False)


def time_zone(name: str, findings: Findings) -> ZoneInfo | None:
    """The zone by name, None (and a finding) when there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = available_timezones()
        said = f"there is no time zone {findings.shown(('timezone',), name)}"
        findings.refuse(
            ("timezone",), said if known else "this machine has no time zones; install tzdata", nearest(name, known)
        )
        return None


def check_counters(settings: Settings, findings: Findings) -> None:
    """Refuse counters that the workers could not share."""
    if settings.server.workers > 1 and settings.storage.counters.startswith(MEMORY):
        findings.refuse(
            ("server", "workers"),
            "several workers cannot share counters in memory; set storage.counters to a Redis URL, such as "
            "redis://127.0.0.1:6379/0, or server.workers to 1",
        )


def policy_chain(
    entries: tuple[PolicySettings, ...] | None,
    findings: Findings,
    known: Collection[str],
    check: PolicyCheck | None,
) -> Iterator[PolicyEntry]:
    """The chain as stated, else the default one."""
    if entries is None:
        yield from (PolicyEntry(name, MappingProxyType({})) for name in DEFAULT_POLICIES if name in known)
        return
    seen: dict[str, KeyPath] = {}
    for index, entry in enumerate(entries):
        path: KeyPath = ("policies", index)
        if entry.name not in known:
            said = f"there is no policy {findings.shown(path, entry.name)}; there are {', '.join(sorted(known))}"
            findings.refuse(path, said, nearest(entry.name, known))
            continue
        if entry.name in seen:
            findings.refuse(path, f"is in the chain twice; the other place is {findings.place(seen[entry.name])}")
        seen.setdefault(entry.name, path)
        made = PolicyEntry(entry.name, _native(entry.settings))
        try:
            if check is not None:
                check(made.name, made.settings)
        except ValueError as error:
            findings.refuse((*path, entry.name), str(error))
        yield made


def _native(value: Any) -> Any:
    """A policy's settings as it expects them: what came from the environment as if written in its place, and
    fractions as floats."""
    if isinstance(value, Expanded):
        value = resolve(value)
    if isinstance(value, Mapping):
        return MappingProxyType({key: _native(inner) for key, inner in value.items()})
    if isinstance(value, list):
        return tuple(_native(inner) for inner in value)
    return value if value is None or isinstance(value, bool | int | str) else float(value)


def limits(quotas: tuple[QuotaSettings, ...], models: Collection[str], findings: Findings) -> Iterator[Limit]:
    """The quotas as limits. `models` are the public names that the scope model knows."""
    seen: dict[tuple[str, ...], KeyPath] = {}
    for index, quota in enumerate(quotas):
        path: KeyPath = ("quotas", index)
        subject, window = _subject(quota), quota.window or "none"
        _check_subject(quota.scope, subject, path, models, findings)
        _check_amount(quota, path, findings)
        key = (quota.scope, subject, quota.metric, window)
        if key in seen:
            findings.refuse(path, f"limits the same as another entry; the other place is {findings.place(seen[key])}")
        seen.setdefault(key, path)
        amount = micros(quota.limit) if quota.metric == "cost" else int(quota.limit)
        yield Limit(quota.scope, subject, quota.metric, window, amount, quota.action)


def _subject(quota: QuotaSettings) -> str:
    """Whom the limit binds, by the name that the database knows them by: addresses are in lower case there."""
    subject = quota.subject or ""
    return subject.lower() if quota.scope == "user" else subject


def _check_subject(scope: Scope, subject: str, path: KeyPath, models: Collection[str], findings: Findings) -> None:
    where = (*path, "subject")
    if scope == "global":
        if subject:
            findings.refuse(where, "the global scope takes no subject")
    elif not subject:
        findings.refuse(where, f"is required: which {scope} the limit binds")
    elif scope == "model" and subject not in models:
        findings.refuse(where, f"there is no model {findings.shown(where, subject)}", nearest(subject, models))


def _check_amount(quota: QuotaSettings, path: KeyPath, findings: Findings) -> None:
    if quota.metric == "parallel" and quota.window is not None:
        findings.refuse((*path, "window"), "parallel takes no window")
    if quota.metric != "parallel" and quota.window is None:
        findings.refuse((*path, "window"), "is required: minute, hour, day, month or total")
    if quota.metric == "cost":
        if micros(quota.limit) >= MAX_AMOUNT:
            findings.refuse((*path, "limit"), f"must be less than {MAX_AMOUNT // 1_000_000} dollars")
    elif quota.limit != quota.limit.to_integral_value():
        findings.refuse((*path, "limit"), "must be a whole number; only cost takes fractions")

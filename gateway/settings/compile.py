"""A checked document -> the frozen snapshot that serves. References are followed here, so this is where a document
whose values are all well-formed can still be refused."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from types import MappingProxyType
from zoneinfo import ZoneInfo

from gateway.core.deployment import CACHE, REASONS, CacheRule, Model, Reason, Route, Target, Upstream
from gateway.core.limits import Limit
from gateway.core.money import UNPRICED, PriceSchedule
from gateway.paths import config_file, vendors_file
from gateway.settings.findings import Findings
from gateway.settings.load import Document
from gateway.settings.problems import ConfigError, KeyPath, nearest
from gateway.settings.resilience import CooldownSettings, FallbackSettings
from gateway.settings.rules import PolicyCheck, PolicyEntry, check_counters, limits, policy_chain, time_zone
from gateway.settings.schema import (
    CacheSettings,
    ModelSettings,
    ProviderSettings,
    RouteSettings,
    ServerSettings,
    Settings,
    StorageSettings,
)
from gateway.settings.show import fingerprint
from gateway.settings.tables import PriceBook, Vendors, schedule
from gateway.settings.upstreams import UpstreamBuilder, cooldown, deadlines, retries

DEMO = "demo"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of the configuration, ready to serve. `hash` identifies what it says, `origin` is its file."""

    version: int
    hash: str
    server: ServerSettings
    storage: StorageSettings
    zone: ZoneInfo
    upstreams: Mapping[str, Upstream]
    routes: Mapping[str, Route]
    models: Mapping[str, Model]
    policies: tuple[PolicyEntry, ...]
    limits: tuple[Limit, ...]
    warnings: tuple[str, ...]
    origin: str | None


def compile_document(
    document: Document,
    *,
    version: int,
    known_policies: Collection[str],
    known_dialects: Collection[str],
    check_policy: PolicyCheck | None = None,
) -> Snapshot:
    """Follow every reference and make the snapshot. `check_policy` is tried with each policy's name and settings and
    raises `ValueError` where they do not fit. Raises `ConfigError` with everything that is wrong."""
    settings = _with_demo(document.settings)
    findings = Findings(document)
    compiler = _Compiler(settings, findings, known_dialects)
    zone = time_zone(settings.timezone, findings)
    check_counters(settings, findings)
    upstreams = compiler.upstreams()
    targets = compiler.targets(upstreams)
    routes = compiler.routes(targets)
    policies = tuple(policy_chain(settings.policies, findings, known_policies, check_policy))
    bounds = tuple(limits(settings.quotas, {*targets, *routes}, findings))
    if findings.problems or zone is None:
        raise ConfigError(findings.problems)
    return Snapshot(
        version=version,
        hash=fingerprint(document),
        server=settings.server,
        storage=settings.storage,
        zone=zone,
        upstreams=MappingProxyType(upstreams),
        routes=MappingProxyType(routes),
        models=MappingProxyType({name: deployments[0].model for name, deployments in targets.items()}),
        policies=policies,
        limits=bounds,
        warnings=tuple(findings.warnings),
        origin=document.origin,
    )


def _with_demo(settings: Settings) -> Settings:
    """Without any model there is the built-in one, so that a fresh start has something to answer."""
    if settings.models:
        return settings
    demo = ModelSettings(model_id=DEMO, display_name="Demo", provider=DEMO)
    tireless = ProviderSettings(dialect=DEMO, cooldown=CooldownSettings(failures=0))
    providers = {DEMO: tireless, **settings.providers}
    return settings.model_copy(update={"models": (demo,), "providers": providers})


class _Compiler:
    """Providers, models and routes, each built from the ones before it."""

    def __init__(self, settings: Settings, findings: Findings, known_dialects: Collection[str]) -> None:
        self._settings = settings
        self._findings = findings
        self._vendors = Vendors.read(vendors_file())
        self._prices = PriceBook.read(config_file("prices.yaml"))
        self._builder = UpstreamBuilder(findings, self._vendors, known_dialects)
        document_origin = findings.document.origin
        self._source = PurePath(document_origin).name if document_origin else "environment"

    def upstreams(self) -> dict[str, Upstream]:
        """Every provider by name, with those that models bring along under the model's own name."""
        built: dict[str, Upstream | None] = {}
        for name, provider in self._settings.providers.items():
            path = ("providers", name)
            self._check_name(name, path)
            self._check_free(name, path)
            built[name] = self._builder.build(name, provider, path)
        for index, model in enumerate(self._settings.models):
            if model.base_url is not None and model.provider is None and model.model_id not in built:
                provider = ProviderSettings(
                    dialect="openai",
                    base_url=model.base_url,
                    api_key=model.api_key,
                    api_key_env_var=model.api_key_env_var,
                )
                self._check_free(model.model_id, ("models", index, "model_id"))
                built[model.model_id] = self._builder.build(model.model_id, provider, ("models", index), inline=True)
        return {name: upstream for name, upstream in built.items() if upstream is not None}

    def targets(self, upstreams: Mapping[str, Upstream]) -> dict[str, tuple[Target, ...]]:
        """Every model by its id, as its provider serves it: a target for each key."""
        first_seen: dict[str, KeyPath] = {}
        built: dict[str, tuple[Target, ...]] = {}
        for index, model in enumerate(self._settings.models):
            path: KeyPath = ("models", index)
            if model.model_id in first_seen:
                other = self._findings.place(first_seen[model.model_id])
                self._findings.refuse((*path, "model_id"), f"is used twice; the other place is {other}")
                continue
            first_seen[model.model_id] = (*path, "model_id")
            upstream = upstreams.get(self._provider_name(model, path) or "")
            if upstream is not None:
                built[model.model_id] = self._deployments(model, path, upstream)
        return built

    def routes(self, targets: Mapping[str, tuple[Target, ...]]) -> dict[str, Route]:
        """Every public name: the models themselves, then the routes over them."""
        built = {
            model.model_id: self._model_route(model, ("models", index), targets)
            for index, model in enumerate(self._settings.models)
            if model.model_id in targets
        }
        at = {model.model_id: ("models", index, "model_id") for index, model in enumerate(self._settings.models)}
        for name, route in self._settings.routes.items():
            path: KeyPath = ("routes", name)
            self._check_name(name, path)
            if name in at:
                place = self._findings.place(at[name])
                self._findings.refuse(path, f"a model has this name too; the other place is {place}")
            else:
                built[name] = self._route(name, route, path, targets)
        return built

    def _provider_name(self, model: ModelSettings, path: KeyPath) -> str | None:
        """The provider of a model, None (and a finding) when that is not clear."""
        if model.provider is None:
            if model.base_url is None:
                self._findings.refuse(path, "needs a provider, or a base_url of its own")
            elif model.model_id in self._settings.providers:
                place = self._findings.place(("providers", model.model_id))
                said = f"a provider has this name too; the other place is {place}; give this model 'provider'"
                self._findings.refuse((*path, "model_id"), said)
                return None
            return model.model_id
        for own in ("base_url", "api_key", "api_key_env_var"):
            if getattr(model, own) is not None:
                self._findings.refuse((*path, own), "belongs to the provider; keep it there, or leave out 'provider'")
        return self._reference(model.provider, (*path, "provider"), "provider", self._settings.providers)

    def _deployments(self, model: ModelSettings, path: KeyPath, upstream: Upstream) -> tuple[Target, ...]:
        target = self._target(model, path, upstream)
        keys = upstream.api_keys
        if len(keys) < 2:
            return (target,)
        return tuple(
            replace(target, upstream=replace(upstream, api_key=key), key=number, memo={})
            for number, key in enumerate(keys, start=1)
        )

    def _target(self, model: ModelSettings, path: KeyPath, upstream: Upstream) -> Target:
        upstream_model = model.upstream_model or model.model_id
        compiled = Model(
            model_id=model.model_id,
            display_name=model.display_name or model.model_id,
            supported_roles=frozenset(model.supported_roles),
            prices=self._price(model, path, upstream, upstream_model),
            max_output_tokens=model.max_output_tokens,
            context_window=model.context_window,
        )
        return Target(
            model=compiled,
            upstream=upstream,
            upstream_model=upstream_model,
            deadlines=deadlines(model, upstream.deadlines),
            on_client_gone=model.on_client_gone or upstream.on_client_gone,
            retries=retries(model, upstream.retries),
            cooldown=cooldown(model, upstream.cooldown),
        )

    def _price(self, model: ModelSettings, path: KeyPath, upstream: Upstream, upstream_model: str) -> PriceSchedule:
        """The model's own price, else what the price book says of the vendor's model, else none."""
        if model.price is not None:
            starts = [entry.since for entry in model.price]
            for index, start in enumerate(starts):
                if start in starts[:index]:
                    self._findings.refuse((*path, "price", index), "another price holds from the same day")
            return schedule(model.price, self._source)
        vendor = upstream.vendor or upstream.name
        row = self._vendors.rows.get(vendor)
        seller = row.prices if row is not None and row.prices else vendor
        found = (self._prices.find(seller, name) for name in (upstream_model, model.model_id))
        return next((prices for prices in found if prices is not None), UNPRICED)

    def _model_route(self, model: ModelSettings, path: KeyPath, targets: Mapping[str, tuple[Target, ...]]) -> Route:
        own = targets[model.model_id]
        seen = {model.model_id: (*path, "model_id")}
        spare = self._fallbacks(model.fallbacks, path, seen, targets)
        return Route(model.model_id, own, (1,) * len(own), spare, cache=_cache(model.cache))

    def _route(
        self, name: str, route: RouteSettings, path: KeyPath, targets: Mapping[str, tuple[Target, ...]]
    ) -> Route:
        seen: dict[str, KeyPath] = {}
        for index, target in enumerate(route.targets):
            self._once(target.model, (*path, "targets", index, "model"), seen)
        shared = [target for target in route.targets if target.model in targets]
        several = math.lcm(*(len(targets[target.model]) for target in shared))  # a model's keys share its weight
        weighted = [
            (deployment, target.weight * several // len(targets[target.model]))
            for target in shared
            for deployment in targets[target.model]
        ]
        return Route(
            name,
            tuple(deployment for deployment, _ in weighted),
            tuple(weight for _, weight in weighted),
            self._fallbacks(route.fallbacks, path, seen, targets),
            route.strategy,
            _cache(route.cache),
        )

    def _fallbacks(
        self,
        stated: FallbackSettings,
        path: KeyPath,
        shared: Mapping[str, KeyPath],
        targets: Mapping[str, tuple[Target, ...]],
    ) -> Mapping[Reason, tuple[Target, ...]]:
        """The fallbacks by reason; a model that shares the load, or is there already, is none."""
        built: dict[Reason, tuple[Target, ...]] = {}
        for reason in REASONS:
            models: tuple[str, ...] | None = getattr(stated, reason)
            if models is None:
                continue
            seen = dict(shared)
            for index, model in enumerate(models):
                self._once(model, self._fallback_path(path, reason, index), seen)
            built[reason] = tuple(target for model in models for target in targets.get(model, ()))
        return MappingProxyType(built)

    def _fallback_path(self, path: KeyPath, reason: Reason, index: int) -> KeyPath:
        """Where a fallback is written: a list may stand for the default."""
        below = (*path, "fallbacks", reason)
        return (*below, index) if below in self._findings.document.tree.values else (*path, "fallbacks", index)

    def _once(self, model: str, path: KeyPath, seen: dict[str, KeyPath]) -> None:
        """A model that a route names: it must be there, and not be named before."""
        self._reference(model, path, "model", [entry.model_id for entry in self._settings.models])
        if model in seen:
            self._findings.refuse(path, f"is listed twice; the other place is {self._findings.place(seen[model])}")
        seen.setdefault(model, path)

    def _reference(self, name: str, path: KeyPath, kind: str, known: Collection[str]) -> str | None:
        if name in known:
            return name
        self._findings.refuse(path, f"there is no {kind} {self._findings.shown(path, name)}", nearest(name, known))
        return None

    def _check_name(self, name: str, path: KeyPath) -> None:
        if not name or len(name) > 256 or not name.isprintable() or name != name.strip():
            self._findings.refuse(path, "a name must be 1 to 256 printable characters")

    def _check_free(self, name: str, path: KeyPath) -> None:
        if name == CACHE:
            self._findings.refuse(path, f"rows say '{CACHE}' of answers that no provider gave; choose another name")


def _cache(settings: CacheSettings | None) -> CacheRule | None:
    return None if settings is None else CacheRule(settings.seconds, settings.scope, settings.when == "always")

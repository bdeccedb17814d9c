"""Finds what is extended by adding a file: endpoints, providers and policies, each by its module's name.

Modules whose name starts with an underscore are helpers, not plug-ins. Providers and policies may also come from other
packages, by an entry point under their name: a provider's is its `PROVIDER`, a policy's its `create`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from gateway.core.endpoint import Endpoint
from gateway.core.ports import Policy, Provider
from gateway.trial import Trial

_SHADOW = "shadow"
"""The setting that every policy has, whether it knows of it or not."""


_GROUPS = {"providers": "aidock.providers", "policies": "aidock.policies"}
"""Where other packages state theirs."""


def modules(package: str) -> dict[str, ModuleType]:
    """A package's public modules by name, imported."""
    home = import_module(package)
    names = sorted(found.name for found in pkgutil.iter_modules(home.__path__))
    return {name: import_module(f"{package}.{name}") for name in names if not name.startswith("_")}


def names(package: str) -> frozenset[str]:
    """The names of ours alone; imports nothing but the package."""
    home = import_module(package)
    return frozenset(found.name for found in pkgutil.iter_modules(home.__path__) if not found.name.startswith("_"))


def extensions(package: str) -> Mapping[str, EntryPoint]:
    """What other packages add to `providers` or `policies`, by name. Raises `ValueError` where a name is taken."""
    taken = dict.fromkeys(names(package), "AI Dock itself")
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=_GROUPS[package]):
        if point.name in taken:
            raise ValueError(f"{_source(point)} adds '{point.name}' to {package}, which {taken[point.name]} has")
        taken[point.name] = _source(point)
        found[point.name] = point
    return found


def endpoints() -> list[Endpoint]:
    """Every endpoint that `gateway/endpoints` states."""
    return [module.ENDPOINT for module in modules("gateway.endpoints").values()]


def providers() -> Mapping[str, Provider]:
    """Every dialect, by its name. Raises `ValueError` for an extension that cannot be used."""
    found: list[Provider] = [module.PROVIDER for module in modules("providers").values()]
    ours = {provider.dialect: provider for provider in found}
    return ours | {name: _loaded(point) for name, point in extensions("providers").items()}


def policy_names() -> frozenset[str]:
    """Every policy that a chain may name. Raises `ValueError` for extensions whose name is taken."""
    return names("policies") | frozenset(extensions("policies"))


def policy(name: str, settings: Mapping[str, object]) -> Policy:
    """A policy with its settings; with `shadow: true` one that is asked and never obeyed. Raises
    `ValueError` saying which setting is wrong and why."""
    own = {key: value for key, value in settings.items() if key != _SHADOW}
    extension = None if name in names("policies") else extensions("policies").get(name)
    create = import_module(f"policies.{name}").create if extension is None else _loaded(extension)
    made: Policy = create(own)
    match settings.get(_SHADOW, False):
        case True:
            return Trial(made)
        case False:
            return made
    raise ValueError(f"{name}.{_SHADOW} must be true or false")


def _loaded(point: EntryPoint) -> Any:
    """What an entry point stands for. Code of others may fail in any way, and a gateway must not start without it."""
    try:
        return point.load()
    except Exception as error:
        raise ValueError(f"'{point.name}' of {_source(point)} cannot be loaded: {error!r}") from error


def _source(point: EntryPoint) -> str:
    return f"the package {point.dist.name}" if point.dist is not None else point.value

"""Finds what is extended by adding a file: endpoints, providers and policies, each by its module's name.

Modules whose name starts with an underscore are helpers, not plug-ins.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

from gateway.core.endpoint import Endpoint
from gateway.core.ports import Policy, Provider
from gateway.trial import Trial

_SHADOW = "shadow"
"""The setting that every policy has, whether it knows of it or not."""


def modules(package: str) -> dict[str, ModuleType]:
    """A package's public modules by name, imported."""
    home = import_module(package)
    names = sorted(found.name for found in pkgutil.iter_modules(home.__path__))
    return {name: import_module(f"{package}.{name}") for name in names if not name.startswith("_")}


def names(package: str) -> frozenset[str]:
    """The names alone; imports nothing but the package."""
    home = import_module(package)
    return frozenset(found.name for found in pkgutil.iter_modules(home.__path__) if not found.name.startswith("_"))


def endpoints() -> list[Endpoint]:
    """Every endpoint that `gateway/endpoints` states."""
    return [module.ENDPOINT for module in modules("gateway.endpoints").values()]


def providers() -> Mapping[str, Provider]:
    """Every dialect in `providers/`, by its name."""
    found: list[Provider] = [module.PROVIDER for module in modules("providers").values()]
    return {provider.dialect: provider for provider in found}


def policy(name: str, settings: Mapping[str, object]) -> Policy:
    """A policy of `policies/` with its settings; with `shadow: true` one that is asked and never obeyed. Raises
    `ValueError` saying which setting is wrong and why."""
    own = {key: value for key, value in settings.items() if key != _SHADOW}
    made: Policy = import_module(f"policies.{name}").create(own)
    match settings.get(_SHADOW, False):
        case True:
            return Trial(made)
        case False:
            return made
    raise ValueError(f"{name}.{_SHADOW} must be true or false")

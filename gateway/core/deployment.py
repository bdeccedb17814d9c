"""What a configuration compiles to: providers, models and the targets a call can go to.

These are immutable for the life of one configuration version. The `memo`s are the exception: scratch places for what is
derived once, such as the request head with its credential.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.core.credentials import Credential
from gateway.core.money import UNPRICED, PriceSchedule
from gateway.core.secret import Secret

OnClientGone = Literal["cancel", "drain"]


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds an upstream may take: to accept a connection, to send its first byte, between two bytes."""

    connect: float = 5.0
    first_byte: float = 600.0
    idle: float = 120.0


@dataclass(frozen=True, slots=True)
class Tls:
    """How an upstream is met over TLS. Files are PEM; None means the system's certificates, and no client one."""

    ca_file: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Upstream:
    """A configured provider: where it is, what it speaks, and what is special about it.

    `quirks` are the vendor's deviations from its dialect, by name; `vendors.yaml` says which exist. `credential` is for
    providers that want more than a key.
    """

    name: str
    dialect: str
    base_url: str
    api_key: Secret | None = None
    credential: Credential | None = None
    vendor: str | None = None
    quirks: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    deadlines: Deadlines = Deadlines()
    tls: Tls = Tls()
    max_retries: int = 1
    on_client_gone: OnClientGone = "cancel"


@dataclass(frozen=True, slots=True)
class Model:
    """A model clients can name."""

    model_id: str
    display_name: str
    supported_roles: frozenset[str]
    prices: PriceSchedule = UNPRICED
    max_output_tokens: int | None = None
    context_window: int | None = None
    created: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Target:
    """One place a call can be sent: a model as one upstream serves it."""

    model: Model
    upstream: Upstream
    upstream_model: str
    deadlines: Deadlines
    on_client_gone: OnClientGone = "cancel"
    max_retries: int = 1
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, eq=False, slots=True)
class Route:
    """A public name and the targets behind it.

    `targets` share the load by `weights`; `fallbacks` follow, in order, when none of them could answer. A plain
    model is a route with one target.
    """

    name: str
    targets: tuple[Target, ...]
    weights: tuple[int, ...]
    fallbacks: tuple[Target, ...] = ()
    every_target: tuple[Target, ...] = field(init=False)
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "every_target", self.targets + self.fallbacks)

    def only(self, wanted: Callable[[Target], bool]) -> Route:
        """The route less the targets that are not wanted; itself where all are. Fallbacks move up where no target is
        left."""
        shared = [pair for pair in zip(self.targets, self.weights, strict=True) if wanted(pair[0])]
        fallbacks = tuple(filter(wanted, self.fallbacks))
        if len(shared) + len(fallbacks) == len(self.every_target):
            return self
        if not shared and fallbacks:
            return Route(self.name, fallbacks[:1], (1,), fallbacks[1:])
        return Route(self.name, tuple(target for target, _ in shared), tuple(weight for _, weight in shared), fallbacks)

"""What a configuration compiles to: providers, models and the targets a call can go to.

These are immutable for the life of one configuration version. The `memo`s are the exception: scratch places for what is
derived once, such as the request head with its credential.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

from gateway.core.credentials import Credential
from gateway.core.money import UNPRICED, PriceSchedule
from gateway.core.secret import Secret

OnClientGone = Literal["cancel", "drain"]
Strategy = Literal["order", "weight", "latency", "cost"]
Reason = Literal["default", "error", "timeout", "rate_limit", "context_window", "content_policy", "quota"]
"""Why a call goes to a fallback; `default` stands for the first three where a route says nothing else."""

STRATEGIES: tuple[Strategy, ...] = ("order", "weight", "latency", "cost")
REASONS: tuple[Reason, ...] = ("default", "error", "timeout", "rate_limit", "context_window", "content_policy", "quota")
CacheScope = Literal["user", "department", "everyone"]

CACHE = "cache"
"""The provider of answers from the cache, in rows, metrics and headers; no other may have the name."""


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


class Retries(NamedTuple):
    """How often a deployment is tried again, by what went wrong: it was not reached, it had no room, it failed and
    said that it may do better now, it took too long."""

    connect: int = 1
    rate_limit: int = 1
    server_error: int = 1
    timeout: int = 0

    def up_to(self, most: int) -> Retries:
        """None of them more than `most`."""
        return Retries(*(min(each, most) for each in self))


class Cooldown(NamedTuple):
    """A deployment rests for so many `seconds` after so many `failures` in a row; 0 failures: never."""

    failures: int = 3
    seconds: float = 30.0


USUAL_RETRIES = Retries()
USUAL_COOLDOWN = Cooldown()


class HealthCheck(NamedTuple):
    """A GET of a path below the base URL (None: the dialect's own), every so many seconds."""

    interval: float = 30.0
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Upstream:
    """A configured provider: where it is, what it speaks, and what is special about it.

    `quirks` are the vendor's deviations from its dialect, by name; `vendors.yaml` says which exist. `credential` is for
    providers that want more than a key. Where there are several `api_keys`, each target has one as its `api_key`.
    """

    name: str
    dialect: str
    base_url: str
    api_key: Secret | None = None
    api_keys: tuple[Secret, ...] = ()
    credential: Credential | None = None
    vendor: str | None = None
    quirks: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    deadlines: Deadlines = Deadlines()
    tls: Tls = Tls()
    retries: Retries = USUAL_RETRIES
    cooldown: Cooldown = USUAL_COOLDOWN
    health_check: HealthCheck | None = None
    on_client_gone: OnClientGone = "cancel"


class Deployment(NamedTuple):
    """What can be well or ill: a provider's model behind one credential at one address. The digest tells the last two
    apart and gives neither away."""

    provider: str
    upstream_model: str
    digest: str


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
    """One place a call can be sent: a model as one upstream serves it, with one of its keys.

    `key` is the key's number where the provider has several, from 1; else 0. Targets of one model differ in it only.
    """

    model: Model
    upstream: Upstream
    upstream_model: str
    deadlines: Deadlines
    on_client_gone: OnClientGone = "cancel"
    retries: Retries = USUAL_RETRIES
    cooldown: Cooldown = USUAL_COOLDOWN
    key: int = 0
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)
    deployment: Deployment = field(init=False)

    def __post_init__(self) -> None:
        deployment = Deployment(self.upstream.name, self.upstream_model, _digest(self.upstream))
        object.__setattr__(self, "deployment", deployment)


def _digest(upstream: Upstream) -> str:
    """A name for where an upstream is and by what credential it is met."""
    credential = upstream.credential
    secrets = (
        [upstream.api_key] if credential is None else [getattr(credential, each.name) for each in fields(credential)]
    )
    shown = [secret.reveal() if isinstance(secret, Secret) else str(secret) for secret in secrets]
    return hashlib.blake2b("\0".join([upstream.base_url, *shown]).encode(), digest_size=8).hexdigest()


NO_FALLBACKS: Mapping[Reason, tuple[Target, ...]] = {}


@dataclass(frozen=True, slots=True)
class CacheRule:
    """Whose answers are kept for whom, and for how many seconds; `always`, or for those who ask for it."""

    seconds: int
    scope: CacheScope = "user"
    always: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Route:
    """A public name and the targets behind it.

    `targets` share the load: by `weights`, in order, or the quickest or cheapest first, as `strategy` says. `fallbacks`
    follow, in order, when none of them could answer, by the reason why. A plain model is a route with one model.
    Without `cache` no answer is kept.
    """

    name: str
    targets: tuple[Target, ...]
    weights: tuple[int, ...]
    fallbacks: Mapping[Reason, tuple[Target, ...]] = field(default_factory=lambda: NO_FALLBACKS)
    strategy: Strategy = "weight"
    cache: CacheRule | None = None
    every_target: tuple[Target, ...] = field(init=False)
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        spare = (target for targets in self.fallbacks.values() for target in targets)
        object.__setattr__(self, "every_target", tuple(dict.fromkeys((*self.targets, *spare))))

    def only(self, wanted: Callable[[Target], bool]) -> Route:
        """The route less the targets that are not wanted; itself where all are. Where no target is left that shared
        the load, the first fallbacks for an error do."""
        if all(map(wanted, self.every_target)):
            return self
        shared = [pair for pair in zip(self.targets, self.weights, strict=True) if wanted(pair[0])]
        fallbacks = {reason: tuple(filter(wanted, targets)) for reason, targets in self.fallbacks.items()}
        if not shared:
            spare = fallbacks.get("error") or fallbacks.get("default") or ()
            shared = [(target, 1) for target in spare if target.model is spare[0].model]
        return Route(
            self.name,
            tuple(target for target, _ in shared),
            tuple(weight for _, weight in shared),
            fallbacks,
            self.strategy,
            self.cache,
        )

    def of(self, targets: Iterable[Target]) -> Route:
        """The route as if it had one model's targets alone, the same one every time."""
        targets = tuple(targets)
        if targets == self.every_target:
            return self
        known = ("of", targets[0].model.model_id)
        found: Route | None = self.memo.get(known)
        if found is None:
            found = self.memo[known] = Route(self.name, targets, (1,) * len(targets), cache=self.cache)
        return found


class Leg(NamedTuple):
    """A part of a call's way: one model's deployments in the order to try them.

    `route` has that model alone: what the call is estimated, checked and reserved by. The call is booked under `name`.
    `reason` is None on the route's own targets. `anyway`: tried although it should rest, because nothing else is left.
    Without targets nothing can take the call before `wait` seconds have passed.
    """

    route: Route
    name: str
    targets: Sequence[Target]
    reason: Reason | None = None
    anyway: bool = False
    wait: float = 0.0

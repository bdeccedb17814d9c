"""Limits, claims on them, and what a counter store says to a claim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Scope = Literal["global", "department", "user", "key", "model"]
Metric = Literal["requests", "tokens", "cost", "parallel"]
Window = Literal["minute", "hour", "day", "month", "total", "none"]
Action = Literal["deny", "warn", "shadow"]

SCOPES: tuple[Scope, ...] = ("global", "department", "user", "key", "model")
METRICS: tuple[Metric, ...] = ("requests", "tokens", "cost", "parallel")
WINDOWS: tuple[Window, ...] = ("minute", "hour", "day", "month", "total", "none")
ACTIONS: tuple[Action, ...] = ("deny", "warn", "shadow")


@dataclass(frozen=True, slots=True)
class Limit:
    """A rule: within one `window`, `subject` may use at most `amount` of `metric`.

    `amount` is an integer: requests, tokens, micro-dollars, or calls at once. `subject` is the public name (a
    department, a user, a key's public id, a model id; empty for the global scope); `label` is how messages name it.
    The window of `parallel` is `none`. Only `deny` refuses; the other actions count and report.
    """

    scope: Scope
    subject: str
    metric: Metric
    window: Window
    amount: int
    action: Action = "deny"

    @property
    def label(self) -> str:
        return f"{self.scope} {self.subject}" if self.subject else self.scope


@dataclass(frozen=True, slots=True)
class LimitSet:
    """The limits that bind one caller on one model, sorted by the policy that enforces them."""

    rate: tuple[Limit, ...] = ()
    quota: tuple[Limit, ...] = ()
    parallel: tuple[Limit, ...] = ()


NO_LIMITS = LimitSet()


class Claim(NamedTuple):
    """A wish to hold `amount` of a limit's metric until the call settles."""

    limit: Limit
    amount: int


class Level(NamedTuple):
    """Where a limit stands: `used` is settled and reserved together, `resets_in` seconds (None: never by itself)."""

    limit: Limit
    used: int
    resets_in: int | None

    @property
    def remaining(self) -> int:
        return max(0, self.limit.amount - self.used)


class Granted(NamedTuple):
    """Every claim is held. `levels` stand after the hold, in the claims' order; `over` are the indexes of limits
    that a `warn` or `shadow` claim has gone past. `at` is the moment, in unix seconds, whose windows hold the claims:
    the one that was asked for, unless the store knows the time better."""

    levels: tuple[Level, ...]
    over: tuple[int, ...] = ()
    at: float = 0.0


class Denied(NamedTuple):
    """Nothing is held. `level` is the first limit without room, before the claim."""

    level: Level


class Actual(NamedTuple):
    """What a call really used, by metric. `parallel` always settles to nothing."""

    requests: int = 0
    tokens: int = 0
    cost: int = 0

    def of(self, metric: Metric) -> int:
        return 0 if metric == "parallel" else int(getattr(self, metric))


NOTHING = Actual()


class Count(NamedTuple):
    """A limit's counter in one turn of its window, `starts_at` to `ends_at` (None: for ever), both unix seconds.

    What calls created before `since` have used is the ledger's to say, and `based` tells whether it has been asked;
    what later calls use is posted when they settle. `settled` is both together, `reserved` what running calls hold.
    """

    limit: Limit
    starts_at: float
    ends_at: float | None
    since: float
    based: bool
    settled: int
    reserved: int


class Base(NamedTuple):
    """What the ledger says that calls created before a counter's `since` have used."""

    counter: Count
    used: int

"""How deployments fare: what rests after failures, what is on trial, how quick each is. One object per process.

It is known by deployment, not by target, so it survives reloads, and every model behind one credential shares it. All
of it is synchronous arithmetic: it is asked and told on the hot path.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

from gateway.core.deployment import Deployment, Target
from gateway.routing import Kind, Standing

_CREDENTIAL_S = 300.0
"""How long a deployment rests whose upstream does not take our credential, or wants payment: nothing but a person
mends that."""

_LONGEST_BAR_S = 300.0
"""The longest that an upstream's word keeps its deployment from being tried."""

_PROBED_S = 1.0
"""When to come again where a deployment is on trial."""

_NEWEST = 0.2
"""The weight of the newest time to the first byte in their moving average."""

_COUNTED = frozenset({"connect", "forbidden", "rate_limit", "server_error", "timeout", "broken"})

Admission = Literal["refused", "free", "trial"]


class _Vitals:
    """What is known of one deployment. Moments are on the monotonic clock."""

    __slots__ = ("barred", "failures", "latency", "limited", "on_trial", "until")

    def __init__(self) -> None:
        self.failures = 0
        self.limited = 0
        self.until = 0.0
        self.barred = False
        self.on_trial = False
        self.latency = 0.0


class Health:
    """The `View` that routing has, and who tells it."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(1.0, 1.1),  # noqa: S311  spreads trials, guards nothing
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._vitals: dict[Deployment, _Vitals] = {}

    # What routing asks

    def standing(self, target: Target) -> Standing:
        vitals = self._vitals.get(target.deployment)
        if vitals is None or not vitals.until:
            return Standing.READY
        if vitals.on_trial or self._clock() < vitals.until:
            return Standing.BARRED if vitals.barred else Standing.RESTING
        return Standing.TRIAL

    def latency(self, target: Target) -> float:
        vitals = self._vitals.get(target.deployment)
        return 0.0 if vitals is None else vitals.latency

    def wait(self, target: Target) -> float:
        vitals = self._vitals.get(target.deployment)
        return 0.0 if vitals is None else max(_PROBED_S, vitals.until - self._clock())

    # What the relay asks and tells

    def admit(self, target: Target, *, anyway: bool = False) -> Admission:
        """Leave to try a deployment. A trial is one call's alone until it gives it back."""
        standing = self.standing(target)
        if standing is Standing.TRIAL:
            self._vitals[target.deployment].on_trial = True
            return "trial"
        return "free" if standing is Standing.READY or (anyway and standing is Standing.RESTING) else "refused"

    def give_back(self, target: Target) -> None:
        """A trial is over, whatever came of it."""
        vitals = self._vitals.get(target.deployment)
        if vitals is not None:
            vitals.on_trial = False

    def succeeded(self, target: Target, latency: float | None = None) -> None:
        """It did what it was asked, after so many seconds to its first byte. A call that was under way when its
        upstream barred others does not lift that."""
        vitals = self._vitals.get(target.deployment)
        if vitals is None:
            vitals = self._vitals[target.deployment] = _Vitals()
        if latency is not None:
            vitals.latency = latency if not vitals.latency else vitals.latency + _NEWEST * (latency - vitals.latency)
        vitals.failures = vitals.limited = 0
        if vitals.until and not (vitals.barred and self._clock() < vitals.until):
            vitals.until = 0.0
            vitals.barred = False

    def failed(self, target: Target, kind: Kind, wait: float | None = None) -> None:
        """It did not. `wait`: its upstream said when to come again. Said as often in a row as failures make it rest,
        that bars it; before, it may have been one caller's call that was too large. What the caller did wrong, or asked
        too much of, shows that it is well."""
        cooldown = target.cooldown
        if not cooldown.failures:
            return
        if kind == "credential":
            self._rest(target, max(_CREDENTIAL_S, cooldown.seconds), barred=False)
        elif kind == "rate_limit" and wait is not None:
            vitals = self._vitals.setdefault(target.deployment, _Vitals())
            vitals.limited += 1
            self._rest(target, min(wait, _LONGEST_BAR_S), barred=vitals.limited >= cooldown.failures)
        elif kind not in _COUNTED:
            self.succeeded(target)
        else:
            vitals = self._vitals.setdefault(target.deployment, _Vitals())
            vitals.failures += 1
            if vitals.failures >= cooldown.failures or self._is_tried_again(vitals):
                self._rest(target, cooldown.seconds, barred=False)

    # What the checks tell

    def checked(self, target: Target, *, well: bool) -> None:
        """An active check: one that fails counts like a call, one that works ends a rest early, though not a bar: the
        next call is the trial."""
        vitals = self._vitals.setdefault(target.deployment, _Vitals())
        if not well:
            self.failed(target, "connect")
        elif vitals.until and not vitals.barred:
            vitals.until = min(vitals.until, self._clock())

    # What people ask

    def facts(self, target: Target) -> dict[str, Any]:
        """A deployment's health as JSON has it."""
        vitals = self._vitals.get(target.deployment) or _Vitals()
        standing = self.standing(target)
        return {
            "deployment": target.deployment,
            "health": standing.name.lower(),
            "failures": vitals.failures,
            "rests_for_seconds": round(max(0.0, vitals.until - self._clock()), 3) if vitals.until else None,
            "first_byte_ms": round(vitals.latency * 1000, 1) if vitals.latency else None,
        }

    def up(self, targets: Iterable[Target]) -> dict[tuple[str, str], bool]:
        """Whether a deployment of each model at its provider is well."""
        found: dict[tuple[str, str], bool] = {}
        for target in targets:
            name = (target.model.model_id, target.upstream.name)
            found[name] = found.get(name, False) or self.standing(target) is Standing.READY
        return found

    def keep(self, targets: Iterable[Target]) -> None:
        """Forget what the configuration does not have any more."""
        kept = {target.deployment for target in targets}
        for deployment in [each for each in self._vitals if each not in kept]:
            del self._vitals[deployment]

    def _rest(self, target: Target, seconds: float, *, barred: bool) -> None:
        vitals = self._vitals.setdefault(target.deployment, _Vitals())
        now = self._clock()
        vitals.barred = barred or (vitals.barred and now < vitals.until)
        vitals.until = max(vitals.until, now + seconds * (1.0 if vitals.barred else self._jitter()))

    def _is_tried_again(self, vitals: _Vitals) -> bool:
        """Whether it had rested when it failed once more."""
        return vitals.until > 0 and self._clock() >= vitals.until

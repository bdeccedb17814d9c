"""Which limits bind whom: those of the configuration file and those set by hand, in one book."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable

from gateway.core.limits import ACTIONS, Limit, LimitSet, Metric, Scope, Window
from gateway.core.principal import Principal

MAX_REMEMBERED = 50_000

_LOG = logging.getLogger("aidock.identity")

_Counter = tuple[Scope, str, Metric, Window]


class LimitBook:
    """Answers from memory. What was worked out once stands until the limits, of either origin, are others."""

    def __init__(self, file_limits: Callable[[], tuple[Limit, ...]]) -> None:
        self._file_limits = file_limits
        self._seen: tuple[Limit, ...] = ()
        self._stored: tuple[Limit, ...] = ()
        self._by_subject: dict[tuple[Scope, str], list[Limit]] = {}
        self._sets: dict[tuple[str, str, str, str], LimitSet] = {}
        self._index()

    def load(self, stored: tuple[Limit, ...]) -> None:
        """Take the limits that were set by hand, in place of those before."""
        self._stored = stored
        self._index()

    def limits(self, principal: Principal, model_id: str) -> LimitSet:
        """What binds a caller on a model, from the widest scope to the narrowest."""
        if self._file_limits() is not self._seen:
            self._index()
        name = (principal.key_id, principal.user, principal.department, model_id)
        known = self._sets.get(name)
        if known is None:
            if len(self._sets) >= MAX_REMEMBERED:
                self._sets.clear()
            known = self._sets[name] = self._work_out(principal, model_id)
        return known

    def _work_out(self, principal: Principal, model_id: str) -> LimitSet:
        subjects: list[tuple[Scope, str]] = [
            ("global", ""),
            ("department", principal.department),
            ("user", principal.user),
            ("key", principal.key_id),
            ("model", model_id),
        ]
        return _sorted(limit for subject in subjects for limit in self._by_subject.get(subject, ()))

    def _index(self) -> None:
        self._seen = self._file_limits()
        by_subject: defaultdict[tuple[Scope, str], list[Limit]] = defaultdict(list)
        for limit in _one_per_counter((*self._seen, *self._stored)):
            by_subject[limit.scope, limit.subject].append(limit)
        self._by_subject = dict(by_subject)
        self._sets = {}


def _one_per_counter(limits: Iterable[Limit]) -> Iterable[Limit]:
    """Two limits on one counter would count each call twice, so the stricter one stands for both."""
    chosen: dict[_Counter, Limit] = {}
    for limit in limits:
        counter = (limit.scope, limit.subject, limit.metric, limit.window)
        other = chosen.get(counter)
        if other is None:
            chosen[counter] = limit
            continue
        _LOG.warning(
            "A limit is set both in the configuration and by hand; the stricter one holds.",
            extra={"scope": limit.scope, "subject": limit.subject, "metric": limit.metric, "window": limit.window},
        )
        chosen[counter] = min(limit, other, key=_looseness)
    return chosen.values()


def _looseness(limit: Limit) -> tuple[int, int]:
    return ACTIONS.index(limit.action), limit.amount


def _sorted(limits: Iterable[Limit]) -> LimitSet:
    """Limits by the policy that enforces them."""
    rate: list[Limit] = []
    quota: list[Limit] = []
    parallel: list[Limit] = []
    for limit in limits:
        if limit.metric == "parallel":
            parallel.append(limit)
        elif limit.window == "minute":
            rate.append(limit)
        else:
            quota.append(limit)
    return LimitSet(tuple(rate), tuple(quota), tuple(parallel))

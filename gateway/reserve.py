"""Holds what a call may use: every claim of the policy chain in one atomic step, and what the claims were told.

Where a claim finds no room its policy may make do with less, or wait for a window that is about to turn; only then is
the call refused, in that policy's words.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence

from gateway.core.call import Call
from gateway.core.errors import GatewayError, accounting_unavailable
from gateway.core.headers import Headers
from gateway.core.limits import NOTHING, Claim, Denied, Granted, Level, Limit
from gateway.core.money import MAX_AMOUNT
from gateway.core.ports import DECISION_S, CounterStore, Policy, StoreUnavailable
from gateway.core.records import Decision
from gateway.telemetry.metrics import Metrics

LEASE_S = 60.0
"""A hold lapses this long after its gateway stopped renewing it."""

_REMEMBERED_LIMITS = 10_000
_LATE_S = (0.0, 0.25)
"""How long after a window has turned a call that waited for it asks again, so that not all ask at once."""

_About = tuple[str, str, str, str, str, str, int]
Pause = Callable[[float], Awaitable[None]]
"""Waits so many seconds, and sees what then holds for the call. Raises what has become of it meanwhile."""
_new = tuple.__new__  # a third quicker than calling the named tuple, once a claim


class NoRoom(Exception):
    """A limit has no room for the call; `error` is what its caller would be told. The decision may go on until `by`,
    which is later than it was where the call has waited for a window."""

    def __init__(self, error: GatewayError, limit: Limit, by: float) -> None:
        super().__init__(error.message)
        self.error = error
        self.limit = limit
        self.by = by


class Holds:
    """One object per process. `note_shadow` is told of calls that pass although something in shadow objects."""

    def __init__(self, counters: CounterStore, metrics: Metrics, note_shadow: Callable[[Call], None]) -> None:
        self._counters = counters
        self._metrics = metrics
        self._note_shadow = note_shadow
        self._prefixes: dict[int, tuple[Limit, _About]] = {}

    async def take(self, policies: Sequence[Policy], call: Call, by: float, pause: Pause | None = None) -> Headers:
        """Hold every claim of the chain at once; the headers that say what is left. Raises `NoRoom`, and 503.
        Decides by the monotonic moment `by`, with or without the store. Where a policy would rather wait for a window,
        and there is a `pause` to wait with, the call is asked for once more after it."""
        call.claims = claims = _claims(policies, call)
        if not claims:
            return []
        try:
            verdict = await self._counters.reserve(call.request_id, claims, LEASE_S, call.created_at, by)
            if isinstance(verdict, Denied):
                wait = _worth_waiting(policies, call, verdict.level)
                if pause is not None and wait is not None:
                    await pause(wait + random.uniform(*_LATE_S))  # noqa: S311  jitter
                    return await self.take(policies, call, time.monotonic() + DECISION_S)
                verdict = await self._reserve_less(policies, call, verdict, by)
        except StoreUnavailable as error:
            return self._uncounted(policies, call, error)
        except NoRoom:
            raise
        except BaseException:
            # Cancelled, or a defect: whatever it is, what may be held must not stay so.
            self._refund(call)
            raise
        call.created_at = verdict.at
        self._note(policies, call, verdict)
        return _what_is_left(verdict.levels)

    async def _reserve_less(self, policies: Sequence[Policy], call: Call, denied: Denied, by: float) -> Granted:
        """A claim found no room. Ask once more where its policy can make do with less; raise its error otherwise."""
        owner = _owner(policies, call, denied.level)
        shrink = getattr(owner, "shrink", None)
        if shrink is not None and shrink(call, denied.level):
            call.claims = _claims(policies, call)
            verdict = await self._counters.reserve(call.request_id, call.claims, LEASE_S, call.created_at, by)
            if isinstance(verdict, Granted):
                return verdict
            denied = verdict
            owner = _owner(policies, call, denied.level)
        raise NoRoom(owner.denied(call, denied.level), denied.level.limit, by)

    def _uncounted(self, policies: Sequence[Policy], call: Call, error: StoreUnavailable) -> Headers:
        """The store is away: go on only where every policy with a claim says so. What such a call uses is counted
        when it settles, as soon as the store is back."""
        if any(policy.on_store_error == "deny" and policy.claims(call) for policy in policies):
            self._refund(call)
            raise accounting_unavailable(
                "The gateway cannot check your quota now, so it does not make the call. Try again shortly."
            ) from error
        self._metrics.unmetered.inc()
        call.decisions = tuple(
            [
                _new(Decision, (*_about(policy, limit), 0, amount, False))
                for policy in policies
                for limit, amount in policy.claims(call)
            ]
        )
        return []

    def _refund(self, call: Call) -> None:
        """The store may or may not hold what this call claims; it does not any more."""
        self._counters.settle(call.request_id, (), call.created_at, NOTHING)

    def _note(self, policies: Sequence[Policy], call: Call, verdict: Granted) -> None:
        """Keep what the claims were told, for the call's row and for the metrics."""
        levels = verdict.levels
        for index in verdict.over:
            limit = levels[index].limit
            self._metrics.over_limit.labels(limit.scope, limit.metric, limit.action).inc()
        self._metrics.note_levels(levels)
        prefixes = self._prefixes
        decisions = []
        for (limit, amount), level in zip(call.claims, levels):  # noqa: B905 - the keyword costs more than the pairing
            known = prefixes.get(id(limit))
            if known is None:
                known = self._prefix(policies, call, limit)
            decisions.append(_new(Decision, (*known[1], level[1], amount, True)))
        call.decisions = tuple(decisions)
        if verdict.over and not call.shadowed:
            self._note_shadow(call)

    def _prefix(self, policies: Sequence[Policy], call: Call, limit: Limit) -> tuple[Limit, _About]:
        """What decisions on a limit have in common. Kept by identity, together with the limit, so that no other limit
        can get the same identity: hashing one at every call would cost more than all the rest."""
        if len(self._prefixes) >= _REMEMBERED_LIMITS:
            self._prefixes.clear()
        owner = next(policy for policy in policies if any(claim.limit is limit for claim in policy.claims(call)))
        known = self._prefixes[id(limit)] = (limit, _about(owner, limit))
        return known


def _claims(policies: Sequence[Policy], call: Call) -> Sequence[Claim]:
    return [claim for policy in policies for claim in policy.claims(call)]


def _about(policy: Policy, limit: Limit) -> _About:
    return policy.name, limit.scope, limit.subject, limit.metric, limit.window, limit.action, limit.amount


def _owner(policies: Sequence[Policy], call: Call, level: Level) -> Policy:
    """The policy that made the claim on a level's limit."""
    return next(
        p for p in policies if any(claim.limit is level.limit or claim.limit == level.limit for claim in p.claims(call))
    )


def _worth_waiting(policies: Sequence[Policy], call: Call, level: Level) -> float | None:
    """The seconds until the limit's window turns, where its policy waits that long and the call fits into the next."""
    owner = _owner(policies, call, level)
    patience, resets_in = getattr(owner, "wait", 0.0), level.resets_in
    if not patience or resets_in is None or resets_in > patience:
        return None
    fits = all(claim.amount <= level.limit.amount for claim in call.claims if claim.limit == level.limit)
    return resets_in if fits else None


def _what_is_left(levels: Sequence[Level]) -> Headers:
    """OpenAI's rate limit headers, for the tightest limit on requests and on tokens."""
    requests: Level | None = None
    tokens: Level | None = None
    fewest_requests = fewest_tokens = MAX_AMOUNT
    for level in levels:
        limit = level[0]
        metric = limit.metric
        if limit.action != "deny":
            continue
        left = limit.amount - level[1]
        if metric == "requests":
            if left < fewest_requests:
                requests, fewest_requests = level, left
        elif metric == "tokens" and left < fewest_tokens:
            tokens, fewest_tokens = level, left
    headers: Headers = []
    if requests is not None:
        _show(headers, requests, *_REQUESTS)
    if tokens is not None:
        _show(headers, tokens, *_TOKENS)
    return headers


def _show(headers: Headers, level: Level, limit: bytes, remaining: bytes, reset: bytes) -> None:
    headers.append((limit, b"%d" % level.limit.amount))
    headers.append((remaining, b"%d" % level.remaining))
    if level.resets_in is not None:
        headers.append((reset, b"%ds" % level.resets_in))


_REQUESTS = (b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests")
_TOKENS = (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens")

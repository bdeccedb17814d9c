"""A policy in shadow: asked about every call, obeyed in none.

It sees a copy of the call, so whatever it lowers or replaces is forgotten; its refusals are noted on the call, and
what it claims is counted by limits that refuse nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from gateway.core.call import Call
from gateway.core.errors import GatewayError
from gateway.core.limits import Claim, Level, Limit
from gateway.core.ports import Inspects, OnStoreError, Policy

logger = logging.getLogger("aidock.policies")

_REMEMBERED_LIMITS = 5_000


class Trial:
    """Any policy as one that refuses nothing. A defect of it costs no call either: it is logged once."""

    on_store_error: OnStoreError = "allow"

    def __init__(self, policy: Policy) -> None:
        self.name = policy.name
        self._policy = policy
        self._shadows = _Shadows()
        self._failed = False

    def check(self, call: Call) -> None:
        if self.refusal(call) is not None:
            call.shadowed += (self.name,)

    async def inspect(self, call: Call) -> None:
        if await self.objection(call) is not None:
            call.shadowed += (self.name,)

    def claims(self, call: Call) -> Sequence[Claim]:
        return self._ask(call)[1]

    def denied(self, call: Call, level: Level) -> GatewayError:
        return self._policy.denied(call, level)

    def refusal(self, call: Call) -> GatewayError | None:
        """What the policy's check would tell the caller."""
        return self._ask(call)[0]

    async def objection(self, call: Call) -> GatewayError | None:
        """What the policy would tell the caller once it has looked at the prompt."""
        if not isinstance(self._policy, Inspects):
            return None
        with self._harmless():
            try:
                await self._policy.inspect(_seen(call))
            except GatewayError as error:
                return error
        return None

    def _ask(self, call: Call) -> tuple[GatewayError | None, Sequence[Claim]]:
        """What the policy says of a copy of the call, and what it would hold."""
        seen = _seen(call)
        refusal: GatewayError | None = None
        with self._harmless():
            try:
                self._policy.check(seen)
            except GatewayError as error:
                refusal = error
            return refusal, [Claim(self._shadows.of(limit), amount) for limit, amount in self._policy.claims(seen)]
        return refusal, ()

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """A policy on trial must not harm the call, whatever is wrong with it. Its first defect is logged."""
        try:
            yield
        except Exception:
            if not self._failed:
                logger.exception("A policy in shadow fails; it refuses nothing.", extra={"policy": self.name})
            self._failed = True


def _seen(call: Call) -> Call:
    """A copy of the call for a policy to change as it likes."""
    return replace(call, demand=replace(call.demand), headers=list(call.headers))


class _Shadows:
    """A limit's copy that only counts, the same one every time: counters know limits by identity.

    Kept with the original, so that no other limit can get its identity. When there are many, those not asked for
    lately go; a limit of the call under way is never among them.
    """

    def __init__(self) -> None:
        self._lately: dict[int, tuple[Limit, Limit]] = {}
        self._before: dict[int, tuple[Limit, Limit]] = {}

    def of(self, limit: Limit) -> Limit:
        if limit.action != "deny":
            return limit
        known = self._lately.get(id(limit))
        if known is None:
            known = self._before.get(id(limit)) or (limit, replace(limit, action="shadow"))
            if len(self._lately) >= _REMEMBERED_LIMITS:
                self._before, self._lately = self._lately, {}
            self._lately[id(limit)] = known
        return known[1]

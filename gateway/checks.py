"""Asks deployments whether they are well, while nobody calls them: one task for all whose providers want it.

A check is a GET over the deployment's own connections with its own credential, and costs no tokens. One that works lets
a deployment that rests be tried again; those that fail make it rest, as failed calls do.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence

from gateway.attempt import Carrier
from gateway.core.deployment import Deployment, Target
from gateway.core.errors import GatewayError
from gateway.core.ports import Checkable
from gateway.core.upstream import UpstreamFailure
from gateway.health import Health

logger = logging.getLogger("aidock.checks")

_TICK_S = 0.5
_DEADLINE_S = 10.0
_AT_ONCE = 20
_MOST_BYTES = 2**20
"""Read of an answer so that its connection can be used again; a longer one loses it."""
_ILL = frozenset({401, 402, 403, 408})


class Checks:
    """The checks of one process. `targets` and `carriers` are of the configuration in force."""

    def __init__(
        self, health: Health, targets: Callable[[], Sequence[Target]], carriers: Callable[[], Mapping[str, Carrier]]
    ) -> None:
        self._health = health
        self._targets = targets
        self._carriers = carriers
        self._due: dict[Deployment, float] = {}

    async def run(self) -> None:
        """Check what is due, until cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            await self.round(time.monotonic())

    async def round(self, now: float) -> None:
        """Check every deployment whose time has come; each is due again an interval later, a little spread so that
        gateways do not ask together."""
        wanted = {target.deployment: target for target in self._targets() if target.upstream.health_check is not None}
        self._due = {each: self._due.get(each, 0.0) for each in wanted}
        due = [deployment for deployment, at in self._due.items() if at <= now][:_AT_ONCE]
        for deployment in due:
            check = wanted[deployment].upstream.health_check
            interval = check.interval if check is not None else 0.0
            self._due[deployment] = now + interval * random.uniform(0.9, 1.1)  # noqa: S311  jitter
        await asyncio.gather(*(self._check(wanted[deployment]) for deployment in due))

    async def _check(self, target: Target) -> None:
        check, carrier = target.upstream.health_check, self._carriers().get(target.upstream.name)
        if check is None or carrier is None:
            return
        provider = carrier.provider
        if not isinstance(provider, Checkable):
            self._due[target.deployment] = math.inf
            logger.warning("a provider's dialect knows no health check", extra={"provider": target.upstream.name})
            return
        reason = await _ask(target, provider, carrier, check.path)
        self._health.checked(target, well=reason is None)
        if reason is not None:
            about = {"provider": target.upstream.name, "upstream_model": target.upstream_model, "reason": reason}
            logger.warning("a health check failed", extra=about)


async def _ask(target: Target, provider: Checkable, carrier: Carrier, path: str | None) -> str | None:
    """Why a deployment is not well, None where it is."""
    transport, authorize = carrier.transport, carrier.authorize
    exchange = None
    try:
        async with asyncio.timeout(_DEADLINE_S):
            request = provider.check(target, path)
            if authorize is not None:
                await authorize(request, target, transport)
            exchange = transport.exchange(request)
            await exchange.start()
            size = 0
            while size < _MOST_BYTES and (piece := await exchange.read()):
                size += len(piece)
    except (UpstreamFailure, GatewayError) as error:
        return str(error)
    except TimeoutError:
        return f"no answer within {_DEADLINE_S:g} s"
    finally:
        if exchange is not None:
            exchange.close()
    return f"status {exchange.status}" if exchange.status >= 500 or exchange.status in _ILL else None

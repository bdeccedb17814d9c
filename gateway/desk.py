"""Answers an authenticated caller's questions by the chain's own `check` and `claims`, so that what is told and what
is enforced cannot drift apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from gateway.conversations.kept import Conversations
from gateway.core.body import Body
from gateway.core.call import Call
from gateway.core.deployment import Model, Route
from gateway.core.endpoint import Inference
from gateway.core.errors import GatewayError, accounting_unavailable
from gateway.core.limits import Level, Limit, LimitSet
from gateway.core.ports import CounterStore, StoreUnavailable
from gateway.core.principal import Principal
from gateway.world import World

_EMPTY = Body(b"{}")


class Desk:
    """One caller's questions. `limits` tells what binds it on a model, `usual` is the endpoint they are about."""

    def __init__(
        self,
        principal: Principal,
        rest: str,
        world: World,
        counters: CounterStore,
        limits: Callable[[str], LimitSet],
        usual: Inference,
        conversations: Conversations,
    ) -> None:
        self.principal = principal
        self.rest = rest
        self._world = world
        self._counters = counters
        self._limits = limits
        self._usual = usual
        self._conversations = conversations

    def models(self) -> Sequence[Model]:
        routes = self._world.snapshot.routes
        return [_as_model(name, route) for name, route in routes.items() if self._passes(name, route)]

    def model(self, model_id: str) -> Model:
        route = self._world.route(model_id, self.principal)
        self._world.check(self._question(model_id, route))
        return _as_model(model_id, route)

    async def levels(self) -> Sequence[Level]:
        limits: dict[Limit, None] = {}  # in the order they are met, each once
        for name, route in self._world.snapshot.routes.items():
            if self._passes(name, route):
                call = self._question(name, route)
                limits.update((claim.limit, None) for policy in self._world.policies for claim in policy.claims(call))
        try:
            return await self._counters.peek(list(limits))
        except StoreUnavailable as error:
            raise accounting_unavailable("The gateway cannot look up your limits now. Try again shortly.") from error

    async def conversation(self) -> bytes | None:
        return await self._conversations.lookup(self.principal, self.rest)

    async def forget_conversation(self) -> bool:
        return await self._conversations.forget(self.principal, self.rest)

    def _passes(self, name: str, route: Route) -> bool:
        try:
            self._world.check(self._question(name, route))
        except GatewayError:
            return False
        return True

    def _question(self, name: str, route: Route) -> Call:
        now = time.time()
        return Call("", self._usual, self.principal, [], _EMPTY, name, route, 0.0, now, limits=self._limits(name))


def _as_model(name: str, route: Route) -> Model:
    """A route as clients see it: its first target's model under the public name."""
    model = route.targets[0].model
    if model.model_id == name:
        return model
    return Model(name, name, model.supported_roles, model.prices, model.max_output_tokens, model.context_window)

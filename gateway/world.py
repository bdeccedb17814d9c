"""One configuration version, ready to serve: what a call needs that changes only as a whole."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gateway import plugins
from gateway.attempt import Carrier
from gateway.core.call import Call
from gateway.core.deployment import Route
from gateway.core.endpoint import Inference
from gateway.core.errors import GatewayError, invalid_request, model_not_found
from gateway.core.ports import Filters, Inspects, Policy
from gateway.core.principal import Principal
from gateway.settings.compile import Snapshot
from gateway.translation import can_take


class World(NamedTuple):
    """A snapshot with its policy chain built. Calls keep the world they began in; a reload makes another. `inspecting`
    and `filtering` are the policies with these abilities."""

    snapshot: Snapshot
    policies: Sequence[Policy]
    carriers: Mapping[str, Carrier]
    inspecting: Sequence[Inspects] = ()
    filtering: Sequence[Filters] = ()

    def route(self, name: str, principal: Principal) -> Route:
        """What serves a public name. Raises 404, suggesting only what the caller may use."""
        route = self.snapshot.routes.get(name)
        if route is None:
            raise self.unknown_model(name, principal)
        return route

    def check(self, call: Call) -> None:
        """Put a call before the chain. Raises what the first policy to refuse it raises, and a 400 where no target can
        take it."""
        try:
            for policy in self.policies:
                policy.check(call)
        except GatewayError as error:
            if error.code == "model_not_found":
                raise self.unknown_model(call.route.name, call.principal) from error
            raise
        if call.endpoint.alone is None and not self.able(call.route, call.endpoint).every_target:
            raise invalid_request(
                f"The model '{call.route.name}' does not serve {call.endpoint.path}. GET /v1/models lists the others.",
                param="model",
                code="unsupported_endpoint",
            )

    async def inspect(self, call: Call) -> None:
        """Let policies that want to look at the prompt, and say what reads the answer. Raises what they raise."""
        for policy in self.inspecting:
            await policy.inspect(call)
        call.filters = tuple(made for policy in self.filtering if (made := policy.filters(call)) is not None)

    def able(self, route: Route, endpoint: Inference) -> Route:
        """The part of a route whose targets can take the endpoint's calls; usually all of it."""
        able: Route | None = route.memo.get(endpoint.name)
        if able is None:
            able = route.memo[endpoint.name] = route.only(
                lambda target: can_take(endpoint, target, self.carriers[target.upstream.name].provider)
            )
        return able

    def unknown_model(self, name: str, principal: Principal) -> GatewayError:
        """The same words for a model that does not exist and one that is not for this caller."""
        near = difflib.get_close_matches(name[:100], filter(principal.may_use, self.snapshot.routes), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else " GET /v1/models lists what is."
        return model_not_found(f"The model '{name[:100]}' does not exist or is not available to you.{hint}")


def build(snapshot: Snapshot, carriers: Mapping[str, Carrier]) -> World:
    """Build a snapshot's chain. Raises `ValueError` naming a policy setting that is wrong."""
    return assemble(snapshot, [plugins.policy(entry.name, entry.settings) for entry in snapshot.policies], carriers)


def assemble(snapshot: Snapshot, policies: Sequence[Policy], carriers: Mapping[str, Carrier]) -> World:
    """A world of a chain that is built."""
    return World(
        snapshot,
        policies,
        carriers,
        inspecting=[policy for policy in policies if isinstance(policy, Inspects)],
        filtering=[policy for policy in policies if isinstance(policy, Filters)],
    )

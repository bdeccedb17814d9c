"""One configuration version, ready to serve: what a call needs that changes only as a whole."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gateway import plugins
from gateway.core.call import Call
from gateway.core.deployment import Route
from gateway.core.errors import GatewayError, model_not_found
from gateway.core.ports import Policy
from gateway.core.principal import Principal
from gateway.relay import Carrier
from gateway.settings.compile import Snapshot


class World(NamedTuple):
    """A snapshot with its policy chain built. Calls keep the world they began in; a reload makes another."""

    snapshot: Snapshot
    policies: Sequence[Policy]
    carriers: Mapping[str, Carrier]

    def route(self, name: str, principal: Principal) -> Route:
        """What serves a public name. Raises 404, suggesting only what the caller may use."""
        route = self.snapshot.routes.get(name)
        if route is None:
            raise self.unknown_model(name, principal)
        return route

    def check(self, call: Call) -> None:
        """Put a call before the chain. Raises what the first policy to refuse it raises."""
        try:
            for policy in self.policies:
                policy.check(call)
        except GatewayError as error:
            if error.code == "model_not_found":
                raise self.unknown_model(call.model_id, call.principal) from error
            raise

    def unknown_model(self, name: str, principal: Principal) -> GatewayError:
        """The same words for a model that does not exist and one that is not for this caller."""
        near = difflib.get_close_matches(name[:100], filter(principal.may_use, self.snapshot.routes), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else " GET /v1/models lists what is."
        return model_not_found(f"The model '{name[:100]}' does not exist or is not available to you.{hint}")


def build(snapshot: Snapshot, carriers: Mapping[str, Carrier]) -> World:
    """Build a snapshot's chain. Raises `ValueError` naming a policy setting that is wrong."""
    policies = tuple(plugins.policy(entry.name, entry.settings) for entry in snapshot.policies)
    return World(snapshot, policies, carriers)

"""Only the models on a key's list, where it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.core.call import Call
from gateway.core.errors import GatewayError, internal_error, model_not_found
from gateway.core.limits import Claim, Level
from gateway.core.ports import OnStoreError


class ModelAccess:
    """Answers a model off the list as if it did not exist, so that a list tells nothing about other models."""

    name = "model_access"
    on_store_error: OnStoreError = "deny"

    def check(self, call: Call) -> None:
        asked = call.route.name  # a fallback is a part of what was asked for
        if not call.principal.may_use(asked):
            raise model_not_found(f"The model '{asked}' does not exist or is not available to you.")

    def claims(self, call: Call) -> Sequence[Claim]:
        return ()

    def denied(self, call: Call, level: Level) -> GatewayError:
        return internal_error(call.request_id)  # claims nothing, so nothing of it can be denied


def create(settings: Mapping[str, object]) -> ModelAccess:
    """Takes no settings."""
    if settings:
        raise ValueError(f"model_access takes no settings, got: {', '.join(sorted(settings))}")
    return ModelAccess()

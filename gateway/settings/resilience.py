"""Keys about what goes wrong with upstreams: patience, retries, rest, checks and fallbacks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gateway.core.deployment import OnClientGone
from gateway.settings.fields import Name, Seconds, Section, Text, Whole


class RetrySettings(Section):
    """How often a call is tried again at one deployment, by what went wrong; max_retries bounds each."""

    connect: Whole | None = Field(default=None, ge=0, le=10)
    """It could not be reached; max_retries."""
    rate_limit: Whole | None = Field(default=None, ge=0, le=10)
    """It said 429, and nothing else is left to try; max_retries."""
    server_error: Whole | None = Field(default=None, ge=0, le=10)
    """It said 502, 503 or 529; max_retries."""
    timeout: Whole | None = Field(default=None, ge=0, le=10)
    """It took too long, and may have worked on the call; 0."""


class CooldownSettings(Section):
    """When a deployment rests."""

    failures: Whole = Field(default=3, ge=0, le=1000)
    """After so many in a row; 0: it never rests."""
    seconds: Seconds = 30.0
    """For so long; then one call at a time may try it."""


class Patience(Section):
    """How long an upstream may take and what becomes of its answer."""

    connect_timeout: Seconds | None = None
    """Seconds to open a connection; 5."""
    first_byte_timeout: Seconds | None = None
    """Seconds until the answer begins; 600."""
    idle_timeout: Seconds | None = None
    """Seconds between two pieces of an answer; 120."""
    max_retries: Whole | None = Field(default=None, ge=0, le=10)
    """How often a call is tried again before the next target; 1."""
    retries: RetrySettings | None = None
    """How often, by what went wrong."""
    cooldown: CooldownSettings | None = None
    """When it rests after failures."""
    on_client_gone: OnClientGone | None = None
    """cancel stops the upstream when the client leaves; drain reads on. cancel by default."""


class HealthCheckSettings(Section):
    """A GET that tells whether a provider's deployments are well, while nobody calls."""

    interval: Seconds = 30.0
    """Seconds between two checks of a deployment."""
    path: Text | None = None
    """What is asked for below base_url; by default what the dialect lists its models by."""


class FallbackSettings(Section):
    """Models to try, in order, by what went wrong. An empty list: none."""

    default: tuple[Name, ...] | None = None
    """For error, timeout and rate_limit, where they are not stated."""
    error: tuple[Name, ...] | None = None
    """A target could not be reached, failed, broke off or is at rest."""
    timeout: tuple[Name, ...] | None = None
    """It took too long; it may have worked on the call, and bill it."""
    rate_limit: tuple[Name, ...] | None = None
    """It said 429."""
    context_window: tuple[Name, ...] | None = None
    """The prompt is too long for it."""
    content_policy: tuple[Name, ...] | None = None
    """It refuses such content."""
    quota: tuple[Name, ...] | None = None
    """The caller's quota has no room for it."""


def _fallback_list(value: Any) -> Any:
    return {"default": value} if isinstance(value, list) else value


class _ListOrClasses:
    """Tells the JSON Schema that a list may stand for the default."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "array", "items": {"type": "string", "minLength": 1}}, handler(core)]}


Fallbacks = Annotated[FallbackSettings, BeforeValidator(_fallback_list), _ListOrClasses()]

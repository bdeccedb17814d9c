"""What an endpoint is: a path, who may use it, and what it does.

A module in `gateway/endpoints` states one of these as `ENDPOINT`. The kind is the permission: an `Inference` or a
`Query` is reached only with an API key, a `Probe` by anyone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.core.body import Body
    from gateway.core.deployment import Model
    from gateway.core.dialect import Dialect
    from gateway.core.headers import Headers
    from gateway.core.limits import Level
    from gateway.core.money import Unit
    from gateway.core.ports import Continues, Translation
    from gateway.core.principal import Principal


class Reply(NamedTuple):
    """A whole answer. Content length and request id are added where it is sent."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: Headers = []  # noqa: RUF012  a NamedTuple default, never changed in place


class Measure(NamedTuple):
    """What a call is measured in besides tokens: the most of `unit` that it can use, and a guess. `prompt` and `output`
    are the most tokens that it can use beyond those of its text, where its model is sold by the token."""

    unit: Unit
    most: int
    likely: int
    prompt: int = 0
    output: int = 0


@dataclass(frozen=True, slots=True)
class Inference:
    """An endpoint that is forwarded to a model, reserved for and settled.

    `operation` is the path below an upstream's base URL. `required` members must be in the body; the
    `prompt` members tell how long the prompt is likely to be; `caps` are the members by which clients limit output
    (none: the endpoint produces no tokens). `choices` says how many answers a body asks for; `examine` may
    refuse it for reasons of the endpoint's own; `measure` says what it asks for where that is not text. `refers` says
    whether the prompt also holds what a body only refers to, such as a conversation that the upstream keeps.
    `translation` tells the call through chat to targets that do not serve `operation` themselves; without one such
    targets cannot take it, and where no target can, `alone` answers instead of one, given the prompt's likely length.
    `continues` lets calls go on with a conversation that the gateway keeps. `default_model` is meant where a body names
    none, `model`, which a path can hold, whatever it names. With `form` the body is multipart/form-data; with `media`
    the answer may be something else than JSON or chat's events. `uses_tokens` is false where a call costs a request and
    nothing else.
    """

    name: str
    path: str
    operation: str
    dialect: Dialect
    required: tuple[str, ...]
    prompt: tuple[str, ...]
    caps: tuple[str, ...] = ()
    streams: bool = True
    choices: Callable[[Body], int] | None = None
    examine: Callable[[Body], None] | None = None
    measure: Callable[[Body], Measure] | None = None
    default_model: str = ""
    model: str = ""
    form: bool = False
    media: bool = False
    refers: Callable[[Body], bool] | None = None
    translation: Translation | None = None
    continues: Continues | None = None
    alone: Callable[[int], Reply] | None = None
    uses_tokens: bool = True
    method: str = field(default="POST", init=False)

    def requested_cap(self, body: Body) -> int | None:
        """The client's own output cap, None without one; the largest, for upstreams disagree on which of several
        counts. Raises a 400 for one that makes no sense, 0 among them: some upstreams read it as no cap at all."""
        return max([cap for name in self.caps if (cap := body.count(name, least=1)) is not None], default=None)


class Desk(Protocol):
    """What an authenticated query may ask the gateway, on behalf of its caller."""

    principal: Principal
    rest: str
    """What the path had in place of a trailing `{rest}`, percent-decoded."""

    def models(self) -> Sequence[Model]:
        """The models that the policy chain would let this caller use."""

    def model(self, model_id: str) -> Model:
        """One of them. Raises 404 `model_not_found`."""

    async def levels(self) -> Sequence[Level]:
        """Every limit that binds this caller, and where it stands."""

    async def conversation(self) -> bytes | None:
        """What is kept for this user under the answer's id that is the path's rest, as its endpoint gave it; None where
        nothing is."""

    async def forget_conversation(self) -> bool:
        """Keep it no longer; whether it was kept."""


@dataclass(frozen=True, slots=True)
class Query:
    """A question about the gateway itself, answered without an upstream."""

    name: str
    path: str
    dialect: Dialect
    answer: Callable[[Desk], Awaitable[Reply]]
    method: str = "GET"


class Health(Protocol):
    """What a probe may ask."""

    def ready(self) -> tuple[bool, dict[str, str]]:
        """Whether new work is welcome, and each check by name: `ok` or what is wrong."""

    def exposition(self) -> tuple[bytes, str]:
        """The metrics and their content type."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A question for operations. No key; `query` is the raw query string."""

    name: str
    path: str
    answer: Callable[[Health, bytes], Reply]
    aliases: tuple[str, ...] = ()
    method: str = field(default="GET", init=False)


Endpoint = Inference | Query | Probe

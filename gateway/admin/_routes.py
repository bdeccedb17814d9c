"""What a route of the administration API is, and what its answer may ask.

Who may use a route is part of the route: one that does not say cannot be made. What of it concerns the caller is the
`Scope`, which goes into the query, so that another's object and a missing one are the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from enum import Enum
from types import ModuleType
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from gateway.core.endpoint import Inference
from gateway.core.errors import DO_NOT_RETRY, GatewayError
from gateway.core.ports import CounterStore
from gateway.core.principal import Principal
from gateway.identity.directory import Directory
from gateway.storage.engine import Database
from gateway.world import World

BASE = "/api/v1"


class Permission(Enum):
    """Who may use a route: `OWN` everybody for what is theirs and administrators for everybody's; `ADMIN`
    administrators."""

    OWN = "own"
    ADMIN = "admin"


class Scope(NamedTuple):
    """Whose objects a caller sees: a user's, or everybody's (None)."""

    user: str | None


@dataclass(frozen=True, slots=True)
class House:
    """The parts of the gateway that answers are made from. `endpoints` are those that can be called, by name."""

    database: Database
    directory: Directory
    counters: CounterStore
    world: Callable[[], World]
    endpoints: Mapping[str, Inference]


@dataclass(frozen=True, slots=True)
class Ask:
    """One authorised request: what the path and the query say, and the body as it came."""

    house: House
    principal: Principal
    scope: Scope
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes


Answer = Callable[[Ask], Awaitable[Mapping[str, Any]]]


class Input(BaseModel):
    """What a request says, member by member; one that is not stated is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Output(BaseModel):
    """What an answer says, member by member, for the API document."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path below `BASE`, who may use it, and what it answers.

    `query` and `body` are what it reads with `read_query` and `read_json`, `answers` the shape of its answer: the API
    document is made of them, and of the first line that `answer` says about itself.
    """

    method: str
    path: str
    permission: Permission
    answer: Answer
    query: type[Input] | None = None
    body: type[Input] | None = None
    answers: type[Output] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.permission, Permission):
            raise TypeError(f"{self.method} {self.path} does not say who may use it")


def routes_of(resources: Iterable[ModuleType]) -> list[Route]:
    """Every route that the resources state. Raises `TypeError` for one that is not declared as such."""
    found: list[Route] = []
    for resource in resources:
        for route in resource.ROUTES:
            if not isinstance(route, Route):
                raise TypeError(f"{resource.__name__} states a route that does not say who may use it: {route!r}")
            found.append(route)
    return found


M = TypeVar("M", bound=Input)


def read_json(shape: type[M], body: bytes) -> M:
    """The body as an input. Raises 422."""
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        raise _unprocessable(error) from error


def read_query(shape: type[M], query: Mapping[str, str]) -> M:
    """The query as an input. Raises 422."""
    try:
        return shape.model_validate(dict(query))
    except ValidationError as error:
        raise _unprocessable(error) from error


def unprocessable(message: str, param: str | None = None) -> GatewayError:
    """422: understood, and makes no sense."""
    return GatewayError(422, "invalid_request", message, param=param, headers=DO_NOT_RETRY)


def not_found(message: str) -> GatewayError:
    """404: there is none, or none that this caller may see; the two are not told apart."""
    return GatewayError(404, "not_found", message, headers=DO_NOT_RETRY)


def _unprocessable(error: ValidationError) -> GatewayError:
    """The first thing that is wrong, by the name that the client used."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    param = ".".join(map(str, first["loc"])) or None
    return unprocessable(f"{f'{param!r}: ' if param else ''}{first['msg']}.", param)


def _day(text: str) -> str:
    return date.fromisoformat(text).isoformat()


Short = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A name: some printable characters."""

Day = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(_day)]
"""A day, `YYYY-MM-DD`."""

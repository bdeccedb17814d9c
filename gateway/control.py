"""The control plane's Starlette app: what is not on the data plane's table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from gateway import __version__
from gateway.admin import House, check_declared, doors
from gateway.core.dialect import OPENAI
from gateway.core.errors import GatewayError
from gateway.core.ids import new_request_id

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_WELCOME = f"""AI Dock {__version__}

OpenAI-compatible API   /v1   (chat/completions, completions, embeddings, models)
Who am I, what is left  /v1/me
Administration          /api/v1
What there is to call   /docs, /api/v1/openapi.json
Operations              /livez /readyz /metrics
"""


def control_plane(allowed_methods: Callable[[str], list[str]], house: House) -> Starlette:
    """The app; `allowed_methods` says how a path of the data plane may be asked. Raises `TypeError` where a route of
    the administration API does not say who may use it."""
    administration = doors(house)

    async def welcome(request: Request) -> Response:
        return PlainTextResponse(_WELCOME, headers={"x-request-id": new_request_id()})

    async def missing(request: Request) -> Response:
        path = request.scope["path"]
        allowed = allowed_methods(path) or _methods_of(administration, request.scope)
        if allowed:
            message = f"{path} takes {', '.join(allowed)}, not {request.method}."
            return _error(GatewayError(405, "method_not_allowed", message, headers={"allow": ", ".join(allowed)}))
        known = path.startswith(("/v1/", "/api/", "/openai/"))
        hint = "" if known else " API paths begin with /v1: set the client's base URL to …/v1."
        return _error(GatewayError(404, "not_found", f"There is nothing at {path[:200]}.{hint}"))

    routes = [
        Route("/", welcome, methods=["GET"]),
        *administration,
        Route("/{rest:path}", missing, methods=_METHODS),
    ]
    check_declared(routes)
    return Starlette(routes=routes, exception_handlers={405: _wrong_method})


def _methods_of(routes: Sequence[BaseRoute], scope: Scope) -> list[str]:
    """The methods that a path takes where it does not take this one."""
    partial = [route for route in routes if isinstance(route, Route) and route.matches(scope)[0] is Match.PARTIAL]
    return sorted({method for route in partial for method in route.methods or ()} - {"HEAD"})


async def _wrong_method(request: Request, error: Exception) -> Response:
    return _error(GatewayError(405, "method_not_allowed", f"{request.method[:20]} is not understood here."))


def _error(error: GatewayError) -> Response:
    request_id = new_request_id()
    return Response(
        OPENAI.error_body(error, request_id),
        error.status,
        {"x-request-id": request_id, **error.headers},
        "application/json",
    )

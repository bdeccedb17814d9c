"""The control plane's Starlette app: what is not on the data plane's table."""

from __future__ import annotations

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway import __version__
from gateway.core.dialect import OPENAI
from gateway.core.errors import GatewayError
from gateway.core.ids import new_request_id

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_WELCOME = f"""AI Dock {__version__}

OpenAI-compatible API   /v1   (chat/completions, completions, embeddings, models)
Who am I, what is left  /v1/me
Operations              /livez /readyz /metrics
"""


def control_plane(allowed_methods: Callable[[str], list[str]]) -> Starlette:
    """The app; `allowed_methods` says how a path of the data plane may be asked."""

    async def welcome(request: Request) -> Response:
        return PlainTextResponse(_WELCOME, headers={"x-request-id": new_request_id()})

    async def missing(request: Request) -> Response:
        path = request.scope["path"]
        allowed = allowed_methods(path)
        if allowed:
            message = f"{path} takes {', '.join(allowed)}, not {request.method}."
            return _error(GatewayError(405, "method_not_allowed", message, headers={"allow": ", ".join(allowed)}))
        hint = "" if path.startswith("/v1/") else " API paths begin with /v1: set the client's base URL to …/v1."
        return _error(GatewayError(404, "not_found", f"There is nothing at {path[:200]}.{hint}"))

    return Starlette(
        routes=[Route("/", welcome, methods=["GET"]), Route("/{rest:path}", missing, methods=_METHODS)],
        exception_handlers={405: _wrong_method},
    )


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

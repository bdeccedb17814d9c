"""The way in: who asks, whether they may, and how an answer or a refusal goes out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.routing import Route as StarletteRoute
from starlette.types import Receive, Scope, Send

from gateway import plugins
from gateway.admin._document import api_document
from gateway.admin._page import page
from gateway.admin._routes import BASE, Ask, House, Permission, Route, not_found, routes_of, unprocessable
from gateway.admin._routes import Scope as Sight
from gateway.client import Client, ClientGone
from gateway.core.body import encode
from gateway.core.dialect import OPENAI
from gateway.core.errors import DO_NOT_RETRY, GatewayError, accounting_unavailable, internal_error
from gateway.core.headers import Headers, safe_value
from gateway.core.ids import new_request_id
from gateway.core.principal import Principal
from gateway.identity.credential import presented
from gateway.storage.errors import DatabaseUnavailable, Invalid, NotFound

logger = logging.getLogger("aidock.admin")

MAX_BODY = 64 * 1024
MAX_PARAMETERS = 20
_SAFE = MappingProxyType({"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"})


class Door:
    """One route as an ASGI application."""

    def __init__(self, route: Route, house: House) -> None:
        self.route = route
        self._house = house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = new_request_id()
        client = Client(scope, receive, send)
        try:
            status, answer = 200, encode(await self._answer(scope, client))
        except ClientGone:
            return
        except GatewayError as error:
            await _refuse(client, error, request_id)
            return
        except Exception:
            logger.exception("an administrative request failed", extra={"http.request.id": request_id})
            await _refuse(client, internal_error(request_id), request_id)
            return
        await client.reply(status, _headers(request_id), answer)

    async def _answer(self, scope: Scope, client: Client) -> Mapping[str, Any]:
        principal = await self._identify(scope["headers"])
        sight = _sight(principal, self.route.permission)
        ask = Ask(self._house, principal, sight, scope["path_params"], _query(scope), await client.body(MAX_BODY))
        try:
            return await self.route.answer(ask)
        except NotFound as error:
            raise not_found(str(error)) from error
        except Invalid as error:
            raise unprocessable(str(error)) from error
        except DatabaseUnavailable as error:
            raise accounting_unavailable("The gateway's database does not answer. Try again shortly.") from error

    async def _identify(self, headers: Headers) -> Principal:
        credential = presented(headers)
        directory = self._house.directory
        return directory.recall(credential) or await directory.find(credential)


class Document:
    """What is the same for everybody, as an ASGI application: it knows nothing but its text."""

    def __init__(self, content: bytes | str, kind: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self._content = content
        self._kind = kind
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {"x-request-id": new_request_id(), **self._headers}
        await Response(self._content, media_type=self._kind, headers=headers)(scope, receive, send)


def doors(house: House) -> list[BaseRoute]:
    """Every route of every resource, and the documents about them. Raises `TypeError` for a route that does not say who
    may use it."""
    routes = routes_of(plugins.modules("gateway.admin").values())
    document, address = api_document(routes, plugins.endpoints()), f"{BASE}/openapi.json"
    return [
        *(StarletteRoute(BASE + route.path, Door(route, house), methods=[route.method]) for route in routes),
        StarletteRoute(address, Document(encode(document), "application/json"), methods=["GET"]),
        StarletteRoute("/docs", Document(page(document, address), "text/html", _SAFE), methods=["GET"]),
    ]


def check_declared(routes: Sequence[BaseRoute]) -> None:
    """Raises `TypeError` for a route below `/api` that nothing guards."""
    for route in routes:
        path = getattr(route, "path", "")
        if path.startswith("/api") and not isinstance(getattr(route, "endpoint", None), Door | Document):
            raise TypeError(f"the route {path} does not say who may use it")


def _sight(principal: Principal, permission: Permission) -> Sight:
    """What the caller may see through a route. Raises 403 where that is nothing."""
    if principal.role == "admin":
        return Sight(None)
    if permission is Permission.OWN:
        return Sight(principal.user)
    message = "This is for administrators. Ask one of yours, or use the key of one."
    raise GatewayError(403, "permission_denied", message, type="permission_error", headers=DO_NOT_RETRY)


def _query(scope: Scope) -> Mapping[str, str]:
    """The query's parameters, each at most once. Raises 422."""
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError:
        raise unprocessable("The query cannot be read.") from None
    query = dict(pairs)
    if len(query) < len(pairs):
        raise unprocessable("A parameter of the query is there twice.")
    return query


def _headers(request_id: str) -> Headers:
    return [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"x-request-id", request_id.encode()),
    ]


async def _refuse(client: Client, error: GatewayError, request_id: str) -> None:
    said = [(name.encode(), safe_value(value)) for name, value in error.headers.items()]
    await client.reply(error.status, [*_headers(request_id), *said], OPENAI.error_body(error, request_id))

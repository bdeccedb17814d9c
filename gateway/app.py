"""The composition root: every object is built here, once, and handed down.

`Application` is the ASGI app. The data plane is looked up in a dict on raw ASGI; whatever is not there goes to the
control plane, a Starlette app. Order of a request: server guard, table, pipeline, relay, books.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from functools import partial
from urllib.parse import unquote

from gateway import plugins
from gateway.admin import House
from gateway.background import Background
from gateway.client import Client, Receive, Scope, Send
from gateway.control import control_plane
from gateway.conversations.kept import Conversations
from gateway.core.endpoint import Endpoint, Inference, Probe, Query, Reply
from gateway.core.errors import GatewayError, internal_error
from gateway.core.headers import Headers
from gateway.core.ids import new_request_id
from gateway.desk import Desk
from gateway.idempotency.once import Once
from gateway.pipeline import Pipeline, refuse
from gateway.services import Services

logger = logging.getLogger("aidock.app")

_DEPLOYMENTS = "/openai/deployments/"
"""Where Azure has its models."""


class Application:
    """The gateway as one ASGI application."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.conversations = Conversations(services.conversations)
        self.pipeline = Pipeline(
            services.directory,
            services.counters,
            services.relay,
            services.metrics,
            lambda: services.world,
            services.admission,
            Once(services.answers),
            self.conversations,
            services.cache,
            services.shadow.note,
            services.health,
        )
        self._table, self._prefixes = _table(plugins.endpoints())
        inferences = {e.name: e for e in self._table.values() if isinstance(e, Inference)}
        house = House(services.database, services.directory, services.counters, lambda: services.world, inferences)
        self._control = control_plane(self._allowed_methods, house)
        longest_first = sorted(inferences.values(), key=lambda e: -len(e.operation))
        self._deployed = {f"/{e.operation}": e for e in longest_first}
        self._usual = next(e for e in self._table.values() if isinstance(e, Inference) and e.caps)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        method, path = scope["method"], scope["path"]
        endpoint, rest = self._table.get((method, path)), ""
        if endpoint is None:
            endpoint, rest = self._by_prefix(method, scope)
        client = Client(scope, receive, send)
        match endpoint:
            case Inference():
                await self.pipeline.serve(endpoint, client)
            case Query():
                await self._query(endpoint, rest, client)
            case Probe():
                await _send_reply(client, endpoint.answer(self.services, scope["query_string"]), new_request_id())
            case None:
                await self._control(scope, receive, send)

    def begin_drain(self) -> None:
        """Stop looking ready; what runs goes on."""
        self.services.draining = True

    def end_calls(self) -> None:
        """End what still runs or waits; every client is told."""
        self.services.admission.close()
        self.services.relay.end_all()

    async def _query(self, endpoint: Query, rest: str, client: Client) -> None:
        request_id = new_request_id()
        headers: Headers = [(b"x-request-id", request_id.encode())]
        try:
            principal = await self.pipeline.identify(client)
            services = self.services
            limits = partial(services.directory.limits, principal)
            desk = Desk(principal, rest, services.world, services.counters, limits, self._usual, self.conversations)
            await _send_reply(client, await endpoint.answer(desk), request_id)
        except GatewayError as error:
            await refuse(client, endpoint, error, request_id, headers)
        except Exception:
            logger.exception("a query failed", extra={"http.request.id": request_id})
            await refuse(client, endpoint, internal_error(request_id), request_id, headers)

    def _by_prefix(self, method: str, scope: Scope) -> tuple[Endpoint | None, str]:
        """An endpoint whose path ends in a free part, or has a model in it; either may hold slashes."""
        raw = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
        if raw.startswith(_DEPLOYMENTS):
            return self._by_deployment(method, raw.removeprefix(_DEPLOYMENTS)), ""
        for (taken, prefix), endpoint in self._prefixes.items():
            if taken == method and raw.startswith(prefix) and len(raw) > len(prefix):
                return endpoint, unquote(raw[len(prefix) :])
        return None, ""

    def _by_deployment(self, method: str, path: str) -> Inference | None:
        """An endpoint as Azure's clients ask for it, who know no model but the one in the path."""
        for operation, endpoint in self._deployed.items():
            if endpoint.method == method and path.endswith(operation):
                return replace(endpoint, model=unquote(path.removesuffix(operation)))
        return None

    def _allowed_methods(self, path: str) -> list[str]:
        return [method for method, known in self._table if known == path]

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        background = Background(self.services)
        await receive()
        try:
            await background.start()
        except Exception as error:
            logger.exception("the gateway cannot start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await background.stop()
        await send({"type": "lifespan.shutdown.complete"})


def create() -> Application:
    """Build the application from the environment: `AIDOCK_CONFIG` and `AIDOCK_DATA`, and what overrides settings.

    Raises `ConfigError`, and what a service that cannot be built raises."""
    return Application(Services.from_environ(os.environ))


async def _send_reply(client: Client, reply: Reply, request_id: str) -> None:
    headers = [(b"content-type", reply.content_type), (b"x-request-id", request_id.encode()), *reply.headers]
    await client.reply(reply.status, headers, reply.body)


def _table(endpoints: list[Endpoint]) -> tuple[dict[tuple[str, str], Endpoint], dict[tuple[str, str], Endpoint]]:
    """Endpoints by method and path, and those whose path ends in `{rest}` by their prefix.

    A base URL without `/v1` is the commonest mistake in client configurations, so the root paths answer too, and so do
    those below `/openai`, which is what Azure's clients ask.
    """
    exact: dict[tuple[str, str], Endpoint] = {}
    prefixes: dict[tuple[str, str], Endpoint] = {}
    for endpoint in endpoints:
        short = endpoint.path.removeprefix("/v1")
        aliases = endpoint.aliases if isinstance(endpoint, Probe) else (f"/openai{endpoint.path}", f"/openai{short}")
        for path in (endpoint.path, short, *aliases):
            if path.endswith("{rest}"):
                prefixes[endpoint.method, path.removesuffix("{rest}")] = endpoint
            else:
                exact[endpoint.method, path] = endpoint
    return exact, prefixes

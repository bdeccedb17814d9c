"""Serves an inference call: identify, read, check, reserve, and hand it to the relay.

What goes wrong here has cost nothing yet: the caller gets an error in its dialect and nothing is held or owed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from gateway import estimate, uploads
from gateway.admission import Admission
from gateway.cache import MISSED, Miss, ResponseCache
from gateway.client import Client, ClientGone
from gateway.conversations.kept import Conversations
from gateway.core.body import Body
from gateway.core.call import Call, leg_id
from gateway.core.deployment import Leg
from gateway.core.endpoint import Inference, Query, Reply
from gateway.core.errors import GatewayError, internal_error, invalid_request, rate_limited
from gateway.core.form import Form
from gateway.core.headers import Headers, safe_value
from gateway.core.ids import new_request_id
from gateway.core.limits import NOTHING
from gateway.core.ports import DECISION_S, CounterStore
from gateway.core.principal import Principal
from gateway.health import Health
from gateway.idempotency.once import Once, idempotency_key
from gateway.identity.credential import presented
from gateway.identity.directory import Directory
from gateway.relay import Relay
from gateway.reserve import Holds, NoRoom, Pause
from gateway.routing import Course
from gateway.telemetry.logs import request_id as logged_request_id
from gateway.telemetry.metrics import Labels, Metrics
from gateway.world import World

logger = logging.getLogger("aidock.pipeline")

_JSON: Headers = [(b"content-type", b"application/json")]


class Pipeline:
    """One object per process; `world` gives the configuration in force."""

    def __init__(
        self,
        directory: Directory,
        counters: CounterStore,
        relay: Relay,
        metrics: Metrics,
        world: Callable[[], World],
        admission: Admission,
        once: Once,
        conversations: Conversations,
        cache: ResponseCache,
        note_shadow: Callable[[Call], None],
        health: Health,
    ) -> None:
        """`note_shadow` is told of calls that pass although something in shadow objects."""
        self._directory = directory
        self._counters = counters
        self._relay = relay
        self._metrics = metrics
        self._world = world
        self._admission = admission
        self._once = once
        self._conversations = conversations
        self._cache = cache
        self._note_shadow = note_shadow
        self._health = health
        self._holds = Holds(counters, metrics, note_shadow)

    async def serve(self, endpoint: Inference, client: Client) -> None:
        """Answer one request, whatever it is."""
        started = time.monotonic()
        request_id = new_request_id()
        logged_request_id.set(request_id)
        headers: Headers = [(name, request_id.encode()) for name in endpoint.dialect.id_headers]
        known = _Known()
        try:
            world = self._world()
            server = world.snapshot.server
            known.principal = await self.identify(client)
            if not self._admission.enter():
                await self._admission.wait(known.principal.key_id, client, server)
            try:
                key = idempotency_key(client.scope["headers"]) if server.idempotency_seconds else None
                body = await self._body(endpoint, client, server.max_body_bytes, known)
                body, continues = await self._conversations.recall(endpoint, known.principal, body, server)
                course = self._course(world, endpoint, known.principal, body)
                leg = course.first()
                call = known.call = self._read(endpoint, known.principal, body, client, leg, request_id, started)
                call.continues = continues
                world.check(call)
                if not leg.targets:
                    raise _barred(leg)
                if world.inspecting or world.filtering:
                    await world.inspect(call)
                decided_by = time.monotonic() + DECISION_S
                if endpoint.alone is not None and not world.able(call.route, endpoint).every_target:
                    await self._answer_alone(endpoint.alone(estimate.likely_prompt(call)), call, client, headers)
                elif key is None:
                    await self._make(call, course, client, world, headers, decided_by)
                else:
                    await self._make_once(key, call, course, client, world, headers, decided_by)
            finally:
                self._admission.leave()
                if known.form is not None:
                    known.form.close()
        except ClientGone:
            self._metrics.disconnects.labels("sending").inc()
        except GatewayError as error:
            self._count(endpoint, known, error)
            await refuse(client, endpoint, error, request_id, headers)
        except Exception:
            logger.exception("a call failed in the gateway itself")
            self._counters.settle(request_id, (), 0.0, NOTHING)  # changes nothing where the books were closed
            if not client.began:
                failure = internal_error(request_id)
                self._count(endpoint, known, failure)
                await refuse(client, endpoint, failure, request_id, headers)

    async def identify(self, client: Client) -> Principal:
        """Who calls. Raises 401, or 503 where that cannot be found out."""
        credential = presented(client.scope["headers"])
        return self._directory.recall(credential) or await self._directory.find(credential)

    async def _body(self, endpoint: Inference, client: Client, most: int, known: _Known) -> Body:
        if endpoint.form:
            known.form = await uploads.receive(client, most)
            return known.form
        return Body(await client.body(most))

    async def _make(
        self, call: Call, course: Course, client: Client, world: World, headers: Headers, by: float
    ) -> None:
        cache = call.route.cache
        found = None if cache is None else await self._cache.look_up(call, cache, world.snapshot.hash, by)
        left = await self._hold(call, course, world, by, partial(self._wait, call, client, world))
        self._conversations.watch(call, client, world.snapshot.server.responses_store_seconds)
        if isinstance(found, Miss):
            found.watch(client)
            headers.append(MISSED)
        elif found is not None and found.target in call.targets:
            await self._cache.give(found, call, client, [*headers, *left])
            return
        move = partial(self._move, call, world, headers)
        await self._relay.carry(call, client, world.carriers, [*headers, *left], course, move)

    async def _answer_alone(self, reply: Reply, call: Call, client: Client, headers: Headers) -> None:
        """Give an answer of the gateway's own, which costs nothing."""
        labels = Labels(
            call.endpoint.name, call.model_id, "", call.principal.department, str(reply.status), call.streamed
        )
        self._metrics.series(labels).requests.inc()
        said = [(b"content-type", reply.content_type), *headers, *reply.headers]
        await client.reply(reply.status, said, reply.body)

    async def _make_once(
        self, key: bytes, call: Call, course: Course, client: Client, world: World, headers: Headers, by: float
    ) -> None:
        """Make a call that carries an Idempotency-Key, unless it was made before."""
        make = partial(self._make, call, course, client, world, headers, by)
        replayed = await self._once.make(key, call, client, world.snapshot.server.idempotency_seconds, by, make)
        if replayed is not None:
            labels = Labels(
                call.endpoint.name, call.model_id, "", call.principal.department, str(replayed.status), call.streamed
            )
            self._metrics.series(labels).requests.inc()

    async def _hold(self, call: Call, course: Course, world: World, by: float, pause: Pause) -> Headers:
        """Hold what the call may use; where a limit has no room for that, what it may use of a model that the route
        has for this case. Raises what the first limit without room says."""
        refused: NoRoom | None = None
        while True:
            try:
                left = await self._holds.take(world.policies, call, by, pause)
                break
            except NoRoom as error:
                refused, by = refused or error, error.by
            leg = self._cheaper(call, course, world)
            if leg is None:
                self._metrics.rejections.labels(refused.limit.scope, refused.limit.metric).inc()
                raise refused.error
        if call.shadowed:
            self._note_shadow(call)
        return left

    async def _wait(self, call: Call, client: Client, world: World, seconds: float) -> None:
        """Wait for a window as long as the client does, then see who it is and what binds it by now. Raises
        `ClientGone`, and what the call is refused with."""
        gone = asyncio.Event()
        client.on_gone(gone.set)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(gone.wait(), seconds)
        client.stop_watching()
        if gone.is_set():
            raise ClientGone
        call.principal = await self.identify(client)
        call.created_at = self._counters.now()
        self._measure(call)
        world.check(call)

    def _cheaper(self, call: Call, course: Course, world: World) -> Leg | None:
        """Put the call on its way to the next model for a caller who has used up what the one before needs; None where
        there is none that takes it."""
        while (leg := course.after("quota")) is not None:
            call.take(leg)
            try:
                self._measure(call)
                world.check(call)
            except GatewayError:
                continue  # it cannot take this call, such as a prompt that is too long for it
            return leg
        return None

    async def _move(self, first: Call, world: World, headers: Headers, leg: Leg, number: int) -> tuple[Call, Headers]:
        """The request's next call, on another leg: checked, and held for by that model's limits and price. Raises
        what it is refused with; then nothing is held."""
        call = replace(
            first,
            request_id=leg_id(first.request_id, number),
            started=time.monotonic(),
            created_at=self._counters.now(),
            claims=(),
            decisions=(),
            shadowed=(),
            as_chat=None,
        )
        call.take(leg)
        self._measure(call)
        world.check(call)
        try:
            left = await self._holds.take(world.policies, call, time.monotonic() + DECISION_S)
        except NoRoom as refused:
            raise refused.error from refused
        return call, [*headers, *left]

    def _measure(self, call: Call) -> None:
        """What binds the call under its name, and the most it may use of the models it may go to."""
        call.limits = self._directory.limits(call.principal, call.model_id)
        call.demand = estimate.demand(call)

    def _course(self, world: World, endpoint: Inference, principal: Principal, body: Body) -> Course:
        """The ways to the model that the body asks for. Raises 400 and 404."""
        model_id = endpoint.model or body.text("model") or endpoint.default_model
        if not model_id:
            raise invalid_request("'model' is missing. GET /v1/models lists what you may use.", param="model")
        for name in endpoint.required:
            if name not in body:
                raise invalid_request(f"'{name}' is missing.", param=name)
        if endpoint.examine is not None:
            endpoint.examine(body)
        route = world.route(model_id, principal)
        able = world.able(route, endpoint)
        draw = random.random()  # noqa: S311  spreads load, guards nothing
        return Course(able if able.every_target else route, self._health, draw, time.time())

    def _read(
        self,
        endpoint: Inference,
        principal: Principal,
        body: Body,
        client: Client,
        leg: Leg,
        request_id: str,
        started: float,
    ) -> Call:
        """The body's head as a call on its first leg. Raises 400."""
        streamed = endpoint.streams and body.flag("stream")
        call = Call(
            request_id=request_id,
            endpoint=endpoint,
            principal=principal,
            headers=client.scope["headers"],
            body=body,
            model_id=leg.name,
            route=leg.route,
            started=started,
            created_at=self._counters.now(),
            streamed=streamed,
            wants_usage=streamed and _wants_usage(body),
            targets=leg.targets,
            fallback=leg.reason,
            anyway=leg.anyway,
        )
        self._measure(call)
        return call

    def _count(self, endpoint: Inference, known: _Known, error: GatewayError) -> None:
        """A refused request in the metrics. Only names from the configuration become labels."""
        call, principal = known.call, known.principal
        labels = Labels(
            endpoint.name,
            call.model_id if call is not None and error.code != "model_not_found" else "",
            "",
            principal.department if principal is not None else "",
            str(error.status),
            call is not None and call.streamed,
        )
        self._metrics.series(labels).requests.inc()


class _Known:
    """What is known of a request when it is refused."""

    __slots__ = ("call", "form", "principal")

    def __init__(self) -> None:
        self.call: Call | None = None
        self.form: Form | None = None
        self.principal: Principal | None = None


async def refuse(
    client: Client, endpoint: Inference | Query, error: GatewayError, request_id: str, headers: Headers
) -> None:
    """Answer with an error in the endpoint's dialect."""
    said = [(name.encode(), safe_value(value)) for name, value in error.headers.items()]
    await client.reply(error.status, [*_JSON, *headers, *said], endpoint.dialect.error_body(error, request_id))


def _wants_usage(body: Body) -> bool:
    if "stream_options" not in body:
        return False
    options = body.value("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _barred(leg: Leg) -> GatewayError:
    """Every provider of the model has said when to come again, and that is not now."""
    return rate_limited(
        f"The providers of '{leg.name}' have no room now, and have said when they will. Try again in "
        f"{math.ceil(leg.wait)} s.",
        math.ceil(leg.wait),
    )

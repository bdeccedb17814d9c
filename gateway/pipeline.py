"""Serves an inference call: identify, read, check, reserve, and hand it to the relay.

What goes wrong here has cost nothing yet: the caller gets an error in its dialect and nothing is held or owed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from gateway import estimate, uploads
from gateway.admission import Admission
from gateway.client import Client, ClientGone
from gateway.conversations.kept import Conversations
from gateway.core.body import Body
from gateway.core.call import Call
from gateway.core.endpoint import Inference, Query
from gateway.core.errors import GatewayError, accounting_unavailable, internal_error, invalid_request
from gateway.core.form import Form
from gateway.core.headers import Headers, safe_value
from gateway.core.ids import new_request_id
from gateway.core.limits import NOTHING, Claim, Denied, Granted, Level, Limit
from gateway.core.money import MAX_AMOUNT
from gateway.core.ports import DECISION_S, CounterStore, Policy, StoreUnavailable
from gateway.core.principal import Principal
from gateway.core.records import Decision
from gateway.idempotency.once import Once, idempotency_key
from gateway.identity.credential import presented
from gateway.identity.directory import Directory
from gateway.relay import Relay
from gateway.telemetry.logs import request_id as logged_request_id
from gateway.telemetry.metrics import Labels, Metrics
from gateway.world import World

logger = logging.getLogger("aidock.pipeline")

LEASE_S = 60.0
"""A hold lapses this long after its gateway stopped renewing it."""

_JSON: Headers = [(b"content-type", b"application/json")]
_REMEMBERED_LIMITS = 10_000

_About = tuple[str, str, str, str, str, str, int]
_new = tuple.__new__  # a third quicker than calling the named tuple, once a claim


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
        note_shadow: Callable[[Call], None],
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
        self._note_shadow = note_shadow
        self._prefixes: dict[int, tuple[Limit, _About]] = {}

    async def serve(self, endpoint: Inference, client: Client) -> None:
        """Answer one request, whatever it is."""
        started = time.monotonic()
        request_id = new_request_id()
        logged_request_id.set(request_id)
        headers: Headers = [(b"x-request-id", request_id.encode())]
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
                call = known.call = self._read(endpoint, known.principal, body, client, world, request_id, started)
                call.continues = continues
                world.check(call)
                if world.inspecting or world.filtering:
                    await world.inspect(call)
                decided_by = time.monotonic() + DECISION_S
                if key is None:
                    await self._make(call, client, world, headers, decided_by)
                else:
                    await self._make_once(key, call, client, world, headers, decided_by)
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

    async def _make(self, call: Call, client: Client, world: World, headers: Headers, by: float) -> None:
        headers += await self._reserve(world.policies, call, by)
        self._conversations.watch(call, client, world.snapshot.server.responses_store_seconds)
        if call.shadowed:
            self._note_shadow(call)
        await self._relay.carry(call, client, world.carriers, headers)

    async def _make_once(
        self, key: bytes, call: Call, client: Client, world: World, headers: Headers, by: float
    ) -> None:
        """Make a call that carries an Idempotency-Key, unless it was made before."""
        make = partial(self._make, call, client, world, headers, by)
        replayed = await self._once.make(key, call, client, world.snapshot.server.idempotency_seconds, by, make)
        if replayed is not None:
            labels = Labels(
                call.endpoint.name, call.model_id, "", call.principal.department, str(replayed.status), call.streamed
            )
            self._metrics.series(labels).requests.inc()

    def _read(
        self,
        endpoint: Inference,
        principal: Principal,
        body: Body,
        client: Client,
        world: World,
        request_id: str,
        started: float,
    ) -> Call:
        """The body's head as a call. Raises 400 and 404."""
        model_id = endpoint.model or body.text("model") or endpoint.default_model
        if not model_id:
            raise invalid_request("'model' is missing. GET /v1/models lists what you may use.", param="model")
        for name in endpoint.required:
            if name not in body:
                raise invalid_request(f"'{name}' is missing.", param=name)
        if endpoint.examine is not None:
            endpoint.examine(body)
        streamed = endpoint.streams and body.flag("stream")
        route = world.route(model_id, principal)
        call = Call(
            request_id=request_id,
            endpoint=endpoint,
            principal=principal,
            headers=client.scope["headers"],
            body=body,
            model_id=model_id,
            route=route,
            started=started,
            created_at=self._counters.now(),
            streamed=streamed,
            wants_usage=streamed and _wants_usage(body),
            limits=self._directory.limits(principal, model_id),
        )
        call.demand = estimate.demand(call)
        return call

    async def _reserve(self, policies: Sequence[Policy], call: Call, by: float) -> Headers:
        """Hold every claim of the chain at once; the headers that say what is left. Raises what the policy whose
        claim found no room says. Decides by the monotonic moment `by`, with or without the store."""
        call.claims = claims = _claims(policies, call)
        if not claims:
            return []
        try:
            verdict = await self._counters.reserve(call.request_id, claims, LEASE_S, call.created_at, by)
            if isinstance(verdict, Denied):
                verdict = await self._reserve_less(policies, call, verdict, by)
        except StoreUnavailable as error:
            return self._uncounted(policies, call, error)
        except asyncio.CancelledError:
            self._refund(call)
            raise
        call.created_at = verdict.at
        self._note(policies, call, verdict)
        return _what_is_left(verdict.levels)

    async def _reserve_less(self, policies: Sequence[Policy], call: Call, denied: Denied, by: float) -> Granted:
        """A claim found no room. Ask once more where its policy can make do with less; raise its error otherwise."""
        owner = _owner(policies, call, denied.level)
        shrink = getattr(owner, "shrink", None)
        if shrink is not None and shrink(call, denied.level):
            call.claims = _claims(policies, call)
            verdict = await self._counters.reserve(call.request_id, call.claims, LEASE_S, call.created_at, by)
            if isinstance(verdict, Granted):
                return verdict
            denied = verdict
            owner = _owner(policies, call, denied.level)
        limit = denied.level.limit
        self._metrics.rejections.labels(limit.scope, limit.metric).inc()
        raise owner.denied(call, denied.level)

    def _uncounted(self, policies: Sequence[Policy], call: Call, error: StoreUnavailable) -> Headers:
        """The store is away: go on only where every policy with a claim says so. What such a call uses is counted
        when it settles, as soon as the store is back."""
        if any(policy.on_store_error == "deny" and policy.claims(call) for policy in policies):
            self._refund(call)
            raise accounting_unavailable(
                "The gateway cannot check your quota now, so it does not make the call. Try again shortly."
            ) from error
        self._metrics.unmetered.inc()
        call.decisions = tuple(
            [
                _new(Decision, (*_about(policy, limit), 0, amount, False))
                for policy in policies
                for limit, amount in policy.claims(call)
            ]
        )
        return []

    def _refund(self, call: Call) -> None:
        """The store may or may not hold what this call claims; it does not any more."""
        self._counters.settle(call.request_id, (), call.created_at, NOTHING)

    def _note(self, policies: Sequence[Policy], call: Call, verdict: Granted) -> None:
        """Keep what the claims were told, for the call's row and for the metrics."""
        levels = verdict.levels
        for index in verdict.over:
            limit = levels[index].limit
            self._metrics.over_limit.labels(limit.scope, limit.metric, limit.action).inc()
        self._metrics.note_levels(levels)
        prefixes = self._prefixes
        decisions = []
        for (limit, amount), level in zip(call.claims, levels):  # noqa: B905 - the keyword costs more than the pairing
            known = prefixes.get(id(limit))
            if known is None:
                known = self._prefix(policies, call, limit)
            decisions.append(_new(Decision, (*known[1], level[1], amount, True)))
        call.decisions = tuple(decisions)
        if verdict.over and not call.shadowed:
            self._note_shadow(call)

    def _prefix(self, policies: Sequence[Policy], call: Call, limit: Limit) -> tuple[Limit, _About]:
        """What decisions on a limit have in common. Kept by identity, together with the limit, so that no other limit
        can get the same identity: hashing one at every call would cost more than all the rest."""
        if len(self._prefixes) >= _REMEMBERED_LIMITS:
            self._prefixes.clear()
        owner = next(policy for policy in policies if any(claim.limit is limit for claim in policy.claims(call)))
        known = self._prefixes[id(limit)] = (limit, _about(owner, limit))
        return known

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


def _claims(policies: Sequence[Policy], call: Call) -> Sequence[Claim]:
    return [claim for policy in policies for claim in policy.claims(call)]


def _about(policy: Policy, limit: Limit) -> _About:
    return policy.name, limit.scope, limit.subject, limit.metric, limit.window, limit.action, limit.amount


def _owner(policies: Sequence[Policy], call: Call, level: Level) -> Policy:
    """The policy that made the claim on a level's limit."""
    return next(
        p for p in policies if any(claim.limit is level.limit or claim.limit == level.limit for claim in p.claims(call))
    )


def _what_is_left(levels: Sequence[Level]) -> Headers:
    """OpenAI's rate limit headers, for the tightest limit on requests and on tokens."""
    requests: Level | None = None
    tokens: Level | None = None
    fewest_requests = fewest_tokens = MAX_AMOUNT
    for level in levels:
        limit = level[0]
        metric = limit.metric
        if limit.action != "deny":
            continue
        left = limit.amount - level[1]
        if metric == "requests":
            if left < fewest_requests:
                requests, fewest_requests = level, left
        elif metric == "tokens" and left < fewest_tokens:
            tokens, fewest_tokens = level, left
    headers: Headers = []
    if requests is not None:
        _show(headers, requests, *_REQUESTS)
    if tokens is not None:
        _show(headers, tokens, *_TOKENS)
    return headers


def _show(headers: Headers, level: Level, limit: bytes, remaining: bytes, reset: bytes) -> None:
    headers.append((limit, b"%d" % level.limit.amount))
    headers.append((remaining, b"%d" % level.remaining))
    if level.resets_in is not None:
        headers.append((reset, b"%ds" % level.resets_in))


_REQUESTS = (b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests")
_TOKENS = (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens")

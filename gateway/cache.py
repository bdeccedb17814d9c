"""Answers that were given before, given again to who asks exactly the same.

What is the same is decided by all that may shape an answer: the body as policies have left it, the endpoint and the
model, what caps and filters the answer, and the whole configuration. The scope, which decides who may be given it, is a
part of the name that it is kept under. A hit is a call with books of its own, which uses one request and nothing else.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

from gateway import __version__
from gateway.books import Books
from gateway.client import Client
from gateway.core.call import Call, Demand
from gateway.core.deployment import CACHE, CacheRule, CacheScope, Target, Upstream
from gateway.core.errors import invalid_request
from gateway.core.headers import Headers
from gateway.core.records import OutcomeRecord
from gateway.core.usage import Usage
from gateway.idempotency.recording import Recorded, Recording
from gateway.idempotency.seam import Answer, AnswerCache, StoreUnavailable
from gateway.telemetry.metrics import Metrics

Wish = Literal["use", "refresh", "off"]

_WISHES: dict[bytes, Wish] = {b"use": "use", b"refresh": "refresh", b"off": "off"}

HEADER = b"x-aidock-cache"
MISSED = (HEADER, b"miss")

_HIT = (HEADER, b"hit")
_ABOUT: Headers = [(b"x-aidock-provider", CACHE.encode()), (b"x-aidock-attempts", b"0")]
_KEPT = frozenset({b"content-type", b"cache-control", b"x-accel-buffering", b"x-aidock-model"})
"""The headers that tell of the answer. The others tell of its call."""
_STEERING = (b"openai-", b"anthropic-")
"""How request headers begin that may go to an upstream and change what it answers."""
_SHARE = 3
"""A look-up may take a third of the time that is left for all decisions, so that it costs no call its reservation."""
_UPSTREAM = Upstream(CACHE, CACHE, "")
_NOTHING_USED = Usage(0, 0)
_COST, _AT, _BY = b"cost", b"at", b"by"
"""What the kept headers begin with: what the answer cost in micro-dollars, when it was given, in unix seconds, and the
upstream's name for the model that gave it."""

logger = logging.getLogger("aidock.cache")


class Hit(NamedTuple):
    """What is kept: an answer, when it was made, and the micro-dollars that it cost then. `target` is where a call goes
    that is given it."""

    headers: Headers
    body: bytes
    at: float
    cost: int
    target: Target


class Miss:
    """A request whose answer is to be kept, where it is whole and good. `unreachable`: the store is away, and is not
    asked again."""

    def __init__(self, store: AnswerCache, name: str, call: Call, seconds: int, *, replaces: bool) -> None:
        self._store = store
        self._name = name
        self._request_id = call.request_id
        self._made: tuple[Call, OutcomeRecord] | None = None
        self._cap = call.demand.cap_to_write
        self._seconds = seconds
        self._replaces = replaces
        self.unreachable = False
        call.on_end = self._note

    async def find(self, by: float) -> Answer | None:
        """What is kept of another request of the same name."""
        now = time.monotonic()
        try:
            return await self._store.find(self._name, now + (by - now) / _SHARE)
        except StoreUnavailable:
            self.unreachable = True
            return None

    def watch(self, client: Client) -> None:
        if not self.unreachable:
            Recording(client, self._keep)

    def _note(self, call: Call, record: OutcomeRecord) -> None:
        self._made = call, record  # of the calls that a request makes, the last one has answered

    async def _keep(self, told: Recorded | None) -> None:
        """The last piece is about to go out, and the books are closed."""
        if told is None or told.status != 200 or self._made is None or not self._is_good(*self._made):
            return
        answer = None
        if told.body is not None:
            record = self._made[1]
            about: Headers = [
                (_COST, b"%d" % record.cost_microusd),
                (_AT, b"%.3f" % time.time()),
                (_BY, record.upstream_model.encode()),
            ]
            answer = Answer(200, [*about, *(pair for pair in told.headers if pair[0] in _KEPT)], told.body)
        elif not self._replaces:
            return
        try:
            await self._store.put(self._name, answer, self._seconds)
        except StoreUnavailable as error:
            logger.warning(
                "An answer could not be kept in the cache.",
                extra={"http.request.id": self._request_id, "reason": str(error)},
            )

    def _is_good(self, call: Call, record: OutcomeRecord) -> bool:
        """Whether it is what the same request would be answered at another time: not by a fallback, nor under a cap
        that the end of a budget has lowered."""
        return record.outcome == "ok" and call.fallback is None and call.demand.cap_to_write == self._cap


class ResponseCache:
    """One object per process."""

    def __init__(self, store: AnswerCache, books: Books, metrics: Metrics) -> None:
        self._store = store
        self._books = books
        self._metrics = metrics

    async def look_up(self, call: Call, rule: CacheRule, configuration: str, by: float) -> Hit | Miss | None:
        """What is kept for a call that passed all checks; the call then goes to the cache's own target and demands
        nothing but to be counted. None where it is not to be cached. A store that does not answer by the monotonic
        moment `by`, or sooner, has nothing. Raises 400 for a header that says something else."""
        wish = _wish(call.headers, rule)
        if wish == "off":
            return None
        miss = Miss(self._store, _name(call, rule, configuration), call, rule.seconds, replaces=wish == "refresh")
        found = await miss.find(by) if wish == "use" else None
        if found is None:
            self._metrics.cache_misses.labels(call.route.name).inc()
            return miss
        (_, cost), (_, at), (_, made_by), *headers = found.headers
        target = replace(call.targets[0], upstream=_UPSTREAM, upstream_model=made_by.decode(), memo={})
        call.targets, call.demand = (target,), Demand(priced_at=call.created_at)
        return Hit(headers, found.body, float(at), int(cost), target)

    async def give(self, hit: Hit, call: Call, client: Client, headers: Headers) -> None:
        """Answer a call whose claims are held with what is kept. Raises 503 where it cannot be entered in the books;
        then nothing is held or owed."""
        run = self._books.open(call, headers)
        run.usage, run.status, run.saved = _NOTHING_USED, 200, hit.cost
        self._books.close(run, "ok")
        self._metrics.cache_hits.labels(call.route.name).inc()
        self._metrics.cache_saved.labels(call.route.name).inc(hit.cost / 1_000_000)
        age = (b"age", b"%d" % max(0.0, time.time() - hit.at))
        await client.reply(200, [*hit.headers, *headers, *_ABOUT, _HIT, age], hit.body)


def _wish(headers: Headers, rule: CacheRule) -> Wish:
    """What a request wants of the cache. Raises 400 for what is no wish."""
    told = [value for name, value in headers if name == HEADER]
    if not told:
        return "use" if rule.always else "off"
    wish = _WISHES.get(b",".join(told))
    if wish is not None:
        return wish
    raise invalid_request("x-aidock-cache must be one of use, refresh and off.")


def _name(call: Call, rule: CacheRule, configuration: str) -> str:
    """One name for all that an answer depends on, and for whom it is. Each part says how long it is, so no two calls
    can have the same parts."""
    digest = hashlib.sha256()
    for part in _parts(call, rule, configuration):
        digest.update(b"%d:%b" % (len(part), part))
    return digest.hexdigest()


def _parts(call: Call, rule: CacheRule, configuration: str) -> Iterator[bytes]:
    about = (*_owner(call, rule), call.endpoint.name, call.route.name, __version__, configuration)
    for text in about:
        yield text.encode()
    yield repr((len(call.filters), call.demand.cap_to_write, call.continues)).encode()
    yield b"\n".join(b"%b: %b" % pair for pair in sorted(call.headers) if pair[0].startswith(_STEERING))
    yield call.body.raw


def _owner(call: Call, rule: CacheRule) -> tuple[CacheScope, str]:
    """Whom an answer is for. One that can be continued by its id is for the user who can."""
    continues, caller = call.endpoint.continues, call.principal
    scope = "user" if continues is not None and continues.wants_keeping(call.body) else rule.scope
    return scope, {"user": caller.user, "department": caller.department, "everyone": ""}[scope]

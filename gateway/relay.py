"""Carries a call to its upstream and the answer back.

The books are closed before the last byte goes out, so a client that has its whole answer is always in the ledger.
Closing them takes no await, so neither a cancelled task nor a client that left can come between.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from gateway.books import Books, Run
from gateway.client import Client
from gateway.core.call import Call
from gateway.core.deployment import Target
from gateway.core.errors import (
    GatewayError,
    internal_error,
    no_healthy_deployment,
    upstream_error,
    upstream_timeout,
)
from gateway.core.headers import Headers, first, safe_value
from gateway.core.ports import Answer, Provider, Stream
from gateway.core.upstream import Exchange, Transport, UpstreamFailure, UpstreamRequest
from gateway.filtering import FilteredAnswer, FilteredStream, applies
from gateway.routing import order
from gateway.telemetry.metrics import Metrics
from gateway.translation import TranslatedAnswer, TranslatedStream, as_chat, through_chat

logger = logging.getLogger("aidock.relay")

_MOST_ANSWER_BYTES = 256 * 2**20
_MOST_ERROR_BYTES = 64 * 2**10
_WORTH_REPEATING = frozenset({502, 503, 529})
"""Statuses by which an upstream says that it did not do the work and may do it now."""
_PAUSE_S = (0.05, 0.25)

_SSE: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
_JSON: Headers = [(b"content-type", b"application/json")]

_SHUTTING_DOWN = GatewayError(
    503, "server_shutdown", "The gateway is restarting and ended this call. Try again.", type="server_error"
)


class Carrier(NamedTuple):
    """What speaks to one upstream: its dialect, and the pool that carries it, or the provider itself where it
    answers alone. `authorize` is there where the upstream wants more than a key."""

    provider: Provider
    transport: Transport
    authorize: Callable[[UpstreamRequest, Target, Transport], Awaitable[None]] | None = None
    passing: Callable[[Call, Target, Headers], Stream | None] | None = None


class Unanswered(Exception):
    """An attempt that failed before anything reached the client. `again`: the same target may do better now;
    `elsewhere`: another target may."""

    def __init__(self, error: GatewayError, *, again: bool = False, elsewhere: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.again = again
        self.elsewhere = elsewhere


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class Relay:
    """Carries calls. One object per process."""

    def __init__(self, books: Books, metrics: Metrics) -> None:
        self._books = books
        self._metrics = metrics
        self._running: dict[str, Run] = {}

    @property
    def running(self) -> Sequence[Call]:
        """The calls under way."""
        return [run.call for run in self._running.values()]

    def __len__(self) -> int:
        return len(self._running)

    async def carry(self, call: Call, client: Client, carriers: Mapping[str, Carrier], headers: Headers) -> None:
        """Serve a call whose claims are held. Answers the client and closes the books, whatever happens.

        Raises `GatewayError` only where the call could not be opened; then nothing is held or owed.
        """
        targets = order(call.route, random.random())  # noqa: S311  spreads load, guards nothing
        run = self._books.open(call, targets[0])
        self._running[call.request_id] = run
        client.on_gone(run.leave)
        try:
            await self._attempt_each(run, client, targets, carriers, headers)
        except ClientLeft:
            self._books.close(run, "client_gone")
        except GatewayError as error:
            await self._fail(run, client, error, headers)
        except Exception:
            logger.exception("a call failed in the gateway itself")
            await self._fail(run, client, internal_error(call.request_id), headers)
        finally:
            self._books.close(run, "client_gone")  # does nothing unless a cancellation cut the paths above short
            client.stop_watching()
            del self._running[call.request_id]

    def end_all(self) -> None:
        """Stop every call; its client is told that the gateway goes down."""
        for run in self._running.values():
            run.stop(_SHUTTING_DOWN)

    def close_books(self) -> None:
        """Settle what still runs as it stands: the process is about to end."""
        for run in self._running.values():
            self._books.close(run, "client_gone")

    async def _attempt_each(
        self,
        run: Run,
        client: Client,
        targets: Sequence[Target],
        carriers: Mapping[str, Carrier],
        headers: Headers,
    ) -> None:
        """Try targets until one answers. The first failure is what the client is told if none does."""
        first: GatewayError | None = None
        for position, target in enumerate(targets):
            if position:
                self._metrics.fallbacks.labels(run.call.route.name).inc()
            for retry in range(target.max_retries + 1):
                if retry:
                    await asyncio.sleep(random.uniform(*_PAUSE_S))  # noqa: S311  jitter
                try:
                    await self._attempt(run, client, target, carriers[target.upstream.name], headers)
                    self._note(target, "ok")
                    return
                except Unanswered as failed:
                    self._note(target, failed.error.code)
                    first = first or failed.error
                    if not failed.elsewhere:
                        raise first from failed
                    if not failed.again:
                        break
                except GatewayError as error:
                    self._note(target, error.code)
                    raise
        raise first or no_healthy_deployment(f"No deployment serves '{run.call.model_id}' now.")

    async def _attempt(self, run: Run, client: Client, target: Target, carrier: Carrier, headers: Headers) -> None:
        """Ask one target and pass its answer on. Raises `Unanswered` while nothing has reached the client."""
        provider, transport, authorize, passing = carrier
        translation = through_chat(run.call, target, provider)
        call = run.call if translation is None else as_chat(run.call, translation)
        request = provider.request(call, target)
        if authorize is not None:
            await _authorized(authorize(request, target, transport))
        exchange = transport.exchange(request)
        run.begin(target, exchange)
        try:
            if run.ended_by is not None:
                raise run.ended_by
            if run.left:
                raise ClientLeft
            await exchange.start()
            run.sent = True
            if not 200 <= exchange.status < 300:
                await self._refused(exchange, provider, target)
            elif call.endpoint.media and passing is not None:
                reader = passing(call, target, exchange.headers)
                await self._pass_on(run, client, exchange, provider, reader, headers)
            elif call.streamed:
                stream = provider.stream(call, target)
                if applies(call):
                    stream = FilteredStream(stream, call.filters)
                if translation is not None:
                    stream = TranslatedStream(stream, translation.stream(run.call))
                await self._pump(run, client, exchange, stream, headers)
            else:
                answer = await self._answer(call, exchange, provider, target)
                if applies(call):
                    answer = FilteredAnswer(answer, call.filters)
                if translation is not None:
                    answer = TranslatedAnswer(answer, translation.answer(run.call, answer.body))
                await self._reply(run, client, answer, headers)
        except UpstreamFailure as failure:
            run.sent = run.sent or not failure.unsent
            raise _translated(run, failure) from failure
        finally:
            exchange.close()

    async def _pass_on(
        self,
        run: Run,
        client: Client,
        exchange: Exchange,
        provider: Provider,
        reader: Stream | None,
        headers: Headers,
    ) -> None:
        """An answer that may be anything: what it is, its content type tells."""
        if reader is None:
            await self._reply(run, client, await self._answer(run.call, exchange, provider, run.target), headers)
            return
        kind = first(exchange.headers, b"content-type")
        run.kind = None if kind is None or kind.startswith(b"text/event-stream") else [(b"content-type", kind)]
        await self._pump(run, client, exchange, reader, headers)

    async def _refused(self, exchange: Exchange, provider: Provider, target: Target) -> None:
        """An upstream's error status. Always raises."""
        status = exchange.status
        body = await _read(exchange, _MOST_ERROR_BYTES)
        error = provider.error(status, exchange.headers, body or b"", target)
        not_the_callers_fault = status >= 500 or status in (401, 403, 408, 429)
        raise Unanswered(error, again=status in _WORTH_REPEATING, elsewhere=not_the_callers_fault)

    async def _answer(self, call: Call, exchange: Exchange, provider: Provider, target: Target) -> Answer:
        """A whole answer, read."""
        body = await _read(exchange, _MOST_ANSWER_BYTES)
        if body is None:
            raise Unanswered(upstream_error("The provider's answer is larger than this gateway passes on."))
        try:
            return provider.answer(call, target, body)
        except GatewayError as error:
            raise Unanswered(error) from error

    async def _reply(self, run: Run, client: Client, answer: Answer, headers: Headers) -> None:
        """Close the books on a whole answer and send it."""
        run.usage, run.produced = answer.usage, answer.produced
        run.status = 200
        self._books.close(run, "client_gone" if run.left else "ok")
        await client.reply(200, [(b"content-type", answer.content_type), *headers, *_about(run)], answer.body)

    async def _pump(self, run: Run, client: Client, exchange: Exchange, stream: Stream, headers: Headers) -> None:
        """A streamed answer. The status waits for the first bytes: a failure before them is still a status."""
        run.produced = stream.produced
        run.tell = getattr(stream, "failure", None)
        data = b""
        try:
            while not stream.complete:
                chunk = await exchange.read()
                if not chunk:
                    data = stream.finish()
                    break
                data = stream.feed(chunk)
                if data and not stream.complete:
                    if not run.status:
                        await self._begin(run, client, headers)
                    await client.write(data)
        except GatewayError as error:
            raise error if run.status else Unanswered(error) from error
        finally:
            run.usage = stream.usage
        if not run.status:
            await self._begin(run, client, headers)
        self._books.close(run, "client_gone" if run.left else "ok")
        await client.end(data)

    async def _begin(self, run: Run, client: Client, headers: Headers) -> None:
        run.status = 200
        run.first_byte_at = time.monotonic()
        await client.begin(200, [*(run.kind or _SSE), *headers, *_about(run)])

    async def _fail(self, run: Run, client: Client, error: GatewayError, headers: Headers) -> None:
        """Close the books on a failure and tell the client, by a status or, once the stream began, in band."""
        call = run.call
        run.status = run.status or error.status
        self._books.close(run, "timeout" if error.code == "upstream_timeout" else "upstream_error")
        if client.began:
            tell = run.tell or call.endpoint.dialect.error_event
            told = tell(error, call.request_id)
            if told:
                await client.fail(told)
            else:
                client.cut()
            return
        said = [(name.encode(), safe_value(value)) for name, value in error.headers.items()]
        body = call.endpoint.dialect.error_body(error, call.request_id)
        await client.reply(error.status, [*_JSON, *headers, *_about(run), *said], body)

    def _note(self, target: Target, outcome: str) -> None:
        """Count an attempt, and whether its deployment is well."""
        memo = target.memo
        count = memo.get(outcome)
        if count is None:
            count = memo[outcome] = self._metrics.attempts.labels(target.upstream.name, outcome)
        count.inc()
        up = outcome == "ok"
        if memo.get("up") is not up:
            memo["up"] = up
            self._metrics.deployment_up.labels(target.model.model_id, target.upstream.name).set(up)


async def _authorized(authorizing: Awaitable[None]) -> None:
    """A target whose credential cannot be had is passed over."""
    try:
        await authorizing
    except GatewayError as error:
        raise Unanswered(error, elsewhere=True) from error


def _translated(run: Run, failure: UpstreamFailure) -> Exception:
    """A broken exchange as what it means for the call."""
    if run.ended_by is not None:
        return run.ended_by
    if run.left:
        return ClientLeft()
    logger.warning(
        "an upstream exchange broke",
        extra={"provider": run.target.upstream.name, "kind": failure.kind, "reason": str(failure)},
    )
    if failure.kind.endswith("timeout"):
        error = upstream_timeout(f"The provider did not answer in time ({failure.kind.replace('_', ' ')}).")
    elif run.status:
        error = upstream_error("The provider broke off in the middle of its answer.")
    elif run.sent:
        error = upstream_error("The provider closed the connection without a usable answer.")
    else:
        error = upstream_error("The provider cannot be reached.")
    if run.status:
        return error
    return Unanswered(error, again=failure.unsent, elsewhere=failure.unsent or failure.kind == "connect_timeout")


def _about(run: Run) -> Headers:
    """What an answer says of the target that gave it."""
    memo = run.target.memo
    about = memo.get("about")
    if about is None:
        about = memo["about"] = [
            (b"x-aidock-model", safe_value(run.target.model.model_id)),
            (b"x-aidock-provider", safe_value(run.target.upstream.name)),
        ]
    return [*about, (b"x-aidock-attempts", b"%d" % run.attempts)]


async def _read(exchange: Exchange, most: int) -> bytes | None:
    """A body in one piece, None where it is longer than `most`."""
    pieces: list[bytes] = []
    size = 0
    while piece := await exchange.read():
        size += len(piece)
        if size > most:
            return None
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)

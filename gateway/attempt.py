"""One attempt: a call told to one upstream, and what comes back passed on.

The books are closed before the last byte goes out, so a client that has its whole answer is always in the ledger.
Closing them takes no await, so neither a cancelled task nor a client that left can come between.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from gateway import failures
from gateway.books import Books, Run
from gateway.client import Client
from gateway.core.call import Call
from gateway.core.deployment import Target
from gateway.core.errors import GatewayError, upstream_error
from gateway.core.headers import Headers, first, safe_value
from gateway.core.ports import Answer, Provider, Stream, Translation
from gateway.core.upstream import Exchange, Transport, UpstreamFailure, UpstreamRequest
from gateway.failures import Unanswered
from gateway.filtering import FilteredAnswer, FilteredStream, applies
from gateway.folding import folded
from gateway.health import Health
from gateway.prelude import Prelude
from gateway.telemetry.metrics import Metrics
from gateway.translation import TranslatedAnswer, TranslatedStream, as_chat, through_chat

logger = logging.getLogger("aidock.relay")

_MOST_ANSWER_BYTES = 256 * 2**20
_MOST_ERROR_BYTES = 64 * 2**10

_SSE: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class Carrier(NamedTuple):
    """What speaks to one upstream: its dialect, and the pool that carries it, or the provider itself where it
    answers alone. `authorize` is there where the upstream wants more than a key."""

    provider: Provider
    transport: Transport
    authorize: Callable[[UpstreamRequest, Target, Transport], Awaitable[None]] | None = None
    passing: Callable[[Call, Target, Headers], Stream | None] | None = None


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class Attempts:
    """Makes attempts. One object per process."""

    def __init__(self, books: Books, metrics: Metrics, health: Health) -> None:
        self._books = books
        self._metrics = metrics
        self._health = health

    async def make(self, run: Run, client: Client, target: Target, carrier: Carrier) -> None:
        """Ask one target and pass its answer on. Raises `Unanswered`."""
        provider, transport, authorize, _ = carrier
        try:
            translation = through_chat(run.call, target, provider)
            call = folded(run.call if translation is None else as_chat(run.call, translation), target)
            request = provider.request(call, target)
        except GatewayError as error:
            raise Unanswered(error, "unable") from error
        if authorize is not None:
            try:
                await authorize(request, target, transport)
            except GatewayError as error:
                raise failures.unauthorized(error) from error
        exchange = transport.exchange(request)
        run.begin(target, exchange)
        try:
            await self._converse(run, client, exchange, call, translation, carrier)
            self._note(target, "ok")
        except UpstreamFailure as failure:
            run.sent = run.sent or not failure.unsent
            broken = _broken(run, failure)
            self._note(target, broken.error.code)
            raise broken from failure
        except Unanswered as failed:
            self._note(target, failed.error.code)
            raise
        finally:
            exchange.close()

    async def _converse(
        self,
        run: Run,
        client: Client,
        exchange: Exchange,
        call: Call,
        translation: Translation | None,
        carrier: Carrier,
    ) -> None:
        """Send the request, and pass on what comes back."""
        target, provider, passing = run.target, carrier.provider, carrier.passing
        if run.ended_by is not None:
            raise run.ended_by
        if run.left:
            raise ClientLeft
        asked_at = time.monotonic()
        await exchange.start()
        run.latency = time.monotonic() - asked_at
        run.sent = True
        if not 200 <= exchange.status < 300:
            await self._refused(exchange, provider, target)
        elif call.endpoint.media and passing is not None:
            await self._pass_on(run, client, exchange, provider, passing(call, target, exchange.headers))
        elif call.streamed:
            stream = provider.stream(call, target)
            if applies(call):
                stream = FilteredStream(stream, call)
            if translation is not None:
                stream = TranslatedStream(stream, translation.stream(run.call))
            await self._pump(run, client, exchange, stream)
        else:
            answer = await self._answer(call, exchange, provider, target)
            if applies(call):
                answer = FilteredAnswer(answer, call.filters)
            if translation is not None:
                answer = TranslatedAnswer(answer, translation.answer(run.call, answer.body))
            await self._reply(run, client, answer)

    async def _pass_on(
        self, run: Run, client: Client, exchange: Exchange, provider: Provider, reader: Stream | None
    ) -> None:
        """An answer that may be anything: what it is, its content type tells."""
        if reader is None:
            await self._reply(run, client, await self._answer(run.call, exchange, provider, run.target))
            return
        kind = first(exchange.headers, b"content-type")
        run.kind = None if kind is None or kind.startswith(b"text/event-stream") else [(b"content-type", kind)]
        await self._pump(run, client, exchange, reader)

    async def _refused(self, exchange: Exchange, provider: Provider, target: Target) -> None:
        """An upstream's error status. Always raises."""
        body = await _read(exchange, _MOST_ERROR_BYTES)
        error = provider.error(exchange.status, exchange.headers, body or b"", target)
        raise failures.refused(exchange.status, error)

    async def _answer(self, call: Call, exchange: Exchange, provider: Provider, target: Target) -> Answer:
        """A whole answer, read."""
        body = await _read(exchange, _MOST_ANSWER_BYTES)
        if body is None:
            raise failures.unusable(upstream_error("The provider's answer is larger than this gateway passes on."))
        try:
            return provider.answer(call, target, body)
        except GatewayError as error:
            raise failures.unusable(error) from error

    async def _reply(self, run: Run, client: Client, answer: Answer) -> None:
        """Close the books on a whole answer and send it."""
        run.usage, run.produced = answer.usage, answer.produced
        run.status = 200
        self._health.succeeded(run.target, run.latency)
        self._books.close(run, "client_gone" if run.left else "ok")
        await client.reply(200, [(b"content-type", answer.content_type), *run.headers, *about(run)], answer.body)

    async def _pump(self, run: Run, client: Client, exchange: Exchange, stream: Stream) -> None:
        """A streamed answer. The status waits for the first content: a failure before it is still a status, or
        another target's turn."""
        run.produced = stream.produced
        run.tell = getattr(stream, "failure", None)
        prelude = Prelude(lambda held: self._begin(run, client, held))
        data = b""
        try:
            while not stream.complete:
                chunk = await exchange.read()
                if not chunk:
                    data = stream.finish()
                    break
                data = stream.feed(chunk)
                if prelude.sending is not None:
                    await prelude.sent()
                if data and not stream.complete:
                    if run.status:
                        await client.write(data)
                    elif stream.begun or not prelude.hold(data):
                        await prelude.release(data)
        except GatewayError as error:
            raise failures.unusable(error) from error
        finally:
            run.usage = stream.usage
            await prelude.close()
        if not run.status:
            data = prelude.take() + data
            await self._begin(run, client)
        self._books.close(run, "client_gone" if run.left else "ok")
        await client.end(data)

    async def _begin(self, run: Run, client: Client, held: bytes = b"") -> None:
        run.status = 200
        run.first_byte_at = time.monotonic()
        self._health.succeeded(run.target, run.latency)
        await client.begin(200, [*(run.kind or _SSE), *run.headers, *about(run)])
        if held:
            await client.write(held)

    def _note(self, target: Target, outcome: str) -> None:
        """Count an attempt."""
        memo = target.memo
        count = memo.get(outcome)
        if count is None:
            count = memo[outcome] = self._metrics.attempts.labels(target.upstream.name, outcome)
        count.inc()


def _broken(run: Run, failure: UpstreamFailure) -> Unanswered:
    """A broken exchange as what it means for the call. Raises what ended it where we did."""
    if run.ended_by is not None:
        raise run.ended_by from failure
    if run.left:
        raise ClientLeft from failure
    logger.warning(
        "an upstream exchange broke",
        extra={"provider": run.target.upstream.name, "kind": failure.kind, "reason": str(failure)},
    )
    return failures.broken(failure, sent=run.sent, begun=run.status > 0)


def about(run: Run) -> Headers:
    """What an answer says of the target that gave it, and why it was not the one that was asked for."""
    memo = run.target.memo
    about = memo.get("about")
    if about is None:
        about = memo["about"] = [
            (b"x-aidock-model", safe_value(run.target.model.model_id)),
            (b"x-aidock-provider", safe_value(run.target.upstream.name)),
        ]
    said = [*about, (b"x-aidock-attempts", b"%d" % run.attempts)]
    if run.call.fallback is not None:
        said.append((b"x-aidock-fallback", run.call.fallback.encode()))
    return said


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

"""Carries a request from model to model until one answers.

What was tried and failed is hidden from the client as long as it has seen nothing of an answer. Each model that the
request comes to is a call of its own in the books, held for by that model's limits and price.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

from gateway import failures
from gateway.attempt import Attempts, Carrier, ClientLeft, about
from gateway.books import Books, Run
from gateway.client import Client
from gateway.core.call import Call
from gateway.core.deployment import Leg, Target
from gateway.core.errors import GatewayError, internal_error, no_healthy_deployment
from gateway.core.headers import Headers, first, safe_value
from gateway.failures import Unanswered
from gateway.health import Health
from gateway.routing import Course
from gateway.telemetry.metrics import Metrics

logger = logging.getLogger("aidock.relay")

_PAUSE_S = (0.05, 0.25)
"""Before the first repetition at a deployment; twice as long before each further one."""
_LONGEST_WAIT_S = 3.0
"""The longest that a call waits because an upstream asks it to. A client's own patience is better spent by itself."""
_USUAL_WAIT_S = 0.5
"""How long it waits where an upstream has no room and does not say until when."""
_LATE = (1.0, 1.25)
"""Calls that were told to wait equally long come back spread."""
_MOST_ATTEMPTS = 12
"""Of one request, whatever is configured: clients repeat theirs, and the two multiply."""

_JSON: Headers = [(b"content-type", b"application/json")]

_SHUTTING_DOWN = GatewayError(
    503, "server_shutdown", "The gateway is restarting and ended this call. Try again.", type="server_error"
)


Move = Callable[[Leg, int], Awaitable[tuple[Call, Headers]]]
"""Makes the request's call on another leg, of a number, its claims held, and the headers of its answer. Raises
`GatewayError` where it may not be made."""


class Relay:
    """Carries calls. One object per process."""

    def __init__(self, books: Books, metrics: Metrics, health: Health) -> None:
        self._books = books
        self._metrics = metrics
        self._health = health
        self._attempts = Attempts(books, metrics, health)
        self._running: dict[str, Run] = {}

    @property
    def running(self) -> Sequence[Call]:
        """The calls under way. One whose client still reads while its books are closed is not."""
        return [run.call for run in self._running.values() if not run.closed]

    def __len__(self) -> int:
        return len(self._running)

    async def carry(
        self,
        call: Call,
        client: Client,
        carriers: Mapping[str, Carrier],
        headers: Headers,
        course: Course,
        move: Move,
    ) -> None:
        """Serve a call whose claims are held, with the headers of its answer. Answers the client and closes the books,
        whatever happens. `course` says where the request may go from there, `move` makes its call for it.

        Raises `GatewayError` only where the call could not be opened; then nothing is held or owed.
        """
        run = self._books.open(call, headers)
        self._running[call.request_id] = run
        client.on_gone(run.leave)
        try:
            await self._serve(run, client, carriers, course, move)
        except ClientLeft:
            self._books.close(run, "client_gone")
        except Unanswered as failed:
            await self._fail(run, client, failed.error, failed.told or failed.error)
        except GatewayError as error:
            await self._fail(run, client, error, error)
        except Exception:
            logger.exception("a call failed in the gateway itself")
            defect = internal_error(call.request_id)
            await self._fail(run, client, defect, defect)
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

    async def _serve(
        self, run: Run, client: Client, carriers: Mapping[str, Carrier], course: Course, move: Move
    ) -> None:
        """Try one model after the other until one answers. The first failure is what the client is told if none
        does."""
        told: GatewayError | None = None
        while True:
            try:
                await self._try(run, client, carriers)
                return
            except Unanswered as failed:
                told = failed.told = told or failed.error
                if not await self._move(run, failed, course, move) and not await self._wait(run, failed):
                    raise

    async def _try(self, run: Run, client: Client, carriers: Mapping[str, Carrier]) -> None:
        """Try the deployments of the call's model until one answers. Raises the last failure."""
        last: Unanswered | None = None
        call = run.call
        for target in call.targets:
            admission = self._health.admit(target, anyway=call.anyway or run.waits > 0)
            if admission == "refused":
                continue
            try:
                await self._try_deployment(run, client, target, carriers[target.upstream.name])
                return
            except Unanswered as failed:
                last = failed
                if run.has_used or not failed.elsewhere:
                    raise
            finally:
                if admission == "trial":
                    self._health.give_back(target)
        raise last or Unanswered(no_healthy_deployment(f"No deployment serves '{call.route.name}' now."), "connect")

    async def _try_deployment(self, run: Run, client: Client, target: Target, carrier: Carrier) -> None:
        """Try one deployment, and again as often as its settings say."""
        repeated = 0
        while True:
            try:
                await self._attempts.make(run, client, target, carrier)
                return
            except Unanswered as failed:
                if failed.kind != "unable":
                    self._health.failed(target, failed.kind, failed.wait)
                if run.status:
                    raise failed.error from failed  # the client has a part of the answer
                if run.has_used or not failed.again or not self._may_repeat(run, failed, repeated):
                    raise
            await run.pause(random.uniform(*_PAUSE_S) * 2**repeated)  # noqa: S311  jitter
            repeated += 1

    def _may_repeat(self, run: Run, failed: Unanswered, repeated: int) -> bool:
        """Whether the deployment's settings allow one more try. A request that its client repeats is not repeated here
        as well."""
        allowed = getattr(run.target.retries, failed.kind, 0)
        return repeated < allowed and run.attempts < _MOST_ATTEMPTS and not _is_repeated(run.call.headers)

    async def _move(self, run: Run, failed: Unanswered, course: Course, move: Move) -> bool:
        """Go on to the next model that takes the call. False where there is none."""
        while run.attempts < _MOST_ATTEMPTS and (leg := course.after(failed.kind)) is not None:
            if run.left:
                raise ClientLeft
            self._books.pass_on(run, failed.error)
            run.calls += 1
            try:
                call, headers = await move(leg, run.calls)
                if run.ended:
                    self._books.give_up(call)
                    raise ClientLeft
                self._books.go_on(run, call, headers)
            except GatewayError:
                continue  # the caller may not use so much of that model, or it cannot be recorded
            self._metrics.fallbacks.labels(call.route.name).inc()
            return True
        return False

    async def _wait(self, run: Run, failed: Unanswered) -> bool:
        """Wait as an upstream without room asks for, to try once more. False where that would be too long."""
        wait = _USUAL_WAIT_S if failed.wait is None else failed.wait
        if failed.kind != "rate_limit" or wait > _LONGEST_WAIT_S or not failed.may_repeat:
            return False
        if run.closed or run.has_used or not self._may_repeat(run, failed, run.waits):
            return False
        run.waits += 1
        await run.pause(wait * random.uniform(*_LATE))  # noqa: S311  jitter
        if run.left:
            raise ClientLeft
        return True

    async def _fail(self, run: Run, client: Client, error: GatewayError, told: GatewayError) -> None:
        """Close the books on a failure and tell the client, by a status or, once the stream began, in band. It is
        `told` of the first failure, whatever came of the others."""
        dialect = run.call.endpoint.dialect
        run.status = run.status or told.status
        self._books.close(run, failures.outcome_of(error))
        if client.began:
            said_in_band = (run.tell or dialect.error_event)(told, run.request_id)
            if said_in_band:
                await client.fail(said_in_band)
            else:
                client.cut()
            return
        said = [(name.encode(), safe_value(value)) for name, value in told.headers.items()]
        body = dialect.error_body(told, run.request_id)
        await client.reply(told.status, [*_JSON, *run.headers, *about(run), *said], body)


def _is_repeated(headers: Headers) -> bool:
    """Whether the client says that it has made this request before."""
    return first(headers, b"x-stainless-retry-count") not in (None, b"0")

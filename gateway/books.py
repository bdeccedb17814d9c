"""Opening and closing the books on a call: journal, counters, metrics and log, in one place and once.

A call is opened by its INTENT before any upstream hears of it, and closed by its OUTCOME, its settlement and its
metrics together. Both are synchronous: what settles travels by the counter store's own delivery. A request that goes on
to another model closes one call and opens the next; what is counted by request is counted at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.core.call import Call
from gateway.core.deployment import Target
from gateway.core.errors import GatewayError, accounting_unavailable
from gateway.core.headers import Headers
from gateway.core.limits import NOTHING, Actual
from gateway.core.metering import metered
from gateway.core.money import MAX_AMOUNT, Price
from gateway.core.ports import CounterStore, Journal, JournalUnavailable
from gateway.core.records import IntentRecord, Outcome, OutcomeRecord
from gateway.core.upstream import Exchange
from gateway.core.usage import Usage
from gateway.failures import outcome_of
from gateway.telemetry.logs import LineWriter
from gateway.telemetry.metrics import Labels, Metrics, Series

_LEFT_BEFORE_A_STATUS = "499"
"""The code that metrics show for a client that left before it was answered, as nginx has it."""
_MOST = MAX_AMOUNT - 1
"""What counters can hold. An upstream that reports more is wrong, but its call must settle all the same."""


@dataclass(slots=True, eq=False)
class Run:
    """A request under way: its call that is open, and what has happened to it so far. Moments are on the monotonic
    clock.

    `status` is what the client was sent, 0 while nothing was; `headers` are what its answer will carry. `attempts`
    counts those of the request, `tries` those of the open call. `produced` estimates the completion tokens so far;
    `tell` words a failure in the middle of the stream, where the stream knows better than its dialect; `kind` are the
    headers of a stream that is not of events; `saved` are the micro-dollars that an answer from the cache cost at
    first. `closed`: no call is open; `ended`: nor will be.
    """

    request_id: str
    call: Call
    target: Target
    started: float
    headers: Headers
    calls: int = 1
    exchange: Exchange | None = None
    attempts: int = 0
    tries: int = 0
    waits: int = 0
    sent: bool = False
    status: int = 0
    asked_at: float | None = None
    latency: float = 0.0
    first_byte_at: float | None = None
    usage: Usage | None = None
    produced: Callable[[], int] | None = None
    tell: Callable[[GatewayError, str], bytes] | None = None
    kind: Headers | None = None
    left: bool = False
    saved: int = 0
    ended_by: GatewayError | None = None
    closed: bool = False
    ended: bool = False
    record: OutcomeRecord | None = None
    waking: asyncio.Future[None] | None = None

    @property
    def has_used(self) -> bool:
        """Whether the last attempt cost something, so that its row is complete."""
        return self.usage is not None or (self.produced is not None and self.produced() > 0)

    def begin(self, target: Target, exchange: Exchange) -> None:
        """Another attempt."""
        self.target = target
        self.exchange = exchange
        self.attempts += 1
        self.tries += 1
        self.sent = False
        self.produced = None
        self.usage = None
        self.tell = None
        self.kind = None
        if self.asked_at is None:
            self.asked_at = time.monotonic()

    def leave(self) -> None:
        """The client is gone: stop the upstream, or let it finish where it bills its whole answer anyway."""
        self.left = True
        self._wake()
        if self.exchange is not None and self.target.on_client_gone == "cancel":
            self.exchange.close()

    def stop(self, error: GatewayError) -> None:
        """End the call from outside; its client is told the error."""
        self.ended_by = error
        self._wake()
        if self.exchange is not None:
            self.exchange.close()

    async def pause(self, seconds: float) -> None:
        """Wait, unless the client leaves or the call is stopped."""
        if self.left or self.ended_by is not None:
            return
        self.waking = asyncio.get_running_loop().create_future()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.waking, seconds)
        finally:
            self.waking = None

    def _wake(self) -> None:
        if self.waking is not None and not self.waking.done():
            self.waking.set_result(None)


class Books:
    """Keeps the journal, the counters, the metrics and the call log in step."""

    def __init__(self, journal: Journal, counters: CounterStore, metrics: Metrics, log: LineWriter | None) -> None:
        self._journal = journal
        self._counters = counters
        self._metrics = metrics
        self._log = log

    def open(self, call: Call, headers: Headers) -> Run:
        """Write the INTENT of a call whose claims are held. Raises 503 when it cannot be written; the claims are
        given back then."""
        self._intend(call)
        self._metrics.inflight.inc()
        return Run(call.request_id, call, call.targets[0], call.started, headers)

    def close(self, run: Run, outcome: Outcome) -> None:
        """Write the OUTCOME, settle, count and log. A request is closed once; what comes later changes nothing."""
        if run.ended:
            return
        run.ended = True
        record = run.record
        if record is None or not run.closed:
            record = self._enter(run, outcome)
            series = self._series(run, record)
            _count_use(series, record)
        else:
            series = self._series(run, record)
        self._count_request(series, run, outcome)

    def pass_on(self, run: Run, error: GatewayError) -> None:
        """The request leaves its call's model: close that call as if the client had been told the error. It has heard
        nothing yet."""
        if not run.closed:
            run.status = error.status
            record = self._enter(run, outcome_of(error))
            _count_use(self._series(run, record), record)
            run.status = 0

    def go_on(self, run: Run, call: Call, headers: Headers) -> None:
        """Open the request's next call, whose claims are held. Raises as `open` does."""
        self._intend(call)
        run.call, run.target, run.headers = call, call.targets[0], headers
        run.closed = run.sent = False
        run.exchange = run.usage = run.produced = run.tell = run.kind = None
        run.tries = run.waits = 0

    def give_up(self, call: Call) -> None:
        """Give back the claims of a call that will not be opened."""
        if call.claims:
            self._counters.settle(call.request_id, (), call.created_at, NOTHING)

    def _intend(self, call: Call) -> None:
        principal, amounts, target = call.principal, call.demand.amounts, call.targets[0]
        intent = IntentRecord(
            call.request_id,
            call.created_at,
            principal.user,
            principal.department,
            principal.key_id,
            call.endpoint.name,
            call.model_id,
            target.upstream.name,
            target.upstream_model,
            call.streamed,
            amounts["tokens"],
            amounts["cost"],
            target.model.prices.at(call.demand.priced_at).version,
        )
        try:
            self._journal.intent(intent)
        except JournalUnavailable as error:
            self.give_up(call)
            raise accounting_unavailable(
                "The gateway cannot record this call now, so it does not make it. Try again shortly."
            ) from error

    def _enter(self, run: Run, outcome: Outcome) -> OutcomeRecord:
        """Close the open call: once, whatever comes."""
        run.closed = True
        usage = _used(run, outcome)
        price = run.target.model.prices.at(run.call.demand.priced_at)
        cost = 0 if usage is None else min(_cost(usage, price), _MOST)
        record = run.record = _outcome_record(run, outcome, usage, cost, price.version)
        self._journal.outcome(record)
        actual = NOTHING if usage is None else Actual(1, usage.total, cost)  # as the ledger has it
        call = run.call
        if call.claims:
            self._counters.settle(call.request_id, call.claims, call.created_at, actual)
            self._metrics.note_overspend(call.claims, actual)
        if self._log is not None:
            self._log.put(record)
        if call.on_end is not None:
            call.on_end(call, record)
        return record

    def _series(self, run: Run, record: OutcomeRecord) -> Series:
        code = str(run.status) if run.status else _LEFT_BEFORE_A_STATUS
        return self._metrics.series(
            Labels(record.endpoint, record.model_id, record.provider, record.department, code, record.streamed)
        )

    def _count_request(self, series: Series, run: Run, outcome: Outcome) -> None:
        self._metrics.inflight.dec()
        series.requests.inc()
        series.duration.observe(time.monotonic() - run.started)
        if run.asked_at is not None:
            series.overhead.observe(run.asked_at - run.started)
        if run.first_byte_at is not None:
            series.first_token.observe(run.first_byte_at - run.started)
        if outcome == "client_gone":
            self._metrics.disconnects.labels("streaming" if run.first_byte_at is not None else "waiting").inc()


def _count_use(series: Series, record: OutcomeRecord) -> None:
    if record.prompt_tokens:
        series.prompt.inc(record.prompt_tokens)
    if record.completion_tokens:
        series.completion.inc(record.completion_tokens)
    if record.cached_tokens:
        series.cached.inc(record.cached_tokens)
    if record.reasoning_tokens:
        series.reasoning.inc(record.reasoning_tokens)
    if record.cost_microusd:
        series.cost.inc(record.cost_microusd / 1_000_000)


def _used(run: Run, outcome: Outcome) -> Usage | None:
    """What the call used: as reported, else as estimated from what was produced, else nothing.

    A client that left after its prompt was sent is charged for the prompt: the upstream has read it. A call that
    failed before it produced anything is charged nothing.
    """
    if run.usage is not None:
        return _countable(run.usage)
    produced = 0 if run.produced is None else run.produced()
    if outcome == "ok" or produced or (outcome == "client_gone" and run.sent):
        price = run.target.model.prices.at(run.call.demand.priced_at)
        tokens = run.call.demand.within_cap(produced)
        return _countable(metered(run.call.demand, price, tokens=None, units=None, produced=tokens, whole=False))
    return None


def _countable(usage: Usage) -> Usage:
    """The usage as far as counters can count, so that the row says what they were told."""
    if usage.units is not None and usage.units > _MOST:
        usage = usage._replace(units=_MOST)
    if usage.total <= _MOST:
        return usage
    prompt = min(usage.prompt, _MOST)
    completion = min(usage.completion, _MOST - prompt)
    return usage._replace(
        prompt=prompt,
        completion=completion,
        cached=None if usage.cached is None else min(usage.cached, prompt),
        reasoning=None if usage.reasoning is None else min(usage.reasoning, completion),
    )


def _cost(usage: Usage, price: Price) -> int:
    return price.cost(usage.prompt, usage.completion, usage.cached or 0, usage.units or 0, usage.unit)


def _reserved(call: Call) -> tuple[int, int]:
    """Tokens and micro-dollars held for the call; nothing where nothing binds it."""
    if not call.claims:
        return 0, 0
    amounts = call.demand.amounts
    return amounts["tokens"], amounts["cost"]


def _outcome_record(run: Run, outcome: Outcome, usage: Usage | None, cost: int, price_version: str) -> OutcomeRecord:
    call, target, principal = run.call, run.target, run.call.principal
    first = run.first_byte_at
    return OutcomeRecord(
        call.request_id,
        "refund" if usage is None else "charge",
        call.created_at,
        principal.user,
        principal.department,
        principal.key_id,
        call.endpoint.name,
        call.model_id,
        target.upstream.name,
        target.upstream_model,
        call.streamed,
        run.status,
        outcome,
        None if usage is None else usage.prompt,
        None if usage is None else usage.completion,
        None if usage is None else usage.cached,
        None if usage is None else usage.reasoning,
        None if usage is None else usage.source,
        cost,
        price_version,
        int((time.monotonic() - call.started) * 1000),
        None if first is None else int((first - call.started) * 1000),
        run.tries,
        *_reserved(call),
        call.decisions,
        0,
        None if usage is None else usage.units,
        None if usage is None else usage.unit,
        run.saved,
    )

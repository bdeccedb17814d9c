"""The rows of the table: what is measured, how, and against what it is held."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import msgspec

from bench import procfs
from bench.load import Outcome, Phase
from bench.processes import Broken, Child
from bench.table import Figures, Goal, Row, spread
from bench.targets import IDLE, IDLE_CHUNKS, INSTALL_NGINX, PLAIN, STREAM, STREAM_CHUNKS, Gateway, Target

MICRO = 1e6
MILLI = 1e3
KILO = 1e3
MEGA = 1e6
"""Factors from seconds, and divisors from bytes, to the units of the table."""

PLAIN_CONNECTIONS = 32
STREAM_CONNECTIONS = 64
IDLE_STREAMS = 1000
WARMUP_S = 0.1
LATENCY_WARMUP_S = 0.01
REST_S = 1.0
"""How long a gateway is left alone before its idle memory is read."""

ANSWER_S = 45.0
"""More than a load generator needs beyond a phase's seconds, however patient it is."""

IDLE_SETTLE_S = 5.5
"""Streams are held a little longer than their pace, so that each has carried a chunk while nothing else happened."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to measure: rounds of each kind, and seconds a round takes per target."""

    rounds: int
    plain_s: float
    stream_s: float
    latency_rounds: int
    latency_s: float
    starts: int


QUICK = Effort(rounds=3, plain_s=0.6, stream_s=0.9, latency_rounds=20, latency_s=0.05, starts=2)
FULL = Effort(rounds=7, plain_s=1.5, stream_s=3.0, latency_rounds=60, latency_s=0.05, starts=5)


class Load:
    """A load generator process."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def begin(self, phase: Phase) -> None:
        self._child.ask(msgspec.json.encode(phase).decode())

    def finish(self, phase: Phase) -> Outcome:
        """The outcome of the phase begun. Raises `Broken` when any call went wrong, or none was made."""
        outcome = msgspec.json.decode(self._child.answer(phase.seconds + ANSWER_S), type=Outcome)
        where = f"{phase.model} at port {phase.port}"
        if outcome.errors:
            raise Broken(f"{where}: {outcome.errors} errors beside {outcome.calls} calls, first: {outcome.first_error}")
        if not outcome.calls and not phase.hold:
            raise Broken(f"{where}: no call was completed")
        return outcome

    def run(self, phase: Phase) -> Outcome:
        self.begin(phase)
        return self.finish(phase)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What the rows play on. Everything in it is running; `gateway` may be restarted."""

    effort: Effort
    upstream: Target
    nginx: Target | None
    gateway: Gateway
    load: Load
    second_load: Load
    redis_gateway: Callable[[], Gateway]
    """A gateway with Redis counters, started on first use. Raises `Unavailable` where there is no Redis."""


class Unavailable(Exception):
    """Something that the row needs is not on this machine; the message says how to get it."""


def plain(stage: Stage) -> Figures:
    return _against_nginx(stage, _plain_phase)


def stream(stage: Stage) -> Figures:
    return _against_nginx(stage, _stream_phase)


def redis(stage: Stage) -> Figures:
    counted, embedded = _alternate(stage, [stage.redis_gateway().target, stage.gateway.target], _plain_phase)
    return Figures(measured=spread(counted), reference=spread(embedded), reference_name="embedded")


def latency(stage: Stage) -> Figures:
    """Every round calls the upstream directly, the gateway and nginx in turn: what is added is a round's own."""
    targets = [stage.upstream, stage.gateway.target, *([stage.nginx] if stage.nginx else [])]
    p50: list[list[float]] = [[] for _ in targets]
    for _ in range(stage.effort.latency_rounds):
        for target, seen in zip(targets, p50, strict=True):
            phase = _phase(target, PLAIN, connections=1, seconds=stage.effort.latency_s, warmup=LATENCY_WARMUP_S)
            seen.append(stage.load.run(phase).p50 * MILLI)
    direct, *proxied = p50
    added = [spread(via - to for via, to in zip(seen, direct, strict=True)) for seen in proxied]
    return Figures(
        measured=added[0],
        reference=added[1] if stage.nginx else None,
        note=f"the upstream itself answers in {median(direct):.3f} ms",
    )


def start(stage: Stage) -> Figures:
    """Restarts on data that is there; the first start, which also creates it, is a remark."""
    for _ in range(stage.effort.starts):
        _fresh(stage.gateway)
    first, *later = stage.gateway.ready_after
    return Figures(
        measured=spread(later), note=f"the first start, which creates the database and the key, took {first:.2f} s"
    )


def memory(stage: Stage) -> Figures:
    gateway = _fresh(stage.gateway)
    time.sleep(REST_S)
    return Figures(
        measured=spread([_resident(gateway)]),
        reference=spread([_resident(stage.nginx)]) if stage.nginx else None,
    )


def streams(stage: Stage) -> Figures:
    """The growth of a fresh, warmed-up gateway, so that nothing is paid from memory it had before."""
    gateway = _fresh(stage.gateway)
    stage.load.run(_phase(gateway, PLAIN, connections=PLAIN_CONNECTIONS, seconds=0.3))
    loads = [stage.load, stage.second_load]
    targets = [target for target in (gateway, stage.nginx) if target is not None]
    phases = [
        _phase(target, IDLE, connections=IDLE_STREAMS, seconds=IDLE_SETTLE_S, chunks=IDLE_CHUNKS, hold=True)
        for target in targets
    ]
    for load, phase in zip(loads, phases, strict=False):
        load.begin(phase)
    outcomes = [load.finish(phase) for load, phase in zip(loads, phases, strict=False)]
    each = [spread([(held.resident_after - held.resident_before) / IDLE_STREAMS / KILO]) for held in outcomes]
    return Figures(measured=each[0], reference=each[1] if stage.nginx else None)


@dataclass(frozen=True)
class Measurement:
    """A row to be: what it is held to, and how it is measured. Raises `Unavailable` or `Broken`."""

    goal: Goal
    measure: Callable[[Stage], Figures]

    def row(self, stage: Stage) -> Row:
        """The row, whatever happens to the measurement."""
        try:
            return Row(goal=self.goal, figures=self.measure(stage))
        except Unavailable as reason:
            return Row(goal=self.goal, trouble=str(reason))
        except (Broken, OSError) as error:
            return Row(goal=self.goal, trouble=str(error), broken=True)


ROWS = {
    "start": Measurement(Goal(title="ready after start", unit="s", bar=2, stretch=1), start),
    "memory": Measurement(Goal(title="idle memory", unit="MB", bar=110, stretch=80), memory),
    "streams": Measurement(
        Goal(title=f"memory per open stream, {IDLE_STREAMS} idle", unit="kB", bar=60, stretch=25), streams
    ),
    "plain": Measurement(Goal(title="CPU per plain call", unit="us", bar=5, stretch=3, by_ratio=True), plain),
    "stream": Measurement(
        Goal(title=f"CPU per {STREAM_CHUNKS}-chunk stream", unit="us", bar=3, stretch=2, by_ratio=True), stream
    ),
    "redis": Measurement(
        Goal(title="CPU per plain call, Redis counters", unit="us", bar=2.2, stretch=1.6, by_ratio=True), redis
    ),
    "latency": Measurement(Goal(title="added latency, 1 connection, p50", unit="ms", bar=1, stretch=0.5), latency),
}
"""By the name that `--only` takes, in the order in which they run."""


def _phase(
    target: Target,
    model: str,
    *,
    connections: int,
    seconds: float,
    warmup: float = WARMUP_S,
    chunks: int = 0,
    hold: bool = False,
) -> Phase:
    return Phase(
        port=target.port,
        key=target.key,
        model=model,
        connections=connections,
        seconds=seconds,
        warmup=warmup,
        chunks=chunks,
        hold=hold,
        watch=(target.pid,) if target.pid else (),
    )


def _plain_phase(target: Target, effort: Effort) -> Phase:
    return _phase(target, PLAIN, connections=PLAIN_CONNECTIONS, seconds=effort.plain_s)


def _stream_phase(target: Target, effort: Effort) -> Phase:
    return _phase(target, STREAM, connections=STREAM_CONNECTIONS, seconds=effort.stream_s, chunks=STREAM_CHUNKS)


def _alternate(
    stage: Stage, targets: Sequence[Target | None], phase: Callable[[Target, Effort], Phase]
) -> list[list[float]]:
    """CPU microseconds per call of each target, a list of one figure per round; the machine's moods hit all alike."""
    present = [target for target in targets if target is not None]
    cpu: list[list[float]] = [[] for _ in present]
    for _ in range(stage.effort.rounds):
        for target, seen in zip(present, cpu, strict=True):
            outcome = stage.load.run(phase(target, stage.effort))
            seen.append(outcome.cpu / outcome.calls * MICRO)
    return cpu


def _against_nginx(stage: Stage, phase: Callable[[Target, Effort], Phase]) -> Figures:
    gateway, *nginx = _alternate(stage, [stage.gateway.target, stage.nginx], phase)
    if not nginx:
        return Figures(measured=spread(gateway), note=f"no ratio: {INSTALL_NGINX}")
    return Figures(measured=spread(gateway), reference=spread(nginx[0]))


def _fresh(gateway: Gateway) -> Target:
    gateway.stop()
    return gateway.start()


def _resident(target: Target) -> float:
    """Megabytes."""
    return procfs.resident_bytes(procfs.descendants(target.pid)) / MEGA

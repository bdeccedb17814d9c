"""A stage for calls: the gateway's own pipeline, relay, books, counters and journal, between a client and an upstream
that a test scripts.

Everything that awaits on either side passes `Plot.at`, under a name such as `read 2`. A test lists the names of a run
and then plays it again once per name, with something going wrong there.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from gateway import plugins
from gateway.admission import Admission
from gateway.attempt import Carrier
from gateway.books import Books
from gateway.cache import ResponseCache
from gateway.client import Client, Message
from gateway.conversations.kept import Conversations
from gateway.conversations.memory import MemoryConversations
from gateway.core.call import Call
from gateway.core.deployment import Route
from gateway.core.endpoint import Inference
from gateway.core.headers import Headers
from gateway.core.limits import NO_LIMITS, Actual, Claim, Denied, Granted, Level, Limit, LimitSet
from gateway.core.ports import CounterStore, Journal, JournalUnavailable, StoreUnavailable
from gateway.core.principal import Principal
from gateway.core.records import IntentRecord, OutcomeRecord
from gateway.core.upstream import UpstreamFailure, UpstreamRequest
from gateway.health import Health
from gateway.idempotency.memory import MemoryAnswers
from gateway.idempotency.once import Once
from gateway.idempotency.seam import AnswerCache, AnswerStore
from gateway.ledger.journal import FileJournal
from gateway.pipeline import Pipeline
from gateway.quotas.memory import MemoryStore
from gateway.quotas.windows import Calendar
from gateway.relay import Relay
from gateway.telemetry.metrics import Metrics
from gateway.world import assemble
from providers.openai import PROVIDER
from tests.support.calls import ADA, CHAT, a_route

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


class Hang:
    """A step that never comes; only closing the exchange ends the wait."""


Step = bytes | Exception | Hang


def event(text: str = "", *, finish: str | None = None, usage: dict[str, int] | None = None) -> bytes:
    """An event of a streamed chat answer."""
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": finish}] if usage is None else []
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    return b"data: " + json.dumps(chunk | ({"usage": usage} if usage else {})).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def whole_answer(usage: dict[str, int] | None = USAGE) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi there"}, "finish_reason": "stop"}
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return json.dumps(answer | ({"usage": usage} if usage else {})).encode()


class Plot:
    """What happened, in order, and what is to go wrong where."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._twists: dict[str, Callable[[], None]] = {}

    def twist(self, point: str, act: Callable[[], None]) -> None:
        self._twists[point] = act

    def note(self, what: str) -> None:
        self.told.append(what)

    async def at(self, point: str) -> None:
        self.note(point)
        act = self._twists.pop(point, None)
        if act is not None:
            act()
        await asyncio.sleep(0)


@dataclass
class Answer:
    """One exchange's script: its status, then what `read` gives."""

    steps: Sequence[Step]
    status: int | UpstreamFailure | Hang = 200
    headers: Headers = field(default_factory=list)


def streamed(*texts: str) -> Answer:
    """A whole streamed answer, an event a read, with usage at its end."""
    texts = texts or ("Hi", " there")
    events = [event(text) for text in texts]
    return Answer([*events, event("", finish="stop"), event(usage=USAGE), DONE])


class ScriptedExchange:
    def __init__(self, plot: Plot, answer: Answer) -> None:
        self.status = 0
        self.headers = answer.headers
        self.closed = False
        self._plot = plot
        self._answer = answer
        self._steps = list(answer.steps)
        self._reads = 0
        self._aborted = asyncio.Event()

    async def start(self) -> None:
        await self._plot.at("start")
        self.status = await self._play(self._answer.status)

    async def read(self) -> bytes:
        self._reads += 1
        await self._plot.at(f"read {self._reads}")
        return await self._play(self._steps.pop(0) if self._steps else b"")

    def close(self) -> None:
        self.closed = True
        self._aborted.set()

    async def _play(self, step: Any) -> Any:
        if isinstance(step, Hang):
            self._plot.note("hang")
            await self._aborted.wait()
        if self._aborted.is_set():
            raise UpstreamFailure("aborted", "closed from outside")
        if isinstance(step, Exception):
            raise step
        return step


class ScriptedTransport:
    """Plays one answer per exchange; the last one again and again."""

    def __init__(self, plot: Plot, answers: Sequence[Answer]) -> None:
        self.exchanges: list[ScriptedExchange] = []
        self.requests: list[UpstreamRequest] = []
        self._plot = plot
        self._answers = answers

    def exchange(self, request: UpstreamRequest) -> ScriptedExchange:
        self._plot.note("exchange")
        self.requests.append(request)
        made = ScriptedExchange(self._plot, self._answers[min(len(self.exchanges), len(self._answers) - 1)])
        self.exchanges.append(made)
        return made


class FakePeer:
    """A client as a server shows it: strict about the protocol, silent when told something after it has left."""

    def __init__(self, plot: Plot, body: dict[str, Any] | bytes, *, calls_back: bool) -> None:
        self.sent: list[Message] = []
        self.gone = False
        self._plot = plot
        self._body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._left = asyncio.Event()
        self._callback: Callable[[], None] | None = None
        self._asked = 0
        extensions = {"aidock.client": self} if calls_back else {}
        self.scope = {"type": "http", "headers": [(b"authorization", b"Bearer k")], "extensions": extensions}

    def on_gone(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        if self.gone:
            callback()

    def leave(self) -> None:
        self.gone = True
        self._plot.note("leave")
        self._left.set()
        if self._callback is not None:
            self._callback()

    async def receive(self) -> Message:
        self._asked += 1
        if self._asked == 1:
            await self._plot.at("receive")
            if not self.gone:
                return {"type": "http.request", "body": self._body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.gone:
            return
        if self.complete:
            raise RuntimeError("the answer was complete already")
        if (message["type"] == "http.response.start") == bool(self.sent):
            raise RuntimeError(f"unexpected message {message['type']}")
        last = message["type"] == "http.response.body" and not message.get("more_body")
        await self._plot.at("send last" if last else f"send {len(self.sent) + 1}")
        if not self.gone:
            self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"]) if self.sent else 0

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"]) if self.sent else {}

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def complete(self) -> bool:
        return bool(self.sent) and not self.sent[-1].get("more_body", True)

    @property
    def error(self) -> dict[str, Any]:
        """The error of an unstreamed answer."""
        told: dict[str, Any] = json.loads(self.body)["error"]
        return told


class NotedJournal:
    """A journal that tells the plot, and can refuse."""

    def __init__(self, plot: Plot, journal: FileJournal) -> None:
        self.intents: list[IntentRecord] = []
        self.outcomes: list[OutcomeRecord] = []
        self.full = False
        self._plot = plot
        self._journal = journal

    def intent(self, record: IntentRecord) -> None:
        if self.full:
            raise JournalUnavailable("full")
        self._plot.note("intent")
        self._journal.intent(record)
        self.intents.append(record)

    def outcome(self, record: OutcomeRecord) -> None:
        self._plot.note("outcome")
        self._journal.outcome(record)
        self.outcomes.append(record)


class PlottedStore:
    """Counters, in this process unless told, on the plot, and away when told."""

    def __init__(self, plot: Plot, store: CounterStore) -> None:
        self.away = False
        self.settled: list[tuple[str, Actual]] = []
        self._plot = plot
        self._store = store

    def now(self) -> float:
        return self._store.now()

    async def reserve(
        self, rid: str, claims: Sequence[Claim], lease_s: float, at: float, by: float | None = None
    ) -> Granted | Denied:
        await self._plot.at("reserve")
        if self.away:
            raise StoreUnavailable("away")
        verdict = await self._store.reserve(rid, claims, lease_s, at, by)
        await self._plot.at("reserved")
        return verdict

    def settle(self, rid: str, claims: Sequence[Claim], at: float, actual: Actual) -> None:
        self._plot.note("settle")
        self.settled.append((rid, actual))
        self._store.settle(rid, claims, at, actual)

    async def peek(self, limits: Sequence[Limit]) -> Sequence[Level]:
        return await self._store.peek(limits)


class OneCaller:
    """A directory that knows one caller, whatever the key; `of_model` are limits of models that have their own."""

    def __init__(self, principal: Principal, limits: LimitSet) -> None:
        self.principal = principal
        self.of_model: dict[str, LimitSet] = {}
        self._limits = limits

    def recall(self, credential: bytes) -> Principal:
        return self.principal

    def limits(self, principal: Principal, model_id: str) -> LimitSet:
        return self.of_model.get(model_id, self._limits)


@dataclass(frozen=True)
class _Server:
    max_inflight: int = 100
    max_queue: int = 0
    queue_timeout: float = 5.0
    idempotency_seconds: int = 86_400
    responses_store_seconds: int = 0
    max_body_bytes: int = 2**20


@dataclass(frozen=True)
class _Snapshot:
    routes: dict[str, Route]
    server: _Server
    hash: str = "c1"


class Stage:
    """Build one on a running loop; `await play(body)` serves one call, `await close()` at the end."""

    def __init__(
        self,
        tmp_path: Path,
        *answers: Answer,
        route: Route | None = None,
        limits: LimitSet = NO_LIMITS,
        policies: dict[str, dict[str, object]] | None = None,
        books: Callable[..., Books] = Books,
        relay: Callable[..., Relay] = Relay,
        max_inflight: int = 100,
        calls_back: bool = True,
        answers_kept: AnswerStore | None = None,
        cached: AnswerCache | None = None,
        counters: CounterStore | None = None,
        health: Health | None = None,
    ) -> None:
        self.plot = Plot()
        self.transport = ScriptedTransport(self.plot, answers or (streamed(),))
        self.metrics = Metrics("test")
        self.file = FileJournal(_fresh(tmp_path), sync=lambda _: None)
        self.journal = NotedJournal(self.plot, self.file)
        self.store = PlottedStore(self.plot, counters or MemoryStore(Calendar(ZoneInfo("UTC"))))
        self.limits = limits
        self.books = books(_as_journal(self.journal), self.store, self.metrics, None)
        self.health = health or Health()
        self.relay = relay(self.books, self.metrics, self.health)
        route = route or a_route()
        carriers = {t.upstream.name: Carrier(PROVIDER, self.transport) for t in route.every_target}
        chosen = policies if policies is not None else {"rate_limit": {}, "concurrency": {}, "quota": {}}
        chain = tuple(plugins.policy(name, settings) for name, settings in chosen.items())
        snapshot: Any = _Snapshot({route.name: route}, _Server(max_inflight))
        self.world = world = assemble(snapshot, chain, carriers)
        self.directory = OneCaller(ADA, limits)
        directory: Any = self.directory
        self.admission = Admission(self.metrics, max_inflight)
        once = Once(MemoryAnswers() if answers_kept is None else answers_kept)
        self.in_shadow: list[Call] = []
        self.pipeline = Pipeline(
            directory,
            self.store,
            self.relay,
            self.metrics,
            lambda: world,
            self.admission,
            once,
            Conversations(MemoryConversations()),
            ResponseCache(cached or MemoryAnswers(), self.books, self.metrics),
            self.in_shadow.append,
            self.health,
        )
        self._calls_back = calls_back

    def peer(self, body: dict[str, Any] | bytes) -> FakePeer:
        return FakePeer(self.plot, body, calls_back=self._calls_back)

    async def play(self, body: dict[str, Any] | bytes | FakePeer, endpoint: Inference = CHAT) -> FakePeer:
        """Serve one call to its end. A cancelled one ends quietly, as in a server."""
        peer = body if isinstance(body, FakePeer) else self.peer(body)
        client = Client(peer.scope, peer.receive, peer.send)
        task = asyncio.create_task(self.pipeline.serve(endpoint, client))
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        client.stop_watching()
        return peer

    async def used(self) -> dict[tuple[str, str], int]:
        """What each limit's counter says, settled and held together, by metric and window."""
        every = (*self.limits.rate, *self.limits.quota, *self.limits.parallel)
        return {(lv.limit.metric, lv.limit.window): lv.used for lv in await self.store.peek(every)}

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        text = self.metrics.exposition()[0].decode()
        total = 0.0
        for found in re.finditer(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE):
            if all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
                total += float(found[2])
        return total

    async def close(self) -> None:
        await self.file.close()


def _fresh(tmp_path: Path) -> Path:
    path = tmp_path / f"journal-{len(list(tmp_path.iterdir()))}"
    path.mkdir(mode=0o700)
    return path


def _as_journal(noted: NotedJournal) -> Journal:
    return noted

"""The seams. Each is small enough that one file implements it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from gateway.core.limits import Actual, Claim, Denied, Granted, Level, Limit

if TYPE_CHECKING:
    from gateway.core.call import Call
    from gateway.core.deployment import Target
    from gateway.core.errors import GatewayError
    from gateway.core.headers import Headers
    from gateway.core.records import IntentRecord, OutcomeRecord
    from gateway.core.upstream import UpstreamRequest
    from gateway.core.usage import Usage

OnStoreError = Literal["deny", "allow"]


class Policy(Protocol):
    """A rule about calls. A module in `policies/` has `create(settings) -> Policy`; its file name is its name.

    `on_store_error` says what happens to a call whose claims cannot be counted because the store is down.
    """

    name: str
    on_store_error: OnStoreError

    def check(self, call: Call) -> None:
        """Refuse by raising `GatewayError`, or lower the call's caps. Synchronous and without I/O."""

    def claims(self, call: Call) -> Sequence[Claim]:
        """What the call must hold while it runs."""

    def denied(self, call: Call, level: Level) -> GatewayError:
        """The error that tells the caller that one of this policy's claims found no room."""


class StoreUnavailable(Exception):
    """The counter store did not answer in time, or not sensibly. The claim may or may not be held."""


class CounterStore(Protocol):
    """Counters with two-phase use: hold, then settle. Every verb is atomic and idempotent by request id."""

    async def reserve(self, rid: str, claims: Sequence[Claim], lease_s: float) -> Granted | Denied:
        """Hold all of the claims or none. The hold lapses after `lease_s` unless renewed. Asked again with an id
        that already holds, answers as before; with an id that was settled, `Granted` without a new hold."""

    def settle(self, rid: str, actual: Actual) -> None:
        """Replace the hold by what was really used; a refund is a settlement with `NOTHING`. Returns at once: the
        store owns the delivery, retries it, and applies it in order with this process's other calls."""

    async def renew(self, rids: Sequence[str], lease_s: float) -> None:
        """Keep the holds of calls that still run."""

    async def peek(self, limits: Sequence[Limit]) -> Sequence[Level]:
        """Where limits stand, holding nothing."""

    async def start(self) -> None:
        """Connect, load scripts, start what runs in the background. Raises `StoreUnavailable`."""

    async def close(self) -> None:
        """Deliver what is still to be settled, then let go."""


class JournalUnavailable(Exception):
    """The journal cannot take another record: it is full, or its disk is."""


class Journal(Protocol):
    """The append-only record of calls. Both verbs are synchronous: when they return, a crash cannot lose the record."""

    def intent(self, record: IntentRecord) -> None:
        """Note that an upstream is about to be called. Raises `JournalUnavailable`."""

    def outcome(self, record: OutcomeRecord) -> None:
        """Note how it ended. Always taken: room is kept for the outcome of every intent."""


class Stream(Protocol):
    """Reads one upstream's streamed answer and says what the client gets. One per attempt; no I/O, no clock."""

    usage: Usage | None
    """What the upstream reported, once it has."""

    complete: bool
    """Whether the answer has ended as its dialect ends answers."""

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes as they arrived, cut anywhere; give the bytes for the client, `b""` while they are held back.
        Raises `GatewayError` when the upstream reports an error in band."""

    def finish(self) -> bytes:
        """The upstream's body has ended: give what is left. Raises `GatewayError` when it ended too early."""

    def produced(self) -> int:
        """An estimate of the completion tokens seen so far, for a call that ends without usage."""


class Answer(Protocol):
    """A complete, unstreamed answer, ready for the client."""

    body: bytes
    usage: Usage | None

    def produced(self) -> int:
        """An estimate of its completion tokens."""


class Provider(Protocol):
    """A dialect that upstreams speak. Stateless; a module in `providers/` has `PROVIDER`.

    A provider that answers by itself also implements `Transport`.
    """

    dialect: str

    def request(self, call: Call, target: Target) -> UpstreamRequest:
        """The call as this dialect says it."""

    def stream(self, call: Call, target: Target) -> Stream:
        """A reader for the streamed answer."""

    def answer(self, call: Call, target: Target, body: bytes) -> Answer:
        """Read an unstreamed answer. Raises `GatewayError` when it is an error or cannot be read."""

    def error(self, status: int, headers: Headers, body: bytes, target: Target) -> GatewayError:
        """An upstream's error status as ours."""


class Vendors(Protocol):
    """What is known about OpenAI-like vendors; rows of `vendors.yaml`."""

    def row(self, name: str) -> Mapping[str, object] | None: ...

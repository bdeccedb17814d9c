"""The seams. Each is small enough that one file implements it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

from gateway.core.limits import Actual, Base, Claim, Count, Denied, Granted, Level, Limit

if TYPE_CHECKING:
    from gateway.core.body import Body
    from gateway.core.call import Call
    from gateway.core.deployment import Target
    from gateway.core.errors import GatewayError
    from gateway.core.headers import Headers
    from gateway.core.records import IntentRecord, OutcomeRecord
    from gateway.core.upstream import Transport, UpstreamRequest
    from gateway.core.usage import Usage

OnStoreError = Literal["deny", "allow"]

DECISION_S = 0.25
"""How long a call waits for the stores, however often it asks them, before it is decided without them. What else there
is to deciding has the rest of 300 ms."""


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


class TextFilter(Protocol):
    """Reads one text of an answer on its way to the client, in pieces cut anywhere, and says what the client gets.
    Either method may raise `GatewayError`: then the answer ends there, with the finish reason `content_filter`."""

    def feed(self, text: str) -> str:
        """Some more of it; what may still belong to something is held back."""

    def finish(self) -> str:
        """It has ended: give what was held back."""


@runtime_checkable
class Inspects(Protocol):
    """The ability of a policy to look at prompts at leisure, after every `check` and before anything is reserved."""

    async def inspect(self, call: Call) -> None:
        """Refuse by raising `GatewayError`, or `call.replace_body`."""


@runtime_checkable
class Filters(Protocol):
    """The ability of a policy to act on answers, streamed ones too."""

    def filters(self, call: Call) -> Callable[[], TextFilter] | None:
        """What makes a filter for each text of the call's answer, None where it needs none. It may depend on who calls
        only as far as callers share no cache."""


class StoreUnavailable(Exception):
    """The counter store did not answer in time, or not sensibly. The claim may or may not be held."""


class CounterStore(Protocol):
    """Counters with two-phase use: hold, then settle. Every verb is atomic and idempotent by request id.

    A call belongs to the windows that its `at` falls in, a moment of the store's own clock that is also its ledger
    row's `created_at`: so a counter is, by definition, the sum of the rows of its subject and window.
    """

    def now(self) -> float:
        """The store's clock in unix seconds, in whole milliseconds. It does not jump with this machine's clock."""

    async def reserve(
        self, rid: str, claims: Sequence[Claim], lease_s: float, at: float, by: float | None = None
    ) -> Granted | Denied:
        """Hold all of the claims or none. The hold lapses after `lease_s` unless renewed. Asked again with an id
        that already holds, answers as before; with an id that was settled, `Granted` without a new hold.

        Answers until `by` on the monotonic clock, `DECISION_S` from now unless told. Raises `StoreUnavailable`; the
        hold may stand then, and `settle` ends it in any case."""

    def settle(self, rid: str, claims: Sequence[Claim], at: float, actual: Actual) -> None:
        """Let the hold go and count what was really used, once, on the counter of every claim, whatever became of
        the hold: held, lapsed, given up on, or lost with the store. Without claims it is a refund. Returns at once:
        the store owns the delivery, retries it, and applies it in order with this process's other calls."""

    async def renew(self, rids: Sequence[str], lease_s: float) -> Sequence[str]:
        """Keep the holds of calls that still run; the ids that the store knows nothing of."""

    async def hold(self, rid: str, claims: Sequence[Claim], lease_s: float, at: float) -> None:
        """Hold again what a store has lost. No room is asked for: the call runs already."""

    async def peek(self, limits: Sequence[Limit]) -> Sequence[Level]:
        """Where limits stand, holding nothing."""

    async def start(self, installation: str) -> None:
        """Connect, load scripts, start what runs in the background. `installation` tells whose counters these are.
        Raises `StoreUnavailable`."""

    async def close(self) -> bool:
        """Deliver what is still to be settled, then let go. False where some of it could not be delivered: whoever
        goes on with this store must count it from the ledger."""


StoreState = Literal["open", "lost", "rebuilding", "suspect"]
"""`lost`: the store is empty or another installation's, and grants nothing until somebody rebuilds it. `rebuilding`:
somebody does. `suspect`: it may have forgotten some of what it was told, and needs a rebuild too; what it has stands
in meanwhile."""


class Recountable(Protocol):
    """A counter store as the recount sees it: counters are a cache, and the ledger can always set them right."""

    @property
    def rebuild(self) -> str:
        """The rebuild that the last `pulse` or `begin_rebuild` told of: each has a name of its own, and none is of two
        losses. "" where there is none."""

    async def pulse(self) -> StoreState:
        """Let go what has lapsed, and say in what state the store is."""

    async def cut(self, limits: Sequence[Limit], ahead_s: float) -> None:
        """Draw the line anew between the ledger's part of these counters and the store's: `ahead_s` from now. Until
        they are based again, what stood before stands in for the ledger's part."""

    async def audit(self, limits: Sequence[Limit]) -> Sequence[Count]:
        """The counters of the windows now open; `parallel` limits have none."""

    async def held(self) -> Sequence[str]:
        """The calls that hold something."""

    async def late(self) -> Sequence[str]:
        """The calls that settled although they were created before the line, and whose use stands in the ledger's
        part until a base includes it."""

    async def turn(self) -> int:
        """How often the ledger's part has been set. To be asked before the ledger is."""

    async def rebase(self, bases: Sequence[Base], landed: Sequence[str], turn: int, *, raising: bool = False) -> bool:
        """Set the ledger's part of counters, at once, to what it says, plus those late calls that are not among
        `landed`, the ones that the ledger has. A base whose counter has been cut since is ignored. `raising` leaves
        a part that is larger as it stands: rows may still be on their way.

        False, and nothing done, where somebody else has set it since `turn`: of calls that were late then and have
        landed since, this answer may know nothing."""

    async def lead(self, for_s: float) -> bool:
        """Whether this process is the one, of all that share the store, that recounts for the next `for_s`."""

    async def begin_rebuild(self) -> bool:
        """Take a lost or suspect store in hand: it grants nothing, and what settles is kept by name, until it is
        opened. Again for more time. False where another process has, or the store has been opened meanwhile."""

    async def end_rebuild(self) -> bool:
        """Open the rebuilt store. False where it took so long that another process has taken over, or the store has
        lost something since."""


class RecountableStore(CounterStore, Recountable, Protocol):
    """Counters that can be set right."""


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

    @property
    def usage(self) -> Usage | None:
        """What the upstream reported, once it has."""

    @property
    def complete(self) -> bool:
        """Whether the answer has ended as its dialect ends answers."""

    @property
    def begun(self) -> bool:
        """Whether anything that a reader would see has come: text, thoughts, a tool call."""

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes as they arrived, cut anywhere; give the bytes for the client, `b""` while they are held back.
        Raises `GatewayError` when the upstream reports an error in band."""

    def finish(self) -> bytes:
        """The upstream's body has ended: give what is left. Raises `GatewayError` when it ended too early."""

    def produced(self) -> int:
        """An estimate of the completion tokens seen so far, for a call that ends without usage."""


class TellsFailure(Protocol):
    """The ability of a stream whose dialect numbers its events, or closes what it opened, to tell of a failure."""

    def failure(self, error: GatewayError, request_id: str) -> bytes:
        """The events that end the stream instead of its own end."""


class Answer(Protocol):
    """A complete, unstreamed answer, ready for the client."""

    body: bytes
    content_type: bytes
    usage: Usage | None

    def produced(self) -> int:
        """An estimate of its completion tokens."""


@runtime_checkable
class Passes(Protocol):
    """The ability of a provider whose answers may be sound, text or events of their own: on endpoints with `media`."""

    def passing(self, call: Call, target: Target, headers: Headers) -> Stream | None:
        """A reader for an answer that passes on as it comes, by the headers that it came with; None for one that is to
        be read whole, by `answer`."""


class Provider(Protocol):
    """A dialect that upstreams speak. Stateless; a module in `providers/` has `PROVIDER`.

    A provider that answers by itself also implements `Transport`; one that needs more than a key, `Authorizes`.
    """

    dialect: str

    def serves(self, operation: str, target: Target) -> bool:
        """Whether it takes this operation: an endpoint's `operation`, such as `chat/completions`. It is asked for no
        other."""

    def request(self, call: Call, target: Target) -> UpstreamRequest:
        """The call as this dialect says it."""

    def stream(self, call: Call, target: Target) -> Stream:
        """A reader for the streamed answer."""

    def answer(self, call: Call, target: Target, body: bytes) -> Answer:
        """Read an unstreamed answer. Raises `GatewayError` when it is an error or cannot be read."""

    def error(self, status: int, headers: Headers, body: bytes, target: Target) -> GatewayError:
        """An upstream's error status as ours."""


@runtime_checkable
class Checkable(Protocol):
    """The ability of a provider whose upstreams can be asked, at no cost, whether they are well."""

    def check(self, target: Target, path: str | None) -> UpstreamRequest:
        """A GET with the target's credential: of `path` below its base URL, else of what the dialect has for it."""


@runtime_checkable
class Authorizes(Protocol):
    """The ability of a provider whose requests need a signature or a token that must be fetched. It is asked for
    upstreams that have a `credential`."""

    async def authorize(self, request: UpstreamRequest, target: Target, transport: Transport) -> None:
        """Put the credential into the request's headers. Tokens are fetched through `transport` and kept in
        `target.memo` or the provider until shortly before they end. Raises `GatewayError` (502) where that fails."""


class Translator(Protocol):
    """Tells one streamed chat answer in another dialect. One per attempt; no I/O, no clock."""

    def feed(self, chunk: bytes) -> bytes:
        """Take whole SSE events of chat's dialect, give the client's; `b""` while there is nothing to say."""

    def finish(self) -> bytes:
        """The answer is complete: give what ends it."""

    def failure(self, error: GatewayError, request_id: str) -> bytes:
        """The events that end it where it broke off."""


class Translation(Protocol):
    """A client's dialect told through chat completions, for targets that do not speak it themselves. Stateless."""

    def request(self, call: Call) -> bytes:
        """The call's body as one of `/v1/chat/completions`, `stream` included; the output cap is the provider's to
        write. Raises a 400 for what chat has no like of."""

    def answer(self, call: Call, body: bytes) -> bytes:
        """A whole chat answer in the client's dialect."""

    def stream(self, call: Call) -> Translator:
        """A translator for the streamed answer; it is always told the usage."""


class Kept(NamedTuple):
    """A conversation up to an answer, opaque to whoever keeps it, and the answer's id by which it is continued."""

    identity: str
    conversation: bytes


class Continues(Protocol):
    """The ability of an endpoint whose calls can continue a conversation that the gateway keeps."""

    def continued(self, body: Body) -> str | None:
        """The id of the answer that a body continues. Raises a 400 for one that makes no sense."""

    def joined(self, body: Body, conversation: bytes) -> Body:
        """The body with the conversation in place of its reference to it."""

    def wants_keeping(self, body: Body) -> bool:
        """Whether the client lets the conversation be kept."""

    def conversation(self, call: Call, last: bytes) -> Kept | None:
        """What to keep, by the last piece of an answer as its client gets it; None for nothing. Never raises."""


class Vendors(Protocol):
    """What is known about OpenAI-like vendors; rows of `vendors.yaml`."""

    def row(self, name: str) -> Mapping[str, object] | None: ...

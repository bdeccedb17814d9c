"""One request to one upstream: what is sent, what comes back, and how it can fail."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, runtime_checkable

from gateway.core.deployment import Deadlines
from gateway.core.headers import Headers


class Origin(NamedTuple):
    """Where connections go. `host` is a name or an address, without brackets."""

    scheme: str
    host: str
    port: int


class BodySource(Protocol):
    """A body that is not held in memory. It is read in pieces, and from its start again where it is sent again."""

    def __len__(self) -> int:
        """All of its bytes."""

    def read(self, start: int, size: int) -> bytes:
        """Up to `size` bytes from `start` on; fewer only at the end. From memory or a local file: it does not wait."""


class UpstreamRequest:
    """A request ready for the wire. `target` is path and query; `headers` carry the credential, so nothing here is
    ever printed. Host, content-length and connection are the transport's to add. An `upload` is sent in place of the
    body."""

    __slots__ = ("body", "deadlines", "headers", "method", "origin", "target", "upload")

    def __init__(
        self,
        method: bytes,
        origin: Origin,
        target: bytes,
        headers: Headers,
        body: bytes,
        deadlines: Deadlines,
        upload: BodySource | None = None,
    ) -> None:
        self.method = method
        self.origin = origin
        self.target = target
        self.headers = headers
        self.body = body
        self.deadlines = deadlines
        self.upload = upload

    @property
    def size(self) -> int:
        """Bytes of what is sent behind the head."""
        return len(self.body if self.upload is None else self.upload)

    def __repr__(self) -> str:
        return f"UpstreamRequest({self.method.decode()} {self.origin.scheme}://{self.origin.host}:{self.origin.port})"


FailureKind = Literal[
    "connect", "connect_timeout", "tls", "first_byte_timeout", "idle_timeout", "cut", "protocol", "aborted"
]


class UpstreamFailure(Exception):
    """An exchange that broke. `unsent` is true only where the upstream provably never saw the request."""

    def __init__(self, kind: FailureKind, message: str, *, unsent: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.unsent = unsent


class Exchange(Protocol):
    """A request under way. Made without I/O; `close` may be called at any time, from anywhere, any number of times,
    and makes a pending `start` or `read` raise `UpstreamFailure("aborted")`."""

    status: int
    headers: Headers

    async def start(self) -> None:
        """Connect or reuse, send, and wait for the response head. Raises `UpstreamFailure`."""

    async def read(self) -> bytes:
        """All of the body that has arrived, waiting for some; `b""` at its clean end. Raises `UpstreamFailure`."""

    def close(self) -> None:
        """Give the connection back if the response is complete, drop it otherwise."""


@runtime_checkable
class Transport(Protocol):
    """What makes exchanges: the HTTP pool, or a provider that answers by itself."""

    def exchange(self, request: UpstreamRequest) -> Exchange: ...

"""What a store of answers does, whatever it is made of."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from gateway.core.headers import Headers


class Answer(NamedTuple):
    """A whole answer as its client was sent it, a stream's as the bytes of all its events."""

    status: int
    headers: Headers
    body: bytes

    @property
    def size(self) -> int:
        """Bytes, more or less, that keeping it takes."""
        return len(self.body) + sum(len(name) + len(value) + 4 for name, value in self.headers) + OVERHEAD


OVERHEAD = 256
"""Bytes that a store needs for a key itself, roughly."""

Standing = Literal["granted", "running", "other_body", "not_kept"]
"""What a claim finds: that the call is the claimant's to make; that it is being made; that the key belongs to another
body; that the call was made, but its answer was too large to keep."""


class StoreUnavailable(Exception):
    """The store did not answer in time, or not sensibly."""


class AnswerCache(Protocol):
    """Answers kept for whoever asks the same. Nothing is promised of any, so nothing is claimed."""

    async def find(self, scope: str, by: float | None = None) -> Answer | None:
        """What is kept. Answers until `by` on the monotonic clock, `DECISION_S` from now unless told. Raises
        `StoreUnavailable`."""

    async def put(self, scope: str, answer: Answer | None, for_s: int) -> None:
        """Keep this for `for_s` seconds in the place of what is there; None leaves nothing there. Raises
        `StoreUnavailable`."""

    async def close(self) -> None:
        """Let go of everything."""


class AnswerStore(Protocol):
    """Who makes a call, and what came of it. `scope` stands for caller, endpoint and key together, `owner` for the one
    request that makes the call; both are opaque text."""

    async def claim(self, scope: str, fingerprint: str, owner: str, by: float | None = None) -> Answer | Standing:
        """Take a scope in hand, atomically: of all claims on one scope, one is granted until it is freed or lapses.
        Answers until `by` on the monotonic clock, `DECISION_S` from now unless told. Raises `StoreUnavailable`; the
        claim does not stand then for longer than it takes to tell the store."""

    async def keep(self, scope: str, fingerprint: str, owner: str, answer: Answer | None, for_s: int) -> None:
        """The granted call has ended: answer repetitions with this for `for_s` seconds; None where it is too large.
        Does nothing where the claim has lapsed and is another's now. Raises `StoreUnavailable`; the claim lapses."""

    async def free(self, scope: str, owner: str, by: float | None = None) -> None:
        """The granted call has ended and left nothing to keep: the next claim is granted. Never raises; what the store
        cannot be told by `by` it is told afterwards."""

    async def remind(self) -> None:
        """The store may have lost what it was told: tell it again of all granted claims whose calls run. Never raises;
        what it cannot be told now it is told with the next renewal."""

    async def start(self) -> None:
        """Start what keeps granted claims from lapsing while their calls run."""

    async def close(self) -> None:
        """Let go of everything."""

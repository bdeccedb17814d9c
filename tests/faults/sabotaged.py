"""A gateway with one of its guards taken out: `python -m tests.faults.sabotaged HOW ARGUMENTS…`, for tests that ask
whether the other tests would notice."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.__main__ import main
from gateway.books import Books, Run
from gateway.core.limits import Base
from gateway.core.records import Outcome
from gateway.ledger.directory import Position
from gateway.ledger.frames import OUTCOME
from gateway.ledger.writer import LedgerWriter
from gateway.quotas import link
from gateway.quotas.redis import RedisStore
from gateway.relay import Relay

_GUARD = b"if state == 's' then return {tag, 'settled'} end"


def tombstones_off() -> None:
    """A settlement that is sent again counts again."""
    assert _GUARD in link.SOURCES["settle"]
    source = link.SOURCES["settle"] = link.SOURCES["settle"].replace(_GUARD, b"")
    link.DIGESTS["settle"] = link.hashlib.sha1(source, usedforsecurity=False).hexdigest()


def settled_by_the_request() -> None:
    """The books on a call are closed by the request's own task, in a `finally` that awaits."""
    carry, close = Relay.carry, Books.close
    late: dict[int, list[tuple[Run, Outcome]]] = {}

    def put_off(self: Books, run: Run, outcome: Outcome) -> None:
        late.setdefault(id(asyncio.current_task()), []).append((run, outcome))

    async def carry_and_settle(self: Relay, *arguments: Any) -> None:
        try:
            await carry(self, *arguments)
        finally:
            await asyncio.sleep(0.1)
            for run, outcome in late.pop(id(asyncio.current_task()), ()):
                close(self._books, run, outcome)

    Books.close = put_off  # type: ignore[method-assign]
    Relay.carry = carry_and_settle  # type: ignore[method-assign]


def acknowledged_before_commit() -> None:
    """The journal is told that rows are in the ledger before they are."""

    async def deliver_batch(self: LedgerWriter, stop: Position) -> None:
        rows: list[Any] = []
        while len(rows) < self._batch and not self._reader.position.reaches(stop):
            for kind, sequence, payload in self._reader.read(stop, self._batch - len(rows)):
                if kind == OUTCOME:
                    self._decode(sequence, payload, rows)
        self._journal.acknowledge(self._reader.position, len(rows))
        await self._delivery.insert(rows)
        await self._report_progress()

    LedgerWriter._deliver_batch = deliver_batch  # type: ignore[method-assign]


def reseeded_by_adding() -> None:
    """What the ledger says is added to a counter instead of set."""
    rebase = RedisStore.rebase

    async def add(self: RedisStore, bases: Sequence[Base], *about: Any, **how: Any) -> bool:
        return await rebase(self, [Base(count, count.settled + used) for count, used in bases], *about, **how)

    RedisStore.rebase = add  # type: ignore[method-assign]


SABOTAGES: Mapping[str, Callable[[], None]] = {
    each.__name__: each
    for each in (tombstones_off, settled_by_the_request, acknowledged_before_commit, reseeded_by_adding)
}

if __name__ == "__main__":
    SABOTAGES[sys.argv.pop(1)]()
    main()

"""Gives in-process counters their past: what the ledger says was used before a limit is enforced here.

Counters are a cache of the ledger. A limit is counted up before it becomes visible, so that neither a restart nor a
limit set in the middle of a month forgets what came before.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable

from gateway.core.limits import Limit
from gateway.quotas.memory import MemoryStore
from gateway.quotas.windows import Calendar
from gateway.storage.engine import Database
from gateway.storage.ledger import used_since

_Name = tuple[str, str, str, str]


class Seeder:
    """`settled` waits until every outcome noted so far is in the ledger."""

    def __init__(
        self, database: Database, store: MemoryStore, calendar: Calendar, settled: Callable[[], Awaitable[None]]
    ) -> None:
        self._database = database
        self._store = store
        self._calendar = calendar
        self._settled = settled
        self._known: dict[str, set[_Name]] = {}

    async def prepare(self, origin: str, limits: Iterable[Limit]) -> None:
        """Count up the limits of an origin that it did not have before. Raises `DatabaseUnavailable`.

        One that was taken away and comes back is new: nobody counted meanwhile.
        """
        wanted = {_name(limit): limit for limit in limits}
        self._known[origin] = self._known.get(origin, set()) & wanted.keys()
        counted = set().union(*self._known.values())
        new = {name: limit for name, limit in wanted.items() if name not in counted}
        if not new:
            self._known[origin] = set(wanted)
            return
        await self._settled()
        now = time.time()
        zone = self._calendar.zone
        async with self._database.read() as session:
            for limit in new.values():
                since = self._calendar.bucket(limit.window, now).starts_at
                used = await used_since(session, limit.scope, limit.subject, limit.metric, since, zone)
                self._store.seed(limit, used)
        self._known[origin] = set(wanted)


def _name(limit: Limit) -> _Name:
    return limit.scope, limit.subject, limit.metric, limit.window

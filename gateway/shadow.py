"""Keeps the report of who would have been refused by what is in shadow.

A call notes it in memory, where it is counted by who called what; every few seconds the counts go to the database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import tzinfo

from gateway.core.call import Call
from gateway.core.records import Decision
from gateway.storage import shadow
from gateway.storage.days import day_of
from gateway.storage.engine import Database
from gateway.storage.errors import DatabaseUnavailable
from gateway.storage.shadow import Refused, Tally

logger = logging.getLogger("aidock.shadow")

FLUSH_S = 5.0
CLOSE_S = 5.0
MOST = 10_000
OTHERS = "(others)"
"""Stands for whoever and whatever came once there were `MOST` combinations waiting for the database."""


class ShadowLog:
    """The refusals in shadow that one process has seen. Days are those of `zone`."""

    def __init__(self, database: Database, zone: tzinfo, *, flush_s: float = FLUSH_S) -> None:
        self._database = database
        self._zone = zone
        self._flush_s = flush_s
        self._tallies: dict[Refused, Tally] = {}
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="shadow")

    async def close(self) -> None:
        """Stop, and write what is left if the database takes it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.flush()
        except (DatabaseUnavailable, TimeoutError):
            calls = sum(tally.refused for tally in self._tallies.values())
            logger.warning("Refusals in shadow could not be written and are lost.", extra={"count": calls})

    def note(self, call: Call) -> None:
        """Count a call that passed although something in shadow objects: once for each policy, under the first of its
        limits without room."""
        for decision in _objections(call):
            self._count(call, decision)

    async def flush(self) -> None:
        """Write what has been counted. Raises `DatabaseUnavailable`, and keeps the counts then."""
        tallies, self._tallies = self._tallies, {}
        if not tallies:
            return
        written = False
        try:
            async with self._database.write() as session:
                await shadow.add(session, tallies)
            written = True
        finally:
            if not written:
                self._put_back(tallies)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._flush_s)
            try:
                await self.flush()
            except DatabaseUnavailable as error:
                if not self._failing:
                    logger.warning("Refusals in shadow wait for the database.", extra={"reason": str(error)})
                self._failing = True
            except Exception:
                # One bad turn must not end a job that the next turn can do.
                logger.exception("Refusals in shadow could not be written.")
            else:
                self._failing = False

    def _count(self, call: Call, decision: Decision) -> None:
        caller, moment = call.principal, call.created_at
        refused = Refused(
            day_of(moment, self._zone),
            decision.policy,
            decision.scope,
            decision.subject,
            decision.metric,
            decision.window,
            caller.department,
            caller.user,
            caller.key_id,
            call.model_id,
        )
        self._add(refused, Tally(1, moment))

    def _add(self, refused: Refused, tally: Tally) -> None:
        known = self._tallies.get(refused)
        if known is None and len(self._tallies) >= MOST:
            refused = Refused(refused.day, refused.policy, "", "", "", "", *([OTHERS] * 4))
            known = self._tallies.get(refused)
        if known is not None:
            tally = Tally(known.refused + tally.refused, max(known.last_at, tally.last_at))
        self._tallies[refused] = tally

    def _put_back(self, tallies: dict[Refused, Tally]) -> None:
        since, self._tallies = self._tallies, tallies
        for refused, tally in since.items():
            self._add(refused, tally)


def _objections(call: Call) -> Iterator[Decision]:
    """For each policy what objects first: its check, else a limit that only counts and is exceeded."""
    for policy in dict.fromkeys(call.shadowed):
        yield Decision(policy, "", "", "", "", "shadow", 0, 0, 0)
    told = set(call.shadowed)
    for decision in call.decisions:
        over = decision.action != "deny" and decision.used > decision.limit
        if over and decision.policy not in told:
            told.add(decision.policy)
            yield decision

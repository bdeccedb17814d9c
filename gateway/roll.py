"""The roll call of gateways that share counters, in the database that has their ledger.

Counters that were lost are set by the ledger when every gateway has brought there what it knew. Who is to be waited
for is known although the counters' store has forgotten everybody: a gateway is on the roll from before its first call
until its last row has landed, be it by its own hand or by whoever adopts its journal.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from gateway.storage import gateways
from gateway.storage.engine import Database
from gateway.storage.errors import DatabaseUnavailable

BEAT_S = 15.0
LAPSE_S = 60.0
"""Who has not been heard of for so long is struck off: nobody may ever adopt what it has left."""

logger = logging.getLogger("aidock.roll")


class Roll:
    """One gateway's view of the roll. `name` is its own, that of its journal. All but `strike` raise
    `DatabaseUnavailable`."""

    def __init__(self, database: Database, name: str, *, beat_s: float = BEAT_S, lapse_s: float = LAPSE_S) -> None:
        self._database = database
        self._name = name
        self._beat_s = beat_s
        self._lapse_s = lapse_s
        self._told = ""
        self._heard: dict[str, tuple[int, float]] = {}
        self._last_beat = 0.0

    async def tell(self, rebuild: str) -> None:
        """All that this gateway knew before a rebuild is in the ledger, and what it runs is held again."""
        self._told = rebuild
        await self.sign()

    async def sign(self) -> None:
        """Be on the roll."""
        async with self._database.write() as session:
            await gateways.sign(session, self._name, self._told)

    async def beat(self) -> None:
        """Say that this gateway lives, every `beat_s`, and strike off who has not said so for `lapse_s`."""
        await self.sign()
        async with self._database.read() as session:
            lapsed = self._lapsed(await gateways.beats(session), time.monotonic())
        for name in lapsed:
            logger.warning("A gateway is gone without its last rows.", extra={"journal": name})
            await self.strike(name)

    async def silent(self, rebuild: str) -> Sequence[str]:
        """Who has not told yet what it knew before a rebuild."""
        async with self._database.read() as session:
            return await gateways.silent(session, rebuild)

    async def leave(self) -> None:
        """Nothing more comes from this gateway."""
        await self.strike(self._name)

    async def strike(self, name: str) -> None:
        """Nothing more comes from a gateway. Where the database is away, whoever beats strikes it off later."""
        try:
            async with self._database.write() as session:
                await gateways.strike(session, [name])
        except DatabaseUnavailable as error:
            logger.warning("A gateway stays on the roll.", extra={"journal": name, "reason": str(error)})

    def _lapsed(self, beats: dict[str, int], now: float) -> list[str]:
        """Those whose beats have not grown for `lapse_s`, by this gateway's own clock: the others' may differ. While
        the database is away nobody can beat, so what is heard after such a time is heard anew."""
        if now - self._last_beat > 2 * self._beat_s:
            self._heard.clear()
        self._last_beat = now
        self._heard = {
            name: known if (known := self._heard.get(name)) is not None and known[0] == count else (count, now)
            for name, count in beats.items()
        }
        return [name for name, (_, since) in self._heard.items() if now - since >= self._lapse_s]

"""The ledger's table as the writer sees it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo

from gateway.core.records import OutcomeRecord
from gateway.ledger.delivery import PoisonRow, SinkUnavailable
from gateway.storage import ledger
from gateway.storage.engine import Database
from gateway.storage.errors import DatabaseUnavailable, Unstorable


class LedgerTable:
    """`LedgerSink` over the database. Days are those of `zone`."""

    def __init__(self, database: Database, zone: tzinfo) -> None:
        self._database = database
        self._zone = zone

    async def insert(self, rows: Sequence[OutcomeRecord]) -> int:
        try:
            async with self._database.write() as session:
                return await ledger.insert_rows(session, rows, self._zone)
        except DatabaseUnavailable as error:
            raise SinkUnavailable(str(error)) from error
        except Unstorable as error:
            raise PoisonRow(str(error)) from error

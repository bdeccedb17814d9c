"""A process that notes calls as fast as it can and says on stdout which outcomes were taken, until it is killed.

Arguments: the journals' root, and optionally a database to deliver to meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from gateway.ledger.journal import open_journal
from gateway.ledger.writer import LedgerWriter
from tests.ledger.support import SqliteSink, intent, outcome


async def main(root: Path, database: Path | None) -> None:
    journal = open_journal(root)
    if database is not None:
        await LedgerWriter(journal, SqliteSink(database), linger=0.01).start()
    pid = os.getpid()
    number = 0
    while True:
        for _ in range(50):
            number += 1
            request_id = f"{pid}-{number:07d}"
            journal.intent(intent(request_id))
            journal.outcome(outcome(request_id))
            os.write(1, f"{request_id}\n".encode())  # only now may anyone count on it
        await asyncio.sleep(0)


asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))

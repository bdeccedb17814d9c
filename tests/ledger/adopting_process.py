"""A process that adopts every journal it can get, beside others that do the same. Prints how many it finished.

Arguments: the journals' root, and the database.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gateway.ledger.recovery import Adopter
from tests.ledger.support import SqliteSink


async def main(root: Path, database: Path) -> None:
    adopter = Adopter(root, SqliteSink(database))
    sys.stdin.readline()  # all of them begin together
    await adopter.adopt()
    print(adopter.recovered.journals)


asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))

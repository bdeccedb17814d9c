"""A gateway of its own for the tests: tries to hold one unit per caller and prints how many could.

Arguments: URL, key prefix, limit, callers. The store is open already.
"""

from __future__ import annotations

import asyncio
import os
import sys
from zoneinfo import ZoneInfo

from gateway.core.limits import Claim, Granted, Limit
from gateway.quotas.redis import RedisStore
from gateway.quotas.windows import Calendar


async def main(url: str, prefix: str, amount: int, callers: int) -> None:
    store = RedisStore(url, Calendar(ZoneInfo("UTC")), prefix=prefix, decision_s=5.0)
    await store.start("here")
    claims = [Claim(Limit("global", "", "tokens", "total", amount), 1)]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    now = store.now()
    answers = await asyncio.gather(*(store.reserve(f"{os.getpid()}-{i}", claims, 60, now) for i in range(callers)))
    print(sum(isinstance(answer, Granted) for answer in answers), flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))

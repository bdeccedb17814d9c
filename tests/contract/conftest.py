"""Every counter store, for the stories that are the same for all."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.core.ports import RecountableStore
from gateway.quotas.memory import MemoryStore
from gateway.quotas.redis import RedisStore
from gateway.quotas.windows import Calendar
from tests.contract.counters import ZONE
from tests.quotas.caller import Caller, opened
from tests.support.redis_server import redis_server


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with redis_server() as server:
        yield server.url


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Caller]:
    made: RecountableStore
    if request.param == "memory":
        made = MemoryStore(Calendar(ZONE))
    else:
        url = request.getfixturevalue("redis_url")
        made = RedisStore(url, Calendar(ZONE), prefix=uuid.uuid4().hex, decision_s=5.0)
    yield Caller(await opened(made))
    await made.close()

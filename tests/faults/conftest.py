"""What fault tests share. `AIDOCK_SOAK=1` (`make soak`) runs them long; without it each takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.books import SOAK
from tests.support.billing_upstream import BillingUpstream, billing_upstream
from tests.support.redis_server import RedisServer, redis_server

_SOAK_TIMEOUT_S = 2400


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A soak takes longer than a test may otherwise."""
    here = Path(__file__).parent
    for item in items:
        if SOAK and here in item.path.parents:
            item.add_marker(pytest.mark.timeout(_SOAK_TIMEOUT_S))


@pytest.fixture
def upstream() -> Iterator[BillingUpstream]:
    with billing_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def shared_upstream() -> Iterator[BillingUpstream]:
    """For tests that share a gateway too: every call that an upstream billed must be in that gateway's ledger."""
    with billing_upstream() as running:
        yield running


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running

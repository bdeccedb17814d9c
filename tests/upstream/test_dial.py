"""Several addresses for one name."""

from __future__ import annotations

import socket
import time

import pytest

from gateway.upstream.dial import Address, connect_to_any
from tests.support.misbehaving import Misbehaving, Stall


def at(sockaddr):
    return Address(socket.AF_INET, sockaddr)


@pytest.fixture
def refusing():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield at(bound.getsockname())


@pytest.fixture
def silent():
    """Its accept queue is full, so the kernel drops SYNs."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        time.sleep(0.05)
        yield at(full.getsockname())


async def test_a_silent_address_does_not_hold_up_the_next(silent):
    async with Misbehaving([Stall()]) as upstream:
        with await connect_to_any([silent, at(("127.0.0.1", upstream.port))]) as sock:
            assert sock.getpeername()[1] == upstream.port


async def test_a_refusing_address_is_passed_over(refusing):
    async with Misbehaving([Stall()]) as upstream:
        with await connect_to_any([refusing, at(("127.0.0.1", upstream.port))]) as sock:
            assert sock.getpeername()[1] == upstream.port


async def test_the_first_address_is_preferred():
    async with Misbehaving([Stall()]) as first, Misbehaving([Stall()]) as second:
        with await connect_to_any([at(("127.0.0.1", first.port)), at(("127.0.0.1", second.port))]) as sock:
            assert sock.getpeername()[1] == first.port
        assert second.connections == 0


async def test_when_all_refuse_the_first_reason_is_told(refusing):
    with pytest.raises(ConnectionRefusedError):
        await connect_to_any([refusing, refusing])

"""The socket in a data directory: made, found, and owned by one gateway at a time."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET_NAME = "control.sock"
LOCK_NAME = "control.lock"

_LONGEST_PATH = 100


class LocalInUse(Exception):
    """Another gateway serves this data directory's socket."""


async def connect(directory: Path, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the gateway that listens; lines have at most `limit` bytes. Raises `OSError`."""
    sock = _socket()
    try:
        with _address(directory) as address:
            await asyncio.get_running_loop().sock_connect(sock, address)
        return await asyncio.open_unix_connection(sock=sock, limit=limit)
    except BaseException:
        sock.close()
        raise


def listener(directory: Path) -> socket.socket:
    """The socket, for this user only. The lock is ours, so whatever is there belongs to nobody."""
    (directory / SOCKET_NAME).unlink(missing_ok=True)
    sock = _socket()
    try:
        with _address(directory) as address:
            sock.bind(address)
        (directory / SOCKET_NAME).chmod(0o600)  # until it listens, nobody can connect
    except BaseException:
        sock.close()
        raise
    return sock


def _socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock


@contextmanager
def _address(directory: Path) -> Iterator[str]:
    """The socket's path in a form that fits: the kernel takes about a hundred bytes, and directories may be deep."""
    path = directory / SOCKET_NAME
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield str(path)
        return
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)


def take_lock(path: Path) -> int:
    """The lock, as an open file, for as long as that is open. Raises `LocalInUse`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise LocalInUse(
            f"Another gateway counts in memory on the data in {path.parent}, and each of the two would grant the whole "
            "of every limit. Stop it, give this one a data directory of its own (AIDOCK_DATA), or let both count in "
            "Redis (storage.counters)."
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_free(directory: Path) -> None:
    """Raises `LocalInUse` where a gateway counts in memory on this data directory."""
    os.close(take_lock(directory / LOCK_NAME))

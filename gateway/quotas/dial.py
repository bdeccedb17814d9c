"""From a URL to a connection on which a primary has said that it is one."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis.asyncio.connection import Connection, RedisSSLContext, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from gateway.quotas.batcher import LinkBroken
from gateway.quotas.server_info import ServerInfo, server_info
from gateway.settings.redis_url import TLS_FILES, Address, RedisUrl

AnyConnection = Connection | UnixDomainSocketConnection

_STORE, _SENTINEL = "the counter store", "a sentinel"
_OURS: dict[str, Any] = {
    "protocol": 2,
    "driver_info": None,
    "retry": None,
    "retry_on_timeout": False,
    "socket_timeout": None,
    "socket_connect_timeout": None,
}
"""The library's own retries and time-outs are off: a retry may count twice, and the caller's deadline covers all."""


class Misfit(LinkBroken):
    """The server, or a sentinel, answers and cannot be used as it is. The message names a remedy."""


class Dialer:
    """Finds the server and greets it. Sentinels are asked in turn, the one whose word proved good first."""

    def __init__(self, url: RedisUrl) -> None:
        self._url = url
        self._sentinels = deque(url.hosts if url.service else ())
        self._primary: Address | None = None
        self._tls: RedisSSLContext | None = None

    async def dial(self, within_s: float) -> tuple[AnyConnection, ServerInfo]:
        """Connect to a primary and log in. Sentinels get equal shares of `within_s`, the last is left for the server;
        the deadline itself is the caller's to keep. Raises `LinkBroken`, or `RedisError` as it comes."""
        if self._sentinels:
            self._primary = await self._find(within_s / (len(self._sentinels) + 1))
        try:
            return await self._greet()
        except BaseException:
            self._sentinels.rotate(-1)  # whoever sent us there may be behind the times
            raise

    async def is_current(self, within_s: float) -> bool:
        """False when a sentinel names another primary by now: the one that was found may not know yet that it has
        been replaced, and will throw away what it is told. Without an answer it is trusted."""
        if not self._sentinels:
            return True
        try:
            async with asyncio.timeout(within_s):
                return await self._told_by(self._sentinels[0]) == self._primary
        except (TimeoutError, LinkBroken, RedisError):
            self._sentinels.rotate(-1)
            return True

    async def _greet(self) -> tuple[AnyConnection, ServerInfo]:
        connection = self._to_server()
        try:
            with _in_plain_words(_STORE):
                await _connect(connection)
                info = await ask_info(connection)
        except BaseException:
            await hang_up(connection)
            raise
        return connection, info

    async def _find(self, share_s: float) -> Address:
        """The primary, by the first sentinel that knows."""
        failure = LinkBroken("no sentinel answers in time")
        for host in tuple(self._sentinels):
            try:
                async with asyncio.timeout(share_s):
                    return await self._told_by(host)
            except TimeoutError:
                pass
            except LinkBroken as error:
                failure = error
            except RedisError as error:
                failure = LinkBroken(f"no sentinel answers: {error}")
            self._sentinels.rotate(-1)
        raise failure

    async def _told_by(self, host: Address) -> Address:
        url = self._url
        connection = self._to(host, username=url.sentinel_username, password=url.sentinel_password)
        try:
            with _in_plain_words(_SENTINEL):
                await _connect(connection)
                await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", url.service, check_health=False)
                answer = await connection.read_response()
        finally:
            await hang_up(connection)
        if answer is None:
            raise Misfit("the sentinels do not watch the service that storage.counters (REDIS_URL) names")
        name, port = answer
        return name.decode(), int(port)

    def _to_server(self) -> AnyConnection:
        url = self._url
        login: dict[str, Any] = {"db": url.db, "username": url.username or None, "password": url.password or None}
        if url.path:
            return UnixDomainSocketConnection(path=url.path, **login, **_OURS)
        return self._to(self._primary or url.hosts[0], **login)

    def _to(self, address: Address, **login: Any) -> Connection:
        host, port = address
        if self._url.tls is None:
            return Connection(host=host, port=port, **login, **_OURS)
        if self._tls is None:
            self._tls = _trust({**self._url.tls})
        connection = SSLConnection(host=host, port=port, **login, **_OURS)
        connection.ssl_context = self._tls  # one for all: it takes the system's certificates a while to be read
        return connection


async def ask_info(connection: AnyConnection) -> ServerInfo:
    """What the server says about itself now. Raises `Misfit` where it is a replica, and `RedisError`."""
    await connection.send_command("INFO", check_health=False)
    info = server_info(await connection.read_response())
    if info.role == "replica":
        raise Misfit(
            "the counter store is a replica, which takes no counts; name its primary, or its sentinels, in "
            "storage.counters (REDIS_URL)"
        )
    return info


async def hang_up(connection: AnyConnection) -> None:
    """Close without waiting for the other side."""
    await connection.disconnect(nowait=True)


async def _connect(connection: AnyConnection) -> None:
    await connection.connect()  # type: ignore[no-untyped-call] # the library leaves it bare


@contextlib.contextmanager
def _in_plain_words(whose: str) -> Iterator[None]:
    """What only a person can mend, said so that one knows how."""
    prefix = "sentinel_" if whose == _SENTINEL else ""
    try:
        yield
    except AuthenticationError as error:
        raise Misfit(
            f"{whose} refuses the login; set {prefix}username and {prefix}password in storage.counters (REDIS_URL)"
        ) from error
    except NoPermissionError as error:
        raise Misfit(f"{whose} lets this user do too little: {error}; docs/operations.md has its ACL rules") from error
    except RedisError as error:
        if isinstance(error.__context__, ssl.SSLCertVerificationError):
            raise Misfit(
                f"{whose} shows a certificate that is not trusted, {error.__context__.verify_message}; name its "
                "authority with ssl_ca_certs in storage.counters (REDIS_URL)"
            ) from error
        raise


def _trust(options: dict[str, Any]) -> RedisSSLContext:
    for name in TLS_FILES:
        if name in options and not Path(options[name]).exists():
            raise Misfit(f"{name} in storage.counters (REDIS_URL) names a file that is not there: {options[name]}")
    names = {f"ssl_{name}": name for name in ("keyfile", "certfile", "ca_certs", "ca_path", "password")}
    context = RedisSSLContext(
        **{name: options[option] for option, name in names.items() if option in options},
        cert_reqs=options.get("ssl_cert_reqs", "required"),
        check_hostname=options["ssl_check_hostname"],
    )
    try:
        context.get()
    except OSError as error:
        raise Misfit(f"the TLS files in storage.counters (REDIS_URL) cannot be used: {error}") from error
    return context

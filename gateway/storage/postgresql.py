"""Connections to PostgreSQL. Its driver is SQLAlchemy's to import: who uses SQLite needs none of it."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

CONNECT_TIMEOUT_S: Final = 5.0
STATEMENT_TIMEOUT_S: Final = 30.0
_DRIVER: Final = "postgresql+asyncpg://"
POOL_SIZE: Final = 8
"""Connections of one process. Who finds them all in use waits for as long as for a connection."""

_GRACE_S: Final = 5.0
"""The server ends a statement that takes too long. So much later the wait ends for a server that does nothing."""


def pooled_engine(url: URL, statement_timeout: float = STATEMENT_TIMEOUT_S) -> AsyncEngine:
    """An engine for the gateway's own work, with a bound on everything: connections, connecting, statements."""
    engine = create_async_engine(
        _DRIVER,
        connect_args=_arguments(url, statement_timeout, statement_timeout + _GRACE_S),
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=CONNECT_TIMEOUT_S,
        pool_use_lifo=True,
    )

    driver = engine.dialect.loaded_dbapi.asyncpg
    failures = (driver.PostgresError, driver.InterfaceError, driver.InternalClientError)

    @event.listens_for(engine.sync_engine, "checkout")
    def refuse_dead(connection: Any, record: Any, _proxy: object) -> None:
        """Let the pool replace a connection that has died since it was used. This asks it in one round trip; the
        pool's own check takes three."""
        if record.info.setdefault("fresh", True):
            record.info["fresh"] = False
            return
        try:
            connection.run_async(_ask_anything)
        except (*failures, OSError) as error:
            raise DisconnectionError from error

    return engine


def single_engine(url: URL) -> AsyncEngine:
    """An engine for work that may take its time, such as an upgrade: connections of its own, no deadlines."""
    return create_async_engine(_DRIVER, connect_args=_arguments(url, 0, None), poolclass=NullPool)


def driver_failure(engine: AsyncEngine) -> type[Exception]:
    """What the driver raises where the server is not what it should be, a class that SQLAlchemy does not know."""
    failure: type[Exception] = engine.dialect.loaded_dbapi.asyncpg.InternalClientError
    return failure


def _arguments(url: URL, statement_timeout: float, command_timeout: float | None) -> dict[str, Any]:
    """The driver reads the URL itself, so that it means what it means to every PostgreSQL client: `sslmode`,
    `sslrootcert`, a socket's directory as `host`, `target_session_attrs`, server settings."""
    settings = {"application_name": "aidock", "statement_timeout": str(int(statement_timeout * 1000))}
    return {
        "dsn": url.set(drivername="postgresql").render_as_string(hide_password=False),
        "server_settings": {name: value for name, value in settings.items() if name not in url.query},
        "timeout": CONNECT_TIMEOUT_S,
        "command_timeout": command_timeout,
    }


async def _ask_anything(connection: Any) -> None:
    await connection.execute("SELECT 1", timeout=CONNECT_TIMEOUT_S)

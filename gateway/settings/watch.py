"""Taking up a changed configuration while serving, and keeping the last good one when it cannot be used."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gateway.settings.compile import Snapshot, compile_document
from gateway.settings.load import load
from gateway.settings.problems import ConfigError
from gateway.settings.rules import PolicyCheck

logger = logging.getLogger("aidock.settings")

Subscriber = Callable[[Snapshot], None]

_FIXED_SERVER = (
    "host",
    "port",
    "workers",
    "log_format",
    "drain_notice",
    "drain_seconds",
    "header_timeout",
    "body_timeout",
    "write_timeout",
    "max_body_bytes",
)
_FIXED_STORAGE = ("data", "database_url", "counters")


@dataclass(frozen=True, slots=True)
class Source:
    """What a configuration is made from, and what it may refer to."""

    path: Path | None
    environ: Mapping[str, str] = field(repr=False)
    flags: Mapping[str, Any]
    known_policies: Collection[str]
    known_dialects: Collection[str]
    check_policy: PolicyCheck | None = None

    def read(self, version: int) -> Snapshot:
        """Load and compile. Raises `ConfigError`."""
        return compile_document(
            load(self.path, self.environ, self.flags),
            version=version,
            known_policies=self.known_policies,
            known_dialects=self.known_dialects,
            check_policy=self.check_policy,
        )


class Reloader:
    """Holds the configuration in force. `current` is swapped whole; whoever took it before keeps what it took.

    `last_error` says why the newest attempt failed, None when it did not. Building one raises `ConfigError`.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._subscribers: list[Subscriber] = []
        self._attempts = itertools.count(1)
        self._settled = 0
        self._read_hash: str
        self.current = source.read(version=1)
        self._read_hash = self.current.hash
        self.last_error: str | None = None
        for warning in self.current.warnings:
            logger.warning("%s", warning)

    @property
    def last_reload_ok(self) -> bool:
        return self.last_error is None

    @property
    def path(self) -> Path | None:
        return self._source.path

    def on_change(self, subscriber: Subscriber) -> None:
        """Call with every new snapshot, after it is in force. A `ValueError` from it takes the change back."""
        self._subscribers.append(subscriber)

    def reload(self) -> bool:
        """Read everything again, now. True when what is in force is what the sources say."""
        return self._settle(next(self._attempts), self._attempt(), tentative=False)

    async def refresh(self, *, tentative: bool = False) -> bool:
        """As `reload`, reading in a thread so that calls under way do not wait. A `tentative` failure is not told:
        the file may be half written."""
        attempt = next(self._attempts)
        return self._settle(attempt, await asyncio.to_thread(self._attempt), tentative=tentative)

    def _attempt(self) -> Snapshot | ConfigError:
        try:
            return self._source.read(self.current.version + 1)
        except ConfigError as error:
            return error

    def _settle(self, attempt: int, result: Snapshot | ConfigError, *, tentative: bool) -> bool:
        if attempt < self._settled:
            return self.last_reload_ok  # a later read has finished already
        self._settled = attempt
        if isinstance(result, ConfigError):
            if not tentative:
                self._failed(str(result))
            return False
        if result.hash != self._read_hash and not self._adopt(result):
            return False
        self._read_hash = result.hash
        self.last_error = None
        return True

    def _adopt(self, read: Snapshot) -> bool:
        before = self.current
        fresh = self.current = replace(_live(before, read), version=before.version + 1)
        told: list[Subscriber] = []
        try:
            for subscriber in self._subscribers:
                subscriber(fresh)
                told.append(subscriber)
        except ValueError as error:
            self.current = before
            for subscriber in told:
                subscriber(before)
            self._failed(str(error))
            return False
        for warning in fresh.warnings:
            logger.warning("%s", warning)
        logger.info("configuration %d is in force", fresh.version, extra={"config_hash": fresh.hash[:12]})
        return True

    def _failed(self, why: str) -> None:
        if why != self.last_error:
            for line in why.splitlines():
                logger.error("configuration refused, keeping version %d: %s", self.current.version, line)
        self.last_error = why


def _live(before: Snapshot, read: Snapshot) -> Snapshot:
    """The new snapshot with what only a restart can change left as it was."""
    waiting = [f"server.{name}" for name in _FIXED_SERVER if _differ(before.server, read.server, name)]
    waiting += [f"storage.{name}" for name in _FIXED_STORAGE if _differ(before.storage, read.storage, name)]
    waiting += ["timezone"] if before.zone.key != read.zone.key else []
    if not waiting:
        return read
    for name in waiting:
        logger.warning("%s has changed; restart to apply it", name.removesuffix("_url"))
    kept = {name: getattr(before.server, name) for name in _FIXED_SERVER}
    return replace(read, server=read.server.model_copy(update=kept), storage=before.storage, zone=before.zone)


def _differ(one: object, other: object, name: str) -> bool:
    return bool(getattr(one, name) != getattr(other, name))


class Watcher:
    """Notices that the configuration file changed, by asking for its size and time, which works on every file system
    and through the symbolic links that orchestrators swap."""

    def __init__(self, reloader: Reloader, interval: float = 1.0) -> None:
        self._reloader = reloader
        self._interval = interval
        self._seen = self._stamp()
        self._retry = False

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            await self.look()

    async def look(self) -> None:
        """One look. A first failure after a change is tried once more at the next look before it is told."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            self._retry = not await self._reloader.refresh(tentative=True)
        elif self._retry:
            self._retry = False
            await self._reloader.refresh()

    def _stamp(self) -> tuple[int, int, int] | None:
        path = self._reloader.path
        if path is None:
            return None
        try:
            status = path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

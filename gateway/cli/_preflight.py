"""What would keep a gateway from starting, found out beforehand and said in words."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from gateway.cli._origins import counter_of, stated
from gateway.core.limits import Limit
from gateway.core.ports import StoreUnavailable
from gateway.local_socket import LocalInUse, check_free
from gateway.quotas.connect import counter_store
from gateway.quotas.link import StoreUnfit
from gateway.settings.compile import Snapshot
from gateway.settings.load import Document
from gateway.settings.problems import ConfigError
from gateway.settings.schema import MEMORY
from gateway.storage.engine import make_private_dir


class CannotStart(Exception):
    """Something is missing that a gateway needs. The message names a remedy."""


def check_writable(directory: Path) -> None:
    """Make the directory if need be, and write to it. Raises `CannotStart`."""
    try:
        make_private_dir(directory)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise CannotStart(
            f"{directory} cannot be written: {error.strerror}. Let this user write there, or name another place in "
            "storage.data (AIDOCK_DATA)."
        ) from error


def refuse_second_origins(document: Document, stored: Iterable[Limit]) -> None:
    """Raises `ConfigError` for every limit that the file and the database both set."""
    in_file = stated(document)
    problems = []
    for limit in stored:
        index = in_file.get(counter_of(limit))
        if index is not None:
            words = [limit.scope, limit.subject or "-", limit.metric, limit.window]
            removal = " ".join(word for word in words if word != "none")
            problems.append(
                document.problem(
                    ("quotas", index),
                    "this limit is in the database too, and can have one origin; take it out here, or there with: "
                    f"aidock quotas remove {removal}",
                )
            )
    if problems:
        raise ConfigError(problems)


async def check_counters(snapshot: Snapshot) -> None:
    """Reach the counter store, where there is one to reach; see that nobody else counts here, where there is none.
    Raises `CannotStart`."""
    if snapshot.storage.counters.startswith(MEMORY):
        try:
            check_free(Path(snapshot.storage.data))
        except LocalInUse as error:
            raise CannotStart(str(error)) from error
        return
    store = counter_store(snapshot.storage.counters, snapshot.zone)
    try:
        await store.start("")  # reached, and neither read nor written
    except StoreUnfit as error:
        raise CannotStart(f"{error}.") from error
    except StoreUnavailable as error:
        raise CannotStart(
            f"{str(error).rstrip('.')}. Start the server that storage.counters (REDIS_URL) names, or leave that out "
            "for counters in memory, which serve one process."
        ) from error
    finally:
        await store.close()

"""Limits have one origin: the configuration file, or the database."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.cli._snapshot import snapshot_of
from gateway.core.limits import Limit
from gateway.settings.load import Document

Counter = tuple[str, str, str, str]


def counter_of(limit: Limit) -> Counter:
    """What a limit counts on; two limits with the same are one object."""
    return limit.scope, limit.subject, limit.metric, limit.window


def stated(document: Document) -> Mapping[Counter, int]:
    """The configuration's limits: the index of each in `quotas`."""
    return {counter_of(limit): index for index, limit in enumerate(snapshot_of(document).limits)}

"""Where limits are counted in Redis: keys, ready for the wire."""

from __future__ import annotations

import math

from gateway.core.limits import Limit
from gateway.quotas.windows import Bucket, Calendar

GRACE_S = 2 * 86_400
"""How long a counter outlives its window, for settlements that come late."""
REMEMBERED_LIMITS = 10_000


class Slot:
    """What is fixed about a limit while one turn of its window lasts. `before` is another turn that was asked for."""

    __slots__ = ("before", "ends_at", "expiry", "key", "limit", "starts_at", "tail", "until")

    def __init__(self, limit: Limit, key: str, bucket: Bucket) -> None:
        self.limit = limit
        self.key = key
        self.starts_at = bucket.starts_at
        self.ends_at = bucket.ends_at
        self.until = math.inf if bucket.ends_at is None else bucket.ends_at
        self.expiry = "" if bucket.ends_at is None else str(bucket.ends_at + GRACE_S)
        self.tail = (self.expiry, str(limit.amount), limit.action)
        self.before: Slot | None = None


class Slots:
    """The slots of limits, remembered by identity: limits are shared by all calls of a configuration, and hashing one
    costs more than a look-up. A slot keeps its limit alive, so no other can get the same identity.

    Two turns of each are remembered, since calls settle in the turn in which they began.
    """

    __slots__ = ("_calendar", "_known", "_space")

    def __init__(self, calendar: Calendar, space: str) -> None:
        self._calendar = calendar
        self._space = space
        self._known: dict[int, Slot] = {}

    def at(self, limit: Limit, moment: float) -> Slot:
        """The slot of the turn that a unix time falls in."""
        latest = self._known.get(id(limit))
        if latest is None:
            if len(self._known) >= REMEMBERED_LIMITS:
                self._known.clear()
            slot = self._known[id(limit)] = self.make(limit, moment)
            return slot
        if latest.starts_at <= moment < latest.until:
            return latest
        before = latest.before
        if before is not None and before.starts_at <= moment < before.until:
            return before
        slot = self.make(limit, moment)
        if slot.starts_at > latest.starts_at:
            latest.before, slot.before = None, latest
            self._known[id(limit)] = slot
        else:
            latest.before = slot
        return slot

    def make(self, limit: Limit, moment: float) -> Slot:
        """The same, for those who ask once."""
        bucket = self._calendar.bucket(limit.window, moment)
        key = f"{self._space}:used:{limit.scope}:{limit.metric}:{limit.window}:{bucket.id}:{limit.subject}"
        return Slot(limit, key, bucket)

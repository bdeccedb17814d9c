"""Calendar windows in the organisation's time zone, evaluated when they are read: nothing resets them."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo
from typing import NamedTuple

from gateway.core.limits import Window

MINUTE_S = 60
HOUR_S = 3600


class Bucket(NamedTuple):
    """One turn of a window: `starts_at <= now < ends_at` in unix seconds, `ends_at` None for ever.

    `id` is unique within its window: the local date for days and months, the unix start for minutes and hours, where
    local time would name two hours alike when clocks go back.
    """

    id: str
    ends_at: int | None
    starts_at: int = 0


ENDLESS = Bucket("all", None)


class Calendar:
    """The buckets of one zone. Remembers the current one of each window and the one asked for before it, since calls
    end in the bucket in which they began, so that asking costs a look-up."""

    __slots__ = ("_current", "_former", "zone")

    def __init__(self, zone: tzinfo) -> None:
        self.zone = zone
        self._current: dict[Window, Bucket] = {"total": ENDLESS, "none": ENDLESS}
        self._former: dict[Window, Bucket] = {}

    def bucket(self, window: Window, now: float) -> Bucket:
        """The bucket that holds the unix time `now`."""
        current = self._current.get(window)
        if current is not None:
            if _holds(current, now):
                return current
            former = self._former.get(window)
            if former is not None and _holds(former, now):
                return former
            self._former[window] = current
        current = self._current[window] = bucket_at(window, now, self.zone)
        return current


def _holds(bucket: Bucket, now: float) -> bool:
    return bucket.starts_at <= now and (bucket.ends_at is None or now < bucket.ends_at)


def bucket_at(window: Window, now: float, zone: tzinfo) -> Bucket:
    """The bucket of a window that holds the unix time `now`."""
    match window:
        case "minute":
            return _aligned(now, MINUTE_S, zone)
        case "hour":
            return _aligned(now, HOUR_S, zone)
        case "day":
            return _day(now, zone)
        case "month":
            return _month(now, zone)
        case "total" | "none":
            return ENDLESS


def _aligned(now: float, length: int, zone: tzinfo) -> Bucket:
    """Local clocks may be half an hour off the world's, so a full hour is counted in local time."""
    offset = _utc_offset(now, zone)
    start = (int(now) + offset) // length * length - offset
    return Bucket(str(start), start + length, start)


def _day(now: float, zone: tzinfo) -> Bucket:
    today = _local(now, zone).date()
    tomorrow = today + timedelta(days=1)
    return Bucket(
        today.strftime("%Y%m%d"), _midnight(tomorrow.timetuple()[:3], zone), _midnight(today.timetuple()[:3], zone)
    )


def _month(now: float, zone: tzinfo) -> Bucket:
    today = _local(now, zone)
    first = (today.year, today.month, 1)
    following = (today.year + 1, 1, 1) if today.month == 12 else (today.year, today.month + 1, 1)
    return Bucket(today.strftime("%Y%m"), _midnight(following, zone), _midnight(first, zone))


def _midnight(date: tuple[int, int, int], zone: tzinfo) -> int:
    """When a local date begins: where clocks skip midnight the moment they do, where they repeat it the first one."""
    return int(datetime(*date, tzinfo=zone).timestamp())


def _local(now: float, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(now, zone)


def _utc_offset(now: float, zone: tzinfo) -> int:
    offset = _local(now, zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())

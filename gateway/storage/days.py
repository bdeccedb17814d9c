"""Days of the organisation's time zone, written `YYYY-MM-DD`."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo


def day_of(moment: float, zone: tzinfo) -> str:
    """The day of a unix time in a time zone."""
    return datetime.fromtimestamp(moment, zone).date().isoformat()


def start_of(day: str, zone: tzinfo) -> float:
    """The unix time at which a day begins."""
    return datetime.fromisoformat(day).replace(tzinfo=zone).timestamp()


def day_after(day: str) -> str:
    """The day that follows in the calendar, however many hours that is."""
    return (datetime.fromisoformat(day) + timedelta(days=1)).date().isoformat()

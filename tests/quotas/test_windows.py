from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.limits import Window
from gateway.quotas.windows import Calendar, bucket_at

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [
    ZoneInfo(name)
    for name in (
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/Santiago",
        "America/Havana",
        "Asia/Beirut",
        "Asia/Kathmandu",
        "Asia/Kolkata",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Pacific/Chatham",
    )
]
TIMED: tuple[Window, ...] = ("minute", "hour", "day", "month")
MOMENTS = st.integers(
    int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()), int(datetime(2037, 1, 1, tzinfo=UTC).timestamp())
)


def local(zone: ZoneInfo, *parts: int, fold: int = 0) -> int:
    return int(datetime(*parts, tzinfo=zone, fold=fold).timestamp())  # type: ignore[arg-type, misc]


def test_a_day_begins_at_local_midnight() -> None:
    bucket = bucket_at("day", local(BERLIN, 2026, 11, 22, 0, 0, 1), BERLIN)
    assert bucket.id == "20261122"
    assert bucket.starts_at == local(BERLIN, 2026, 11, 22)
    assert bucket.ends_at == local(BERLIN, 2026, 11, 23)


@pytest.mark.parametrize(
    ("date", "hours"),
    [((2026, 3, 29), 23), ((2026, 10, 25), 25), ((2026, 6, 1), 24)],
    ids=["spring", "autumn", "summer"],
)
def test_a_day_is_as_long_as_its_clocks_make_it(date: tuple[int, int, int], hours: int) -> None:
    bucket = bucket_at("day", local(BERLIN, *date, 12), BERLIN)
    assert bucket.ends_at is not None
    assert bucket.ends_at - bucket.starts_at == hours * 3600


def test_a_day_whose_midnight_is_skipped_begins_when_the_clocks_jump() -> None:
    santiago = ZoneInfo("America/Santiago")
    bucket = bucket_at("day", local(santiago, 2025, 9, 7, 12), santiago)
    assert (bucket.id, datetime.fromtimestamp(bucket.starts_at, santiago).hour) == ("20250907", 1)


@pytest.mark.parametrize(("year", "days"), [(2028, 29), (2026, 28), (2100, 28)])
def test_february_ends_with_its_leap_day(year: int, days: int) -> None:
    utc = ZoneInfo("UTC")
    bucket = bucket_at("month", local(utc, year, 2, days, 23, 59, 59), utc)
    assert bucket.id == f"{year}02"
    assert bucket.ends_at == local(utc, year, 3, 1)


def test_the_year_turns_with_december() -> None:
    bucket = bucket_at("month", local(BERLIN, 2026, 12, 31, 23, 59, 59), BERLIN)
    assert (bucket.id, bucket.ends_at) == ("202612", local(BERLIN, 2027, 1, 1))


def test_the_hour_that_comes_twice_is_two_buckets() -> None:
    once = bucket_at("hour", local(BERLIN, 2026, 10, 25, 2, 30), BERLIN)
    twice = bucket_at("hour", local(BERLIN, 2026, 10, 25, 2, 30, fold=1), BERLIN)
    assert once.ends_at == twice.starts_at
    assert once.id != twice.id


def test_full_hours_are_local_where_the_offset_is_not_whole() -> None:
    kathmandu = ZoneInfo("Asia/Kathmandu")
    bucket = bucket_at("hour", local(kathmandu, 2026, 5, 1, 10, 59), kathmandu)
    assert bucket.starts_at == local(kathmandu, 2026, 5, 1, 10)
    assert bucket.starts_at % 3600 == 15 * 60


@pytest.mark.parametrize("window", ["total", "none"])
def test_windows_without_end_have_one_bucket(window: Window) -> None:
    assert bucket_at(window, 0, BERLIN) == bucket_at(window, 2**31, BERLIN)
    assert bucket_at(window, 0, BERLIN).ends_at is None


@given(st.sampled_from(TIMED), MOMENTS, st.sampled_from(ZONES))
def test_every_moment_is_in_its_bucket_and_the_next_one_follows(window: Window, now: int, zone: ZoneInfo) -> None:
    bucket = bucket_at(window, now, zone)
    assert bucket.ends_at is not None
    assert bucket.starts_at <= now < bucket.ends_at
    following = bucket_at(window, bucket.ends_at, zone)
    assert following.id != bucket.id
    assert following.ends_at is not None
    assert following.ends_at > bucket.ends_at
    assert bucket_at(window, bucket.ends_at - 0.001, zone) == bucket


@given(
    st.sampled_from(TIMED),
    st.lists(MOMENTS, min_size=1, max_size=20),
    st.integers(-90_000, 90_000),
    st.sampled_from(ZONES),
)
def test_a_calendar_that_remembers_answers_as_one_that_does_not(
    window: Window, moments: list[int], step: int, zone: ZoneInfo
) -> None:
    calendar = Calendar(zone)
    for moment in moments:
        for now in (moment, moment + step, moment + 0.5):
            assert calendar.bucket(window, now).id == bucket_at(window, now, zone).id


def test_a_calendar_answers_from_memory_until_the_bucket_turns() -> None:
    calendar = Calendar(BERLIN)
    noon = local(BERLIN, 2026, 11, 22, 12)
    today = calendar.bucket("day", noon)
    assert calendar.bucket("day", noon + 3600) is today
    assert calendar.bucket("day", noon + 86_400).id == "20261123"
    assert calendar.bucket("day", noon).id == "20261122"

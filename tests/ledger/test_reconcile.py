"""What counts as a difference between two books, and how it is told."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.limits import Count, Limit
from gateway.core.money import Price
from gateway.ledger.delivery import PoisonRow
from gateway.ledger.inspection import Inspection
from gateway.ledger.quarantine import Quarantine
from gateway.ledger.reconcile import (
    SHOWN,
    Check,
    Reading,
    add_counter,
    add_day,
    add_journal,
    add_price,
    add_quarantine,
    add_total,
    judge,
)
from gateway.storage.audit import Priced
from gateway.storage.daily import SUMS
from tests.ledger.support import outcome

LIMIT = Limit("department", "research", "tokens", "hour", 1000)
GROUP = ("research", "ada@example.com", "k1", "m", "openai")
NONE = (0,) * len(SUMS)


def reading(settled: int, ledger: int, running: int | None = None, **changes: Any) -> Reading:
    count = Count(LIMIT, 3600.0, 7200.0, 0.0, True, settled, 0)
    return Reading(count._replace(**changes), ledger, running)


def counted(*readings: Reading) -> Check:
    check = Check("counters", "")
    add_counter(check, readings)
    return check


@pytest.mark.parametrize(
    ("readings", "verdict"),
    [
        ([reading(5, 5)], "equal"),
        ([reading(9, 5), reading(9, 9)], "equal"),
        ([reading(5, 4)], "drift"),
        ([reading(5, 4)] * 9, "drift"),
        ([reading(4, 5)] * 9, "drift"),
        ([reading(5, 3), reading(8, 6), reading(11, 9)], "moving"),
        ([reading(100, 3), reading(103, 6), reading(106, 9)], "drift"),  # behind by more than was ever on its way
        ([reading(5, 9), reading(8, 12), reading(11, 15)], "drift"),  # the ledger is ahead, and calls settle first
        ([reading(5, 4), reading(1, 0, starts_at=7200.0)], "moving"),  # the window has turned
        ([reading(5, 4), *[reading(1, 0, starts_at=7200.0)] * 2], "drift"),
        ([reading(5, 5, based=False)], "drift"),
        ([reading(5, 3, based=False), reading(8, 6, based=False), reading(11, 9, based=False)], "drift"),
    ],
)
def test_a_difference_that_stands_is_drift_and_one_that_moves_is_not(readings: list[Reading], verdict: str) -> None:
    assert judge(readings) == verdict


def test_drift_is_told_with_both_numbers() -> None:
    check = counted(*[reading(9, 5)] * 2)
    assert (check.checked, check.differences) == (1, 1)
    assert (
        check.first[0].says
        == "the counter of tokens of department research per hour says 9 and the ledger 5: 4 too many"
    )
    assert "1 too few" in counted(*[reading(4, 5)] * 2).first[0].says
    assert "not been counted up" in counted(reading(5, 5, based=False)).first[0].says


def test_what_moves_is_noted_and_no_difference() -> None:
    check = counted(reading(5, 3), reading(8, 6), reading(11, 9))
    assert (check.differences, "in motion: 11 counted and 9" in check.notes[0]) == (0, True)


def test_a_hold_that_stands_although_nothing_runs_is_a_difference() -> None:
    assert counted(*[reading(5, 5, running=0, reserved=7)] * 2).differences == 1
    assert counted(reading(5, 5, running=0, reserved=7)).differences == 0  # a call may just have ended
    assert counted(reading(5, 5, running=1, reserved=7), reading(5, 5, running=0, reserved=7)).differences == 0
    assert counted(reading(5, 5, running=3, reserved=-1)).differences == 1
    unknown = counted(reading(5, 5, running=None, reserved=7))
    assert (unknown.differences, "7 of" in unknown.notes[0]) == (0, True)


def test_the_calls_of_a_living_journal_are_no_difference() -> None:
    calls, frames = Check("calls", ""), Check("journals", "")
    alive = Inspection("j", True, records=9, delivered={"r1"}, adjusted={("r1", 1)}, waiting=2, open={"r2"})
    add_journal(calls, frames, alive, {"r1"}, {("r1", 1)})
    assert (calls.checked, calls.differences, len(calls.notes)) == (5, 0, 2)
    assert (frames.checked, frames.differences) == (9, 0)


def test_what_was_delivered_and_is_not_there_is_a_difference() -> None:
    calls, frames = Check("calls", ""), Check("journals", "")
    alive = Inspection("j", True, delivered={"r1", "r2"}, adjusted={("r1", 1), ("r1", 2)})
    add_journal(calls, frames, alive, {"r2"}, {("r1", 2)})
    assert [difference.subject for difference in calls.first] == ["r1", "r1"]


def test_a_dead_journal_with_something_in_it_is_a_difference() -> None:
    for dead, differences in (
        (Inspection("j", False, waiting=3), 1),
        (Inspection("j", False, open={"r"}), 1),
        (Inspection("j", False, delivered={"r"}), 0),
    ):
        calls, frames = Check("calls", ""), Check("journals", "")
        add_journal(calls, frames, dead, {"r"}, set())
        assert calls.differences == differences


def test_every_kind_of_damage_is_told_by_itself() -> None:
    calls, frames = Check("calls", ""), Check("journals", "")
    broken = Inspection("j", True, missing={7}, damaged_bytes=2, unreadable={1, 2, 3}, trouble="no such device")
    add_journal(calls, frames, broken, set(), set())
    assert [difference.says.split()[0] for difference in frames.first] == ["the", "1", "3", "2"]


def test_days_are_compared_group_by_group() -> None:
    check = Check("days", "")
    other = (*GROUP[:4], "other")
    used = (2, 0, 100, 50, 0, 0, 30, 7)
    assert add_day(check, "2026-11-01", {GROUP: used}, {GROUP: used})
    assert not add_day(check, "2026-11-02", {GROUP: used, other: used}, {GROUP: (2, 0, 101, 50, 0, 0, 31, 8)})
    assert not add_day(check, "2026-11-03", {}, {GROUP: NONE})
    assert (check.checked, check.differences) == (4, 3)
    assert check.first[0].says == (
        "on 2026-11-02, for department research, user ada@example.com, key k1, model m, provider openai, "
        "the rows have 100 prompt_tokens, the sums 101; the rows have 30 cost_microusd, the sums 31; "
        "the rows have 7 saved_microusd, the sums 8"
    )
    assert [difference.says.rpartition(", ")[2] for difference in check.first[1:]] == [
        "there are rows and no sums",
        "there are sums and no rows",
    ]


def test_totals_are_compared_as_a_whole() -> None:
    check = Check("totals", "")
    add_total(check, "user", NONE, NONE)
    add_total(check, "key", NONE, (1, *NONE[1:]))
    assert (check.checked, [difference.subject for difference in check.first]) == (2, ["key"])


PRICE = Price(150_000, 600_000, 75_000, "v1", per_minute=6_000_000_000)


@pytest.mark.parametrize(
    ("call", "differences"),
    [
        (Priced("r", ("charge",), "v1", 1000, 500, 0, 450, PRICE), 0),
        (Priced("r", ("charge",), "v1", 1000, 500, 0, 451, PRICE), 1),
        (Priced("r", ("charge",), "v1", 1000, 500, 1000, 375, PRICE), 0),
        (Priced("r", ("charge", "adjust"), "v1", 1000, 500, 0, 450, PRICE), 0),
        (Priced("r", ("charge", "adjust"), "v1", 1000, 500, 0, 300, PRICE), 1),
        (Priced("r", ("orphan", "adjust"), "v1", 1000, 500, 0, 450, PRICE), 0),
        (Priced("r", ("adjust",), "v1", 0, 0, 0, 0, PRICE), 1),
        (Priced("r", ("charge",), "v9", 0, 0, 0, 0, None), 1),
        (Priced("r", ("orphan",), "v9", 0, 0, 0, 0, None), 0),
        (Priced("r", ("orphan",), "v9", 0, 0, 0, 3, None), 1),
        (Priced("r", ("refund",), "v1", 0, 0, 0, 3, PRICE), 1),
        (Priced("r", ("charge",), "v1", 2**50, 2**50, 0, 2**50 - 1, Price(10**12, 10**12)), 0),
        (Priced("r", ("charge",), "v1", 1000, 500, 0, 450 + 9_000, PRICE, 90, "second"), 0),
        (Priced("r", ("charge",), "v1", 0, 0, 0, 9_001, PRICE, 90, "second"), 1),
        (Priced("r", ("orphan",), "v9", 0, 0, 0, 0, None, 1, "image"), 1),
    ],
)
def test_a_cost_is_tokens_and_units_times_price(call: Priced, differences: int) -> None:
    check = Check("prices", "")
    add_price(check, call)
    assert check.differences == differences


def test_rows_in_quarantine_are_differences_with_their_reasons(tmp_path: Any) -> None:
    quarantine = Quarantine(tmp_path / "q")
    quarantine.add(outcome("r1"), PoisonRow("too large"))
    check = Check("quarantine", "")
    add_quarantine(check, quarantine.entries())
    assert (check.checked, check.first[0].subject) == (1, "r1")
    assert "too large" in check.first[0].says


def test_the_first_differences_are_told_and_all_are_counted() -> None:
    check = Check("days", "")
    for n in range(SHOWN + 5):
        check.add(str(n), "says", "remedy")
    assert (len(check.first), check.differences) == (SHOWN, SHOWN + 5)

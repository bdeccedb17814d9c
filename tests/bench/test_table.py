import pytest

from bench.table import COLUMNS, Figures, Goal, Row, Spread, render, shown, spread

BY_RATIO = Goal(title="CPU per call", unit="us", bar=5, stretch=3, by_ratio=True)
BY_FIGURE = Goal(title="ready", unit="s", bar=2, stretch=1)


def row(goal: Goal, measured: float, reference: float | None = None) -> Row:
    held = spread([reference]) if reference is not None else None
    return Row(goal=goal, figures=Figures(measured=spread([measured]), reference=held))


def test_a_spread_is_the_median_between_the_extremes() -> None:
    assert spread([9.0, 1.0, 2.0]) == Spread(2.0, 1.0, 9.0)
    assert spread(iter([4.0, 2.0])) == Spread(3.0, 2.0, 4.0)


def test_there_is_no_spread_of_nothing() -> None:
    with pytest.raises(ValueError, match="no median"):
        spread([])


@pytest.mark.parametrize(
    ("measured", "verdict"), [(90.0, "meets stretch"), (91.0, "meets bar"), (150.0, "meets bar"), (151.0, "misses")]
)
def test_a_ratio_is_judged_against_the_reference(measured: float, verdict: str) -> None:
    assert row(BY_RATIO, measured, 30.0).verdict == verdict


def test_a_figure_is_judged_by_itself_whatever_the_reference() -> None:
    assert row(BY_FIGURE, 1.5, 0.001).verdict == "meets bar"
    assert row(BY_FIGURE, 2.1).verdict == "misses"


def test_a_ratio_without_a_reference_is_not_judged() -> None:
    assert row(BY_RATIO, 10.0).verdict == "no reference"
    assert row(BY_RATIO, 10.0, 0.0).verdict == "no reference"


def test_a_row_without_figures_says_whether_it_was_skipped_or_broke() -> None:
    assert Row(goal=BY_RATIO, trouble="no Redis").verdict == "skipped"
    assert Row(goal=BY_RATIO, trouble="12 errors", broken=True).verdict == "BROKEN"


def test_figures_have_three_digits_or_are_whole() -> None:
    assert shown(Spread(0.12345, 0.1, 9.876), "ms") == "0.123 ms (0.1..9.88)"
    assert shown(Spread(1234.5, 99.94, 2000.0), "us") == "1,234 us (99.9..2,000)"


def test_the_table_has_every_column_and_the_remarks_below() -> None:
    text = render([row(BY_RATIO, 120.0, 30.0), Row(goal=BY_FIGURE, trouble="it would not start", broken=True)])
    head, rule, first, second, *rest = text.splitlines()
    assert head.split() == list(COLUMNS)
    assert set(rule) == {"-", " "}
    assert "4.00x" in first
    assert "meets bar" in first
    assert second.endswith("BROKEN")
    assert rest[-1] == "ready: it would not start"


def test_the_json_has_what_the_table_shows() -> None:
    report = row(BY_RATIO, 120.0, 30.0).as_json()
    assert report["ratio"] == 4.0
    assert report["verdict"] == "meets bar"
    assert report["measured"] == {"median": 120.0, "low": 120.0, "high": 120.0}

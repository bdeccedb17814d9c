import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import GatewayError, invalid_request
from policies._matching import Found, Matcher, MatchFilter, words

COLOURS = Matcher({"red": words(["dark red", "red"]), "number": r"[0-9]{3}-[0-9]{3}"})


def shown(found: Found) -> str:
    return f"<{found.name}>"


def filtered(*pieces: str, reach: int = 12) -> str:
    each = MatchFilter(COLOURS, shown, reach)
    return "".join(map(each.feed, pieces)) + each.finish()


def test_words_match_whole_and_in_any_case() -> None:
    assert COLOURS.replaced("Red, reddish, RED and dark red", shown) == "<red>, reddish, <red> and <red>"


@pytest.mark.parametrize("gap", [" ", "  ", "\n", "\u00a0", "\u2009", "\u200b "])
def test_any_gap_between_two_words_is_one(gap: str) -> None:
    assert COLOURS.replaced(f"dark{gap}red!", shown) == "<red>!"


def test_a_text_without_a_match_is_the_same_object() -> None:
    text = "nothing here"
    assert COLOURS.replaced(text, shown) is text


def test_words_that_begin_or_end_with_signs_need_no_edge_there() -> None:
    assert Matcher({"w": words(["c++"])}).replaced("I like C++!", lambda _: "x") == "I like x!"


@given(st.lists(st.text("red 123-x", max_size=9), max_size=12))
def test_pieces_give_what_the_whole_would(pieces: list[str]) -> None:
    assert filtered(*pieces) == COLOURS.replaced("".join(pieces), shown)


def test_a_match_cut_anywhere_is_found() -> None:
    text = "call 123-456 now, red alert"
    for cut in range(len(text) + 1):
        assert filtered(text[:cut], text[cut:]) == "call <number> now, <red> alert"


def test_a_words_edge_is_seen_across_pieces() -> None:
    assert filtered("x" * 30, "red") == "x" * 30 + "red"
    assert filtered("infra", "red " + "y" * 40) == "infrared " + "y" * 40


def test_a_filter_holds_back_no_more_than_its_reach() -> None:
    each = MatchFilter(COLOURS, shown, 12)
    assert len(each.feed("y" * 100)) == 88


def test_a_match_that_never_ends_is_let_go_in_time() -> None:
    each = MatchFilter(Matcher({"a": "a+"}), lambda _: "!", 10)
    told = [each.feed("a" * 999) for _ in range(20)]
    assert "!" in "".join(told)


def test_what_replaces_may_end_the_text() -> None:
    def refuse(found: Found) -> str:
        raise invalid_request("no")

    with pytest.raises(GatewayError):
        MatchFilter(COLOURS, refuse, 5).feed("this is red, and goes on")


@pytest.mark.parametrize("pattern", [r"(a)\1", r"(?=a)a", "(", "a*", "(?P<p0>a)", "x" * 20_001])
def test_patterns_that_cannot_be_used_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="'bad'"):
        Matcher({"bad": pattern})


def test_patterns_that_ruin_other_engines_take_linear_time() -> None:
    started = time.process_time()
    Matcher({"evil": r"(a+)+b"}).replaced("a" * 200_000, shown)
    assert time.process_time() - started < 5

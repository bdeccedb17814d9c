from __future__ import annotations

import re
import string

from hypothesis import given
from hypothesis import strategies as st

from gateway.identity.keys import KEY_LENGTH, PREFIX, digest, masked, new_key, parse
from gateway.identity.pepper import Pepper

KEY = new_key()
TEXT = KEY.text.reveal()


def test_a_key_is_one_word_after_its_prefix_and_knows_its_public_id():
    assert re.fullmatch(r"sk-aidock-[0-9A-Za-z]{61}", TEXT)
    assert len(TEXT) == KEY_LENGTH
    assert TEXT[len(PREFIX) :].startswith(KEY.public_id)
    assert parse(TEXT.encode()) == KEY.public_id


def test_keys_do_not_repeat_and_do_not_print_themselves():
    keys = [new_key() for _ in range(500)]
    assert len({key.public_id for key in keys}) == len({key.text.reveal() for key in keys}) == 500
    assert TEXT not in repr(KEY)
    assert TEXT not in f"{KEY}"


@given(st.integers(0, KEY_LENGTH - 1), st.sampled_from(string.printable))
def test_no_key_survives_the_change_of_one_character(place, character):
    changed = TEXT[:place] + character + TEXT[place + 1 :]
    assert parse(changed.encode()) == (KEY.public_id if changed == TEXT else None)


@given(st.integers(0, KEY_LENGTH - 2))
def test_no_key_survives_two_neighbours_changing_places(place):
    changed = TEXT[:place] + TEXT[place + 1] + TEXT[place] + TEXT[place + 2 :]
    assert parse(changed.encode()) == (KEY.public_id if changed == TEXT else None)


@given(st.binary(max_size=200))
def test_junk_is_no_key(junk):
    assert parse(junk) is None


@given(st.integers(0, KEY_LENGTH - 1))
def test_a_key_cut_short_is_no_key(length):
    assert parse(TEXT[:length].encode()) is None


def test_what_surrounds_a_key_makes_it_another_text():
    for changed in (TEXT + "\n", " " + TEXT, TEXT + TEXT, "x" * 10_000 + TEXT):
        assert parse(changed.encode()) is None


def test_a_digest_depends_on_the_key_and_on_the_pepper():
    one, other = Pepper(b"one"), Pepper(b"other")
    assert len(digest(one, TEXT.encode())) == 32
    assert digest(one, TEXT.encode()) == digest(Pepper(b"one"), TEXT.encode())
    assert digest(one, TEXT.encode()) != digest(other, TEXT.encode())
    assert digest(one, TEXT.encode()) != digest(one, new_key().text.reveal().encode())


def test_a_masked_key_shows_no_more_than_its_public_id():
    assert masked(KEY.public_id) == f"sk-aidock-{KEY.public_id}…"

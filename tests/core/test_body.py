"""A body's members stay byte for byte what the client wrote."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.body import Body, raw_items, raw_members
from gateway.core.errors import GatewayError

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=15,
)
documents = st.dictionaries(texts, values, max_size=6)


@given(documents, st.booleans(), st.sampled_from([None, 1, 3]))
def test_every_member_keeps_its_bytes(document: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    parts = {k: json.dumps(v, ensure_ascii=ascii_only, indent=indent).encode() for k, v in document.items()}
    raw = b"{" + b" ,\n".join(json.dumps(k).encode() + b" : " + part for k, part in parts.items()) + b"}"
    body = Body(raw)
    assert {name: bytes(member) for name, member in body.members.items()} == parts
    assert {name: body.size(name) for name in document} == {name: len(part) for name, part in parts.items()}


@given(documents, texts, values.filter(lambda value: value is not None))
def test_changing_one_member_copies_the_others(document: dict[str, Any], name: str, value: Any) -> None:
    odd = b"-0.0e+00"
    raw = json.dumps(document | {"odd": 0}, ensure_ascii=False).encode().replace(b'"odd": 0', b'"odd": ' + odd)
    changed = raw_members(Body(raw).with_members({name: value}))
    assert json.loads(bytes(changed[name])) == value
    assert name == "odd" or bytes(changed["odd"]) == odd
    for other in document.keys() - {name, "odd"}:
        assert bytes(changed[other]) == json.dumps(document[other], ensure_ascii=False).encode()


def test_a_change_to_nothing_removes_the_member() -> None:
    assert Body(b'{"a":1,"b":2}').with_members({"a": None, "c": None}) == b'{"b":2}'


@pytest.mark.parametrize(
    "raw",
    [
        '{"a":1,"a":2}',
        '{"a":1,"a":1}',
        '{"a":11,"a":1}',
        '{"a":1,"a":11}',
        '{"b":1,"a":2,"c":3,"a":2}',
        '{"a":1,"\\u0061":1}',
        '{"\\u0061":1,"b":"a","a":2}',
        ' { "a" : 1 , "b" : 2 , "a" : 1 } ',
        '{"b":"\\"a\\":1","a":"}","a":","}',
        '{"a":null,"b":[],"a":{"a":1}}',
    ],
)
def test_a_member_that_is_there_twice_is_a_400_that_names_it(raw: str) -> None:
    with pytest.raises(GatewayError, match="more than once") as refused:
        Body(raw.encode())
    assert (refused.value.status, refused.value.param) == (400, "a")


@given(documents, documents, st.booleans(), st.sampled_from([None, 1, 3]))
def test_only_a_member_of_the_body_itself_can_be_there_twice(
    document: dict[str, Any], more: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=ascii_only, indent=indent)

    pairs = [f"{text(k)} : {text(v)}" for k, v in (*document.items(), *more.items())]
    inner = "{" + ",".join(pairs) + "}"
    if document.keys() & more.keys():
        with pytest.raises(GatewayError, match="more than once") as refused:
            Body(inner.encode())
        assert refused.value.param in document.keys() & more.keys()
    else:
        assert Body(inner.encode()).members.keys() == document.keys() | more.keys()
    assert Body(f'{{"inner": {inner}}}'.encode()).members.keys() == {"inner"}


def test_of_a_long_name_only_so_much_is_shown() -> None:
    name = b"n" * 100_000
    with pytest.raises(GatewayError) as refused:
        Body(b'{"%b":1,"%b":2}' % (name, name))
    assert len(refused.value.message) < 300


def test_a_body_of_more_members_than_anybody_needs_is_a_400() -> None:
    members = {f"m{number}": number for number in range(1_000)}
    assert len(Body(json.dumps(members).encode()).members) == 1_000
    with pytest.raises(GatewayError, match="1000 members"):
        Body(json.dumps(members | {"one more": 1}).encode())


@pytest.mark.parametrize("number", ["1e400", "0.1000000000000000055511151231257827", "12345678901234567890123", "-0"])
def test_numbers_that_no_float_can_hold_pass_unchanged(number: str) -> None:
    raw = f'{{"model":"m","seed":{number}}}'.encode()
    assert f'"seed":{number}'.encode() in Body(raw).with_members({"model": "n"})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b"{}{}",
        b'{"a":}',
        b'{"a":1,}',
        b"{'a':1}",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b"\xef\xbb\xbf{}",
        b'{"a":' + b"[" * 200_000 + b"}",
        b'{"a":' * 100_000,
        b"\x00",
    ],
)
def test_what_is_no_json_object_is_a_400(raw: bytes) -> None:
    with pytest.raises(GatewayError) as refused:
        Body(raw)
    assert refused.value.status == 400
    assert len(refused.value.message) < 300


def test_a_member_that_is_null_is_as_good_as_absent() -> None:
    body = Body(b'{"a":null,"b":false,"c":"null"}')
    assert ("a" in body, "b" in body, "c" in body, "d" in body) == (False, True, True, False)
    for name in ("a", "d"):
        assert (body.value(name), body.text(name), body.flag(name), body.count(name)) == (None, None, False, None)


@pytest.mark.parametrize(
    ("raw", "filled"),
    [
        (b"[1]", True),
        (b"[ \n\t]", False),
        (b"[]", False),
        (b"[[]]", True),
        (b'"[]"', False),
        (b"{}", False),
        (b"[" + b" " * 200 + b"1]", True),
    ],
)
def test_an_array_with_something_in_it_is_told_from_the_rest(raw: bytes, filled: bool) -> None:
    assert Body(b'{"a":' + raw + b"}").is_filled_array("a") is filled
    assert Body(b"{}").is_filled_array("a") is False


@pytest.mark.parametrize(("raw", "value"), [("0", 0), ("7", 7), ("7.0", 7), ("100", 100), ("1e2", 100)])
def test_a_count_is_a_whole_number_however_it_is_written(raw: str, value: int) -> None:
    assert Body(f'{{"n":{raw}}}'.encode()).count("n", most=100) == value


@pytest.mark.parametrize("raw", ["-1", "101", "1.5", "true", '"7"', "[]", "{}", "1e400", "99999999999999999999999"])
def test_a_count_out_of_bounds_or_of_another_kind_is_a_400_that_names_it(raw: str) -> None:
    with pytest.raises(GatewayError) as refused:
        Body(f'{{"n":{raw}}}'.encode()).count("n", most=100)
    assert (refused.value.status, refused.value.param) == (400, "n")


@pytest.mark.parametrize(("method", "raw"), [("text", "7"), ("text", "[]"), ("flag", "1"), ("flag", '"true"')])
def test_a_member_of_another_kind_is_a_400_that_names_it(method: str, raw: str) -> None:
    with pytest.raises(GatewayError) as refused:
        getattr(Body(f'{{"x":{raw}}}'.encode()), method)("x")
    assert (refused.value.status, refused.value.param) == (400, "x")


def test_members_nested_too_deep_are_a_400_when_they_are_needed() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(GatewayError) as refused:
        Body(b'{"a":' + deep + b"}").value("a")
    assert refused.value.status == 400


def test_items_of_an_array_keep_their_bytes() -> None:
    assert [bytes(item) for item in raw_items(b'[1.0, {"a" : 1} ,"x"]')] == [b"1.0", b'{"a" : 1}', b'"x"']

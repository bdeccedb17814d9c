import base64
import json
import struct
from typing import Any

import pytest

from gateway.core.call import Demand
from gateway.core.errors import GatewayError
from gateway.core.usage import Usage
from providers._embeddings import read_embeddings, written_embeddings
from providers.openai import PROVIDER as OPENAI
from tests.providers.calls import EMBEDDINGS, a_call, a_target

HUGE = 1e39
"""More than a float32 can hold."""


def asked(value: object, **members: Any) -> Any:
    return a_call({"model": "gpt-x", "input": value, **members}, endpoint=EMBEDDINGS)


def written(vectors: object, value: object, **members: Any) -> Any:
    return json.loads(written_embeddings(vectors, asked(value, **members), Usage(3, 0), a_target()).body)


@pytest.mark.parametrize(
    ("value", "inputs"),
    [
        ("one", ["one"]),
        (["one", "two"], ["one", "two"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        (["text", [7]], ["text", [7]]),
    ],
)
def test_every_form_of_input_is_a_list_in_its_order(value: object, inputs: list[object]) -> None:
    assert read_embeddings(asked(value)).inputs == inputs


@pytest.mark.parametrize("value", [[], 7, {}, [[]], [1.5], [True], ["a", 1], [{"image": "x"}]])
def test_what_is_no_input_is_a_400(value: object) -> None:
    with pytest.raises(GatewayError, match="'input'") as refused:
        read_embeddings(asked(value))
    assert (refused.value.status, refused.value.param) == (400, "input")


def test_members_of_the_targets_own_are_kept_and_ours_are_read() -> None:
    wanted = read_embeddings(asked("x", dimensions=256, task_type="query", user="u", nothing=None))
    assert (wanted.dimensions, wanted.others) == (256, {"task_type": "query"})


def test_tokens_are_a_400_where_a_target_reads_only_text() -> None:
    assert read_embeddings(asked(["a", "b"])).texts(a_target()) == ["a", "b"]
    with pytest.raises(GatewayError, match="not tokens") as refused:
        read_embeddings(asked([[1, 2]])).texts(a_target())
    assert refused.value.status == 400


@pytest.mark.parametrize("encoding", ["hex", "", "BASE64"])
def test_an_encoding_that_nobody_knows_is_a_400(encoding: str) -> None:
    call = asked("x", encoding_format=encoding or 1)
    with pytest.raises(GatewayError, match="encoding_format"):
        read_embeddings(call)


def test_floats_come_as_they_are_in_the_order_of_the_inputs() -> None:
    told = written([[0.25, -1], [3.0e-5, 2.5]], ["a", "b"])
    assert told["object"] == "list"
    assert told["model"] == "gpt-x"
    assert told["data"] == [
        {"object": "embedding", "index": 0, "embedding": [0.25, -1]},
        {"object": "embedding", "index": 1, "embedding": [3.0e-5, 2.5]},
    ]
    assert told["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def test_base64_is_little_endian_float32() -> None:
    (one,) = written([[1.0, -0.5, 0.1]], [1, 2, 3], encoding_format="base64")["data"]
    packed = base64.b64decode(one["embedding"], validate=True)
    assert packed == struct.pack("<fff", 1.0, -0.5, 0.1)
    assert packed[:4] == b"\x00\x00\x80\x3f"


def test_usage_that_nobody_told_is_told_as_the_ledger_reckons_it() -> None:
    call = a_call({"model": "gpt-x", "input": "a"}, endpoint=EMBEDDINGS, demand=Demand(likely_prompt=7))
    answer = written_embeddings([[1.0]], call, None, a_target())
    assert answer.usage is None
    assert json.loads(answer.body)["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert answer.produced() == 0


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize(
    "vectors", [None, {}, [], [[1.0], [2.0]], [[]], [["1"]], [[True]], [[None]], ["AAAA"], [{"values": [1.0]}]]
)
def test_vectors_that_do_not_answer_the_inputs_are_a_502(vectors: object, encoding: str) -> None:
    with pytest.raises(GatewayError) as broken:
        written(vectors, "one text", encoding_format=encoding)
    assert broken.value.status == 502


def test_a_number_that_base64_cannot_hold_is_a_502() -> None:
    assert written([[HUGE]], "a")["data"][0]["embedding"] == [HUGE]
    with pytest.raises(GatewayError, match="cannot be read"):
        written([[HUGE]], "a", encoding_format="base64")


def passed_on(body: Any, **members: Any) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return OPENAI.answer(asked(["a", "b"], **members), a_target(), raw).body


PLAIN = {
    "object": "list",
    "data": [{"object": "embedding", "index": 1, "embedding": [0.5]}, {"index": 0, "embedding": [1, 2.5]}],
    "usage": {"prompt_tokens": 3, "total_tokens": 3},
    "extra": [1],
}


def test_an_upstream_that_takes_no_notice_of_base64_is_put_right() -> None:
    told = json.loads(passed_on(PLAIN, encoding_format="base64"))
    first, second = told.pop("data")
    assert first == {"object": "embedding", "index": 1, "embedding": base64.b64encode(struct.pack("<f", 0.5)).decode()}
    assert base64.b64decode(second["embedding"]) == struct.pack("<ff", 1, 2.5)
    assert told == {name: value for name, value in PLAIN.items() if name != "data"}


@pytest.mark.parametrize("members", [{}, {"encoding_format": "float"}, {"encoding_format": None}])
def test_floats_that_were_asked_for_pass_to_the_byte(members: dict[str, Any]) -> None:
    raw = json.dumps(PLAIN, indent=2).encode()
    assert passed_on(raw, **members) == raw


def test_base64_that_came_as_base64_passes_to_the_byte() -> None:
    raw = b'{"data": [ {"embedding": "AAAAPw==", "index": 0} ] }'
    assert passed_on(raw, encoding_format="base64") == raw


@pytest.mark.parametrize(
    "raw",
    [b'{"data": [{"embedding": [1e39]}]}', b'{"data": [{"embedding": ["x"]}]}', b'{"data": [{"embedding": [1]}, 7]}'],
)
def test_floats_that_base64_cannot_hold_are_a_502(raw: bytes) -> None:
    with pytest.raises(GatewayError) as broken:
        passed_on(raw, encoding_format="base64")
    assert broken.value.status == 502

"""Models that know no system are told by the user, whoever serves them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.folding import folded
from tests.providers.calls import EMBEDDINGS, a_call, a_target

PLAIN = a_target()  # its model takes users and nobody else


def with_roles(*roles: str) -> Any:
    return replace(PLAIN, model=replace(PLAIN.model, supported_roles=frozenset(roles)))


def messages(*given: dict[str, Any], target: Any = PLAIN) -> Any:
    return json.loads(folded(a_call({"model": "m", "messages": list(given), "n": 1}), target).body.raw)["messages"]


SYSTEM = {"role": "system", "content": "Be brief."}
DEVELOPER = {
    "role": "developer",
    "content": [{"type": "text", "text": "In French."}, {"type": "text", "text": "Please."}],
}
HELLO = {"role": "user", "content": "Hello"}


def test_the_texts_lead_the_first_message_of_the_user() -> None:
    answer = {"role": "assistant", "content": "Hi"}
    assert messages(SYSTEM, answer, HELLO, DEVELOPER, HELLO) == [
        answer,
        {"role": "user", "content": "Be brief.\n\nIn French.\n\nPlease.\n\nHello"},
        HELLO,
    ]


def test_parts_keep_their_bytes() -> None:
    body = b'{"model":"m","messages":[{"role":"system","content":"Be."},{"role":"user","content":[{"x": 1.50}]}]}'
    told = folded(a_call(body), PLAIN).body.raw
    assert b'{"role":"user","content":[{"type":"text","text":"Be."},{"x": 1.50}]}' in told


@pytest.mark.parametrize("content", [None, "", []])
def test_a_user_who_says_nothing_says_it(content: Any) -> None:
    (told,) = messages(SYSTEM, {"role": "user", "content": content})
    assert told["content"] in ("Be brief.", [{"type": "text", "text": "Be brief."}])


def test_a_system_alone_is_asked_as_the_user() -> None:
    assert messages(SYSTEM) == [{"role": "user", "content": "Be brief."}]
    assert messages({"role": "system", "content": ""}, HELLO) == [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_model_that_knows_one_of_them_gets_the_clients_own_bytes(role: str) -> None:
    call = a_call({"model": "m", "messages": [SYSTEM, HELLO]})
    assert folded(call, with_roles("user", role)) is call


def test_nothing_is_folded_where_there_is_nothing() -> None:
    plain = a_call({"model": "m", "messages": [HELLO]})
    assert folded(plain, PLAIN) is plain
    other = a_call({"model": "m", "input": '"system"'}, endpoint=EMBEDDINGS)
    assert folded(other, PLAIN) is other


@pytest.mark.parametrize("absurd", [b'"system"', b'["system"]', b'[{"role":"system","content":7},7]', b"7"])
def test_absurd_messages_are_the_providers_to_refuse(absurd: bytes) -> None:
    call = a_call(b'{"model":"system","x":"system","messages":' + absurd + b"}")
    assert folded(call, PLAIN) is call


def test_a_system_that_is_no_text_says_nothing() -> None:
    assert messages({"role": "system", "content": 7}, {"role": "system", "content": [7, {"type": "x"}]}, HELLO) == [
        HELLO
    ]

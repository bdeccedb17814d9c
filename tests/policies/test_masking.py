import json
from typing import Any

import pytest

from policies.masking import create
from tests.support.calls import a_call


async def masked(text: str, **settings: Any) -> str:
    call = a_call({"model": "m", "messages": [{"role": "user", "content": text}]})
    await create(settings).inspect(call)
    told: str = json.loads(call.body.raw)["messages"][0]["content"]
    return told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Write to ada@example.com or bob@example.org.", "Write to [EMAIL_1] or [EMAIL_2]."),
        ("ada@example.com wrote to ada@example.com", "[EMAIL_1] wrote to [EMAIL_1]"),
        ("Card 4111 1111 1111 1111 please", "Card [CREDIT_CARD_1] please"),
        ("Order 4111 1111 1111 1112 please", "Order 4111 1111 1111 1112 please"),
        ("Pay DE89 3704 0044 0532 0130 00 now", "Pay [IBAN_1] now"),
        ("SSN 078-05-1120", "SSN [US_SSN_1]"),
        ("Call +49 30 901820 or (212) 555-0187", "Call [PHONE_1] or [PHONE_2]"),
        ("key sk-proj-abcdefghijklmnop1234", "key [SECRET_1]"),
        ("AKIAIOSFODNN7EXAMPLE", "[SECRET_1]"),
        ("host 10.0.0.1 stays", "host 10.0.0.1 stays"),
        ("It was in 1984, 3.14 of 2026-11-26.", "It was in 1984, 3.14 of 2026-11-26."),
    ],
)
async def test_what_is_personal_or_secret_is_taken_out(text: str, told: str) -> None:
    assert await masked(text) == told


async def test_addresses_of_machines_go_where_that_is_asked_for() -> None:
    told = await masked("host 10.0.0.1, version 1.2.3.4444", entities=["ip_address"])
    assert told == "host [IP_ADDRESS_1], version 1.2.3.4444"


async def test_prompts_stay_where_only_answers_are_masked() -> None:
    assert await masked("ada@example.com", prompt=False) == "ada@example.com"


async def test_the_arguments_of_earlier_tool_calls_are_masked_too() -> None:
    earlier = {"id": "c", "type": "function", "function": {"name": "mail", "arguments": '{"to":"ada@example.com"}'}}
    call = a_call({"model": "m", "messages": [{"role": "assistant", "tool_calls": [earlier]}]})
    await create({}).inspect(call)
    assert b"ada@example.com" not in call.body.raw
    assert b'{\\"to\\":\\"[EMAIL_1]\\"}' in call.body.raw


def test_a_streamed_answer_is_masked_however_it_is_cut() -> None:
    make = create({}).filters(a_call())
    assert make is not None
    text = "Mail ada@example.com, card 4111-1111-1111-1111. " + "and so on " * 30
    for cut in range(60):
        each = make()
        told = each.feed(text[:cut]) + each.feed(text[cut:]) + each.finish()
        assert told.startswith("Mail [EMAIL], card [CREDIT_CARD]. and so on")


def test_a_private_key_is_held_as_long_as_it_goes_on() -> None:
    make = create({}).filters(a_call())
    assert make is not None
    each = make()
    key = "-----BEGIN PRIVATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQEF\n" * 200 + "-----END PRIVATE KEY-----"
    told = "".join(each.feed(key[i : i + 20]) for i in range(0, len(key), 20)) + each.feed(" done") + each.finish()
    assert told == "[SECRET] done"


def test_a_token_is_held_until_it_has_ended() -> None:
    make = create({}).filters(a_call())
    assert make is not None
    each = make()
    token = ".".join(("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9", "x" * 400, "y" * 43))
    text = f"It is {token}, and eyJ is no token."
    told = "".join(each.feed(text[i : i + 7]) for i in range(0, len(text), 7)) + each.finish()
    assert told == "It is [SECRET], and eyJ is no token."


def test_answers_stay_where_only_prompts_are_masked() -> None:
    assert create({"answer": False}).filters(a_call()) is None


def test_an_unknown_entity_is_refused() -> None:
    with pytest.raises(ValueError, match=r"masking\.entities must be some of"):
        create({"entities": ["shoe_size"]})

import json
from typing import Any

import pytest

from gateway.core.body import encode
from gateway.core.errors import GatewayError
from policies.content_rules import ContentRules, create
from tests.support.calls import a_call

SECRET_PROJECT = {"name": "projects", "words": ["Project Falcon"]}
BADGE = {"name": "badges", "regex": "B-[0-9]{4}", "action": "mask", "replacement": "[badge]"}


def rules(*listed: dict[str, Any]) -> ContentRules:
    return create({"rules": list(listed)})


def asking(text: str) -> Any:
    return a_call(encode({"model": "m", "messages": [{"role": "user", "content": text}]}))


async def test_a_prompt_that_breaks_a_rule_is_refused_by_the_rules_name() -> None:
    with pytest.raises(GatewayError, match="'projects'") as caught:
        await rules(SECRET_PROJECT).inspect(asking("Tell me of project falcon."))
    assert (caught.value.status, caught.value.code) == (400, "content_filter")


async def test_a_masked_prompt_is_sent_without_what_it_held() -> None:
    call = asking("Who has B-1234?")
    before = call.demand.prompt_tokens
    await rules(BADGE).inspect(call)
    assert json.loads(call.body.raw)["messages"][0]["content"] == "Who has [badge]?"
    assert call.demand.prompt_tokens == before + len("[badge]") - len("B-1234")


async def test_a_prompt_that_breaks_nothing_keeps_its_bytes() -> None:
    call = asking("Hello")
    body = call.body
    await rules(SECRET_PROJECT, BADGE).inspect(call)
    assert call.body is body


async def test_a_long_prompt_is_searched_too() -> None:
    call = asking("x" * 300_000 + " B-1234")
    await rules(BADGE).inspect(call)
    assert b"B-1234" not in call.body.raw


@pytest.mark.parametrize(
    "members",
    [
        {"messages": [{"role": "user", "name": "B-1234", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "B-1234"}]}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "document", "source": {"type": "text", "data": "B-1234"}}]}
            ]
        },
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": {"name": ["B-1234"]}}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": '{"url":"B\\u002d1234"}'}}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "B-1234 {"}}]}]},
        {"input": [{"type": "function_call_output", "output": "B-1234"}]},
        {"input": "B-1234"},
        {"tools": [{"type": "function", "function": {"description": "B-1234"}}]},
        {"tools": [{"type": "function", "function": {"parameters": {"properties": {"a": {"enum": ["B-1234"]}}}}}]},
        {"prediction": {"type": "content", "content": "B-1234"}},
        {"documents": [{"data": {"title": "B-1234"}}]},
        {"system": "B-1234"},
        {"metadata": {"a": "B-1234"}},
    ],
)
async def test_a_text_is_found_wherever_a_request_can_hold_it(members: dict[str, Any]) -> None:
    call = a_call(encode({"model": "m", "messages": [{"role": "user", "content": "x"}], **members}))
    await rules(BADGE).inspect(call)
    assert b"[badge]" in call.body.raw
    assert b"1234" not in call.body.raw


async def test_what_only_names_or_encodes_is_left_alone() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,B-1234"}}
    tool = {"type": "function", "id": "B-1234", "function": {"name": "B-1234", "arguments": "{}"}}
    messages = [{"role": "user", "content": [part]}, {"role": "assistant", "tool_calls": [tool]}]
    call = a_call({"model": "B-1234", "messages": messages})
    body = call.body
    await rules(BADGE).inspect(call)
    assert call.body is body


async def test_rules_for_answers_say_nothing_of_prompts() -> None:
    policy = rules({**SECRET_PROJECT, "where": "answer"})
    await policy.inspect(asking("Project Falcon"))
    make = policy.filters(asking("x"))
    assert make is not None
    each = make()
    with pytest.raises(GatewayError, match="answer held"):
        each.feed("About Project Falcon: " + "y" * 300)


def test_rules_for_prompts_need_no_filter() -> None:
    assert rules({**BADGE, "where": "prompt"}).filters(asking("x")) is None
    assert create({}).filters(asking("x")) is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rules": [{"name": "a"}]}, "needs words or a regex"),
        ({"rules": [{"name": "a", "regex": "("}]}, "'a' is not a pattern"),
        ({"rules": [{"words": ["x"]}]}, "name must be text"),
        ({"rules": [{"name": "a", "words": "x"}]}, "list of texts"),
        ({"rules": [SECRET_PROJECT, SECRET_PROJECT]}, "two rules of one name"),
        ({"rules": [{**BADGE, "action": "burn"}]}, "action must be"),
        ({"rules": [{**BADGE, "colour": "red"}]}, "no setting colour"),
        ({"rule": []}, "no setting rule"),
        ({"reach": 0}, "positive integer"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        create(settings)

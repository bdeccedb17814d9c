"""A Responses call as a chat completion."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.body import Body
from gateway.core.errors import GatewayError
from gateway.endpoints._responses_seal import Sealed, seal, unseal
from gateway.endpoints.chat_completions import ENDPOINT as CHAT
from gateway.endpoints.responses import ENDPOINT
from gateway.translation import as_chat
from providers._chat_reader import read_chat
from providers.openai import PROVIDER
from tests.providers.calls import a_target
from tests.support.calls import a_call

USER: dict[str, Any] = {"role": "user", "content": "Hi"}
F: dict[str, Any] = {
    "type": "function",
    "name": "f",
    "description": "Does.",
    "parameters": {"type": "object", "properties": {}},
    "strict": True,
}
PATCH: dict[str, Any] = {
    "type": "custom",
    "name": "patch",
    "description": "Patches.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
}
TEAM: dict[str, Any] = {
    "type": "namespace",
    "name": "team",
    "description": "A team.",
    "tools": [{**F, "name": "spawn"}],
}


def told(**members: Any) -> dict[str, Any]:
    """The chat completion of a call; every provider can read it."""
    call = a_call({"model": "m", "input": "Hi", **members}, endpoint=ENDPOINT)
    assert ENDPOINT.translation is not None
    made = as_chat(call, ENDPOINT.translation)
    assert CHAT.examine is not None
    CHAT.examine(made.body)
    read_chat(made)
    document: dict[str, Any] = json.loads(made.body.raw)
    return document


def messages(*items: Any, **members: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = told(input=list(items), **members)["messages"]
    return found


def refusal(**members: Any) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        told(**members)
    assert refused.value.status == 400
    return refused.value


def test_a_text_is_what_the_user_says() -> None:
    assert told() == {"model": "m", "messages": [USER]}


def test_instructions_and_the_systems_first_words_are_one_message() -> None:
    first = {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "B"}]}
    later = {"role": "system", "content": "C"}
    system = {"role": "system", "content": "A\n\nB"}
    assert messages(first, USER, later, instructions="A") == [system, USER, later]


def test_parts_become_chats_parts() -> None:
    content = [
        {"type": "input_text", "text": "What?"},
        {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"},
        {"type": "input_file", "file_url": "https://example.com/a.pdf"},
        {"type": "input_file", "file_id": "file_1"},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ]
    (said,) = messages({"role": "user", "content": content})
    assert said["content"] == [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_data": "https://example.com/a.pdf"}},
        {"type": "file", "file": {"file_id": "file_1"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ]


def test_parts_that_are_all_text_are_one_text() -> None:
    parts = [{"type": "input_text", "text": "A"}, {"type": "input_text", "text": "B"}]
    assert messages({"role": "user", "content": parts}) == [{"role": "user", "content": "A\nB"}]


SPOKEN = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "done"}
TOLD_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


def test_a_models_turn_of_several_items_is_one_message() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]}
    text = {**SPOKEN, "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}]}
    second = {**CALL, "call_id": "c2"}
    said = messages(USER, thought, text, CALL, second, RESULT, {**RESULT, "call_id": "c2"}, USER, tools=[F])
    turn = {
        "role": "assistant",
        "content": "Let me see.",
        "reasoning_content": "Hm.",
        "tool_calls": [TOLD_CALL, {**TOLD_CALL, "id": "c2"}],
    }
    results = [{"role": "tool", "tool_call_id": one, "content": "done"} for one in ("c1", "c2")]
    assert said == [USER, turn, *results, USER]


def test_a_refusal_stays_one() -> None:
    spoken = {**SPOKEN, "content": [{"type": "refusal", "refusal": "No."}]}
    assert messages(USER, spoken, USER)[1] == {"role": "assistant", "content": None, "refusal": "No."}


def test_unsigned_thoughts_without_a_call_stay_behind() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]}
    foreign = {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAAAAB"}
    assert messages(USER, thought, foreign, {**SPOKEN, "content": "Yes."}, USER)[1] == {
        "role": "assistant",
        "content": "Yes.",
    }


def test_what_a_provider_sealed_comes_back_to_it() -> None:
    block = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    sealed = seal(Sealed([block], {"c1": {"google": {"thought_signature": "xyz"}}}))
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed}
    turn = messages(USER, CALL, item, RESULT, tools=[F])[1]
    assert turn["thinking_blocks"] == [block]
    assert turn["tool_calls"] == [{**TOLD_CALL, "extra_content": {"google": {"thought_signature": "xyz"}}}]


@pytest.mark.parametrize("text", [None, 7, "", "aidock1.", "aidock1.%%%", "aidock1.AAAA", "aidock1.WzEsMl0=", "gAAAA"])
def test_what_is_no_seal_of_ours_holds_nothing(text: Any) -> None:
    assert unseal(text) == Sealed()


def test_nothing_to_seal_makes_no_seal() -> None:
    assert seal(Sealed()) is None


def test_a_result_with_pictures_is_followed_by_them() -> None:
    picture = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    shown = {**RESULT, "output": [picture]}
    both = {**RESULT, "call_id": "c2", "output": [{"type": "input_text", "text": "Here:"}, picture]}
    said = messages(USER, CALL, {**CALL, "call_id": "c2"}, shown, both, USER, tools=[F])
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert said[2:] == [
        {"role": "tool", "tool_call_id": "c1", "content": "The result is in the next message."},
        {"role": "tool", "tool_call_id": "c2", "content": "Here:"},
        {"role": "user", "content": [image, image]},
        USER,
    ]


def test_functions_pass_custom_tools_become_functions_and_a_namespaces_get_joined_names() -> None:
    made = told(tools=[F, PATCH, TEAM, {"type": "web_search", "external_web_access": False}])["tools"]
    names = [tool["function"]["name"] for tool in made]
    assert names == ["f", "patch", "team__spawn"]
    assert made[0]["function"] == {
        "name": "f",
        "description": "Does.",
        "parameters": {"type": "object", "properties": {}},
        "strict": True,
    }
    assert made[1]["function"]["description"].endswith("lark grammar:\nstart: /.+/")
    assert list(made[1]["function"]["parameters"]["properties"]) == ["input"]


def test_calls_of_such_tools_are_told_by_the_same_names() -> None:
    calls = [
        {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": 'say "hi"'},
        {**CALL, "call_id": "c2", "name": "spawn", "namespace": "team"},
    ]
    results = [{"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"}, {**RESULT, "call_id": "c2"}]
    turn = messages(USER, *calls, *results, tools=[PATCH, TEAM])[1]
    functions = [call["function"] for call in turn["tool_calls"]]
    assert functions[0] == {"name": "patch", "arguments": '{"input":"say \\"hi\\""}'}
    assert functions[1]["name"] == "team__spawn"


def test_names_that_would_be_too_long_or_taken_get_a_mark() -> None:
    long = {"type": "namespace", "name": "n" * 40, "tools": [{**F, "name": "x" * 40}, {**F, "name": "x" * 40 + "y"}]}
    same = [{**F, "name": "team__spawn"}, TEAM]
    names = [tool["function"]["name"] for tool in told(tools=[long, *same])["tools"]]
    assert len(set(names)) == 4
    assert max(map(len, names)) <= 64
    assert names[2] == "team__spawn"


def test_tools_that_the_input_brings_are_tools_too() -> None:
    brought = {"type": "additional_tools", "role": "developer", "tools": [{**F, "name": "g"}]}
    found = {"type": "tool_search_output", "tools": [{**F, "name": "h"}]}
    made = told(input=[USER, brought, found], tools=[F])
    assert [tool["function"]["name"] for tool in made["tools"]] == ["f", "g", "h"]
    assert made["messages"] == [USER]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", None),
        (None, None),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
        ({"type": "custom", "name": "patch"}, {"type": "function", "function": {"name": "patch"}}),
    ],
)
def test_a_tool_choice_is_told(choice: Any, expected: Any) -> None:
    assert told(tools=[F, PATCH], tool_choice=choice).get("tool_choice") == expected


def test_allowed_tools_are_those_that_are_told() -> None:
    allowed = [{"type": "custom", "name": "patch"}, {"type": "web_search"}]
    made = told(tools=[F, PATCH], tool_choice={"type": "allowed_tools", "mode": "required", "tools": allowed})
    assert [tool["function"]["name"] for tool in made["tools"]] == ["patch"]
    assert made["tool_choice"] == "required"


def test_nothing_about_tools_is_said_without_any() -> None:
    made = told(tools=[{"type": "web_search"}], tool_choice="auto", parallel_tool_calls=False)
    assert made == {"model": "m", "messages": [USER]}
    assert told(tools=[F], parallel_tool_calls=False)["parallel_tool_calls"] is False
    assert "parallel_tool_calls" not in told(tools=[F], parallel_tool_calls=True)


def test_formats_effort_and_sampling_are_told() -> None:
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    made = told(
        text={"format": schema, "verbosity": "low"},
        reasoning={"effort": "high", "summary": "auto"},
        temperature=0.5,
        top_p=0.9,
        user="u",
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=3,
    )
    del made["messages"], made["model"]
    assert made == {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
        },
        "reasoning_effort": "high",
        "temperature": 0.5,
        "top_p": 0.9,
        "user": "u",
        "logprobs": True,
        "top_logprobs": 3,
    }
    assert told(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    assert "response_format" not in told(text={"format": {"type": "text"}})


def test_hints_are_dropped_and_members_of_a_providers_own_pass() -> None:
    hints = {
        "background": False,
        "client_metadata": {"a": "b"},
        "max_tool_calls": 3,
        "metadata": {"a": "b"},
        "prompt_cache_key": "k",
        "service_tier": "flex",
        "store": True,
        "stream_options": {"include_obfuscation": False},
        "truncation": "auto",
    }
    assert told(**hints, top_k=40) == {"model": "m", "messages": [USER], "top_k": 40}


def test_the_cap_is_its_providers_to_write() -> None:
    call = a_call({"model": "m", "input": "Hi", "max_output_tokens": 77, "stream": True}, endpoint=ENDPOINT)
    assert ENDPOINT.translation is not None
    made = as_chat(call, ENDPOINT.translation)
    assert "max_output_tokens" not in made.body
    sent = json.loads(PROVIDER.request(made, a_target({"max_tokens_field": "max_completion_tokens"})).body)
    assert sent["max_completion_tokens"] == 77
    assert sent["stream_options"] == {"include_usage": True}
    assert read_chat(made).max_tokens == 77


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": []}, "input"),
    ({"input": 7}, "input"),
    ({"input": None, "previous_response_id": None, "prompt": None}, "input"),
    ({"input": ["x"]}, "input[0]"),
    ({"input": [{"id": "msg_1"}]}, "input[0]"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
    ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input[0]"),
    ({"input": [{"type": 7}]}, "input[0]"),
    ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [7]}]}, "input[0].content[0]"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input[0].content[0]"),
    ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
    ({"input": [{"role": "system", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input[0].content"),
    ({"input": [{"role": "assistant", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": ""}]}, "input[0].call_id"),
    ({"input": [{"type": "custom_tool_call", "call_id": "c", "name": "f"}]}, "input[0].input"),
    ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
    ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
    ({"input": [{"type": "reasoning", "summary": 7, "content": 7}]}, "input"),
    ({"instructions": [USER]}, "instructions"),
    ({"tools": 7}, "tools"),
    ({"tools": [7]}, "tools[0]"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "name": "f", "parameters": 7}]}, "tools[0].parameters"),
    ({"tools": [{"type": "namespace", "name": "n", "tools": 7}]}, "tools[0].tools"),
    ({"tools": [{"type": "namespace", "name": "n", "tools": [TEAM]}]}, "tools[0].tools[0].type"),
    ({"tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}, "tools[0].type"),
    ({"tools": [{"type": "mcp", "server_label": "s"}]}, "tools[0].type"),
    ({"tools": [{"type": "local_shell"}]}, "tools[0].type"),
    ({"tool_choice": 7}, "tool_choice"),
    ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
    ({"tool_choice": {"type": "function", "name": "nobody"}}, "tool_choice"),
    ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [7]}}, "tool_choice"),
    ({"text": 7}, "text"),
    ({"text": {"format": {"type": "xml"}}}, "text.format"),
    ({"reasoning": "high"}, "reasoning"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"moderation": {"policy": "x"}}, "moderation"),
]


@pytest.mark.parametrize(("members", "param"), REFUSED, ids=str)
def test_what_cannot_be_told_is_refused_by_its_name(members: dict[str, Any], param: str) -> None:
    assert refusal(**members).param == param


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["type", "role", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)
MEMBERS = [
    "content",
    "output",
    "summary",
    "name",
    "call_id",
    "arguments",
    "input",
    "role",
    "tools",
    "encrypted_content",
]
KINDS = ["message", "reasoning", "function_call", "function_call_output", "custom_tool_call", "additional_tools"]
items = st.fixed_dictionaries({"type": st.sampled_from(KINDS)}, optional=dict.fromkeys(MEMBERS, json_values))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(items | json_values, max_size=4) | json_values,
    st.dictionaries(
        st.sampled_from(["tools", "tool_choice", "text", "reasoning", "include", "instructions"]), json_values
    ),
)
def test_no_body_however_absurd_is_more_than_a_400(said: Any, members: dict[str, Any]) -> None:
    call = a_call({"model": "m", "input": said, **members}, endpoint=ENDPOINT)
    assert ENDPOINT.translation is not None
    refused = 400
    try:
        made = ENDPOINT.translation.request(call)
    except GatewayError as error:
        refused = error.status
    else:
        assert Body(made).is_filled_array("messages")
    assert refused == 400

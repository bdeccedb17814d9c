from typing import Any

import pytest

from gateway.core.call import Demand
from gateway.core.errors import GatewayError
from providers._chat import Audio, Chat, File, Format, Image, Text, Tool, ToolCall, ToolChoice, tool_call_id
from providers._chat_reader import read_chat
from tests.providers.calls import a_call

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}


def read(**members: Any) -> Chat:
    return read_chat(a_call({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **members}))


def test_system_and_developer_messages_are_told_apart_from_the_turns() -> None:
    chat = read(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        ]
    )
    assert chat.system == [Text("Be brief."), Text("Be kind.")]
    assert [(turn.role, turn.text) for turn in chat.turns] == [("user", "Hi")]


def test_parts_of_every_kind_are_read() -> None:
    parts = [
        {"type": "text", "text": "Look", "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": "data:image/PNG;base64,QUJD"}},
        {"type": "image_url", "image_url": "https://pictures.example.com/a.png"},
        {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"}},
        {"type": "file", "file": {"file_id": "file-1"}},
    ]
    chat = read(messages=[{"role": "user", "content": parts}])
    assert chat.turns[0].parts == [
        Text("Look", {"type": "ephemeral"}),
        Image(None, "image/png", "QUJD"),
        Image("https://pictures.example.com/a.png"),
        Audio("QUJD", "wav"),
        File("a.pdf", "application/pdf", "QUJD"),
        File(file_id="file-1"),
    ]
    assert chat.has(Audio)
    assert not read().has(Audio, File)


def test_a_tools_result_knows_the_name_of_its_tool() -> None:
    chat = read(
        messages=[
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ]
    )
    _, asked, told = chat.turns
    assert asked.calls == [ToolCall("call_1", "weather", '{"city":"Oslo"}', {})]
    assert asked.calls[0].parsed() == {"city": "Oslo"}
    assert (told.role, told.call_id, told.name, told.text) == ("tool", "call_1", "weather", "rain")


def test_a_call_without_arguments_has_an_empty_object() -> None:
    assert ToolCall("c", "f", "", {}).parsed() == {}
    with pytest.raises(GatewayError, match="not a JSON object"):
        ToolCall("c", "f", "[1]", {}).parsed()


def test_tools_and_functions_are_the_same_thing() -> None:
    schema = {"type": "object"}
    function = {"name": "f", "description": "Does.", "parameters": schema, "strict": True}
    assert read(tools=[{"type": "function", "function": function}]).tools == [Tool("f", "Does.", schema, True)]
    assert read(functions=[{"name": "f"}], function_call={"name": "f"}).tool_choice == ToolChoice("named", "f")


@pytest.mark.parametrize(
    ("choice", "means"),
    [
        ("auto", ToolChoice("auto")),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "f"}}, ToolChoice("named", "f")),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
            },
            ToolChoice("auto", allowed=("f",)),
        ),
    ],
)
def test_every_tool_choice_is_read(choice: object, means: ToolChoice) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert read(tools=tools, tool_choice=choice).tool_choice == means


def test_the_cap_in_force_is_the_lowest() -> None:
    call = a_call({"messages": [], "max_tokens": 50}, demand=Demand(requested_cap=50, output_cap=20))
    assert read_chat(call).max_tokens == 20


def test_formats_are_read_and_text_is_none() -> None:
    schema = {"type": "object"}
    asked = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    assert read(response_format=asked).response_format == Format("json_schema", "n", schema, True)
    assert read(response_format={"type": "json_object"}).response_format == Format("json_object")
    assert read(response_format={"type": "text"}).response_format is None


def test_what_nothing_here_knows_is_kept_as_it_is() -> None:
    assert read(verbosity="low", store=None, top_k=5).others == {"verbosity": "low", "top_k": 5}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": [{"role": "wizard", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"role": {}, "content": ""}]}, "messages[0].role"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]},
            "messages[0].content[0].image_url",
        ),
        (
            {"messages": [{"role": "system", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
            "messages[0].content",
        ),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"function": {"name": "f"}}, "tools": [{"function": {"name": "g"}}]}, "tool_choice"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"stop": [1]}, "stop"),
        ({"reasoning_effort": "ultra"}, "reasoning_effort"),
        ({"temperature": "hot"}, "temperature"),
        ({"seed": 1.5}, "seed"),
        ({"logprobs": 1}, "logprobs"),
    ],
)
def test_a_fault_is_a_400_that_names_its_member(members: dict[str, Any], param: str) -> None:
    with pytest.raises(GatewayError) as caught:
        read(**members)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_ids_that_a_dialect_cannot_write_become_others_the_same_every_time() -> None:
    assert tool_call_id("call_1", "_-", 64) == "call_1"
    made = tool_call_id("functions.x:0", "_-", 40)
    assert made == tool_call_id("functions.x:0", "_-", 40)
    assert made.isalnum()
    assert len(made) <= 40

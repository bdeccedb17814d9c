"""Anthropic's requests, told as chat."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.errors import GatewayError
from gateway.endpoints.messages import ENDPOINT
from tests.providers.calls import a_call

MARK = {"type": "ephemeral"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "cGl4"}}
SHOWN = {"type": "image_url", "image_url": {"url": "data:image/png;base64,cGl4"}}
TOOL: dict[str, Any] = {"name": "f", "input_schema": {"type": "object", "properties": {"n": {"type": "number"}}}}


def chat(*messages: dict[str, Any], **members: Any) -> Any:
    told = list(messages) or [{"role": "user", "content": "Hello"}]
    call = a_call({"model": "m", "max_tokens": 50, "messages": told, **members}, endpoint=ENDPOINT)
    assert ENDPOINT.translation is not None
    return json.loads(ENDPOINT.translation.request(call))


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def refused(*messages: dict[str, Any], **members: Any) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        chat(*messages, **members)
    assert caught.value.status == 400
    return caught.value


def test_a_plain_question_and_nothing_else() -> None:
    assert chat() == {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
    assert chat(stream=True)["stream"] is True


def test_the_system_wherever_it_stands() -> None:
    told = chat({"role": "user", "content": "Hi"}, {"role": "system", "content": [text("Two.")]}, system="One.")
    assert told["messages"] == [
        {"role": "system", "content": "One."},
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": "Two."},
    ]
    marked = chat(system=[text("One.", cache_control=MARK), text(""), text("Two.")])["messages"][0]
    assert marked["content"] == [text("One.", cache_control=MARK), text("Two.")]
    assert chat(system="")["messages"] == [{"role": "user", "content": "Hello"}]


def test_everything_that_a_user_may_send() -> None:
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "cGRm"}
    told = chat(
        user(
            text("See", cache_control=MARK),
            {**IMAGE, "cache_control": MARK},
            {"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}},
            {"type": "document", "source": pdf, "title": "a.pdf"},
            {"type": "document", "source": {"type": "url", "url": "https://a.example/c.pdf"}},
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "D"},
                "title": "T",
                "context": "C",
            },
            {"type": "document", "source": {"type": "content", "content": [text("E"), IMAGE]}, "title": "F"},
            {"type": "search_result", "title": "S", "source": "https://s.example", "content": [text("R")]},
            {"type": "web_search_tool_result", "tool_use_id": "x", "content": []},
        )
    )
    assert told["messages"][0]["content"] == [
        text("See", cache_control=MARK),
        {**SHOWN, "cache_control": MARK},
        {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,cGRm"}},
        {"type": "file", "file": {"filename": "document.pdf", "file_data": "https://a.example/c.pdf"}},
        text("T\n\nC\n\nD"),
        text("F"),
        text("E"),
        SHOWN,
        text("S\nhttps://s.example\nR"),
    ]


def test_results_come_before_what_the_user_says_and_images_of_tools_are_told_by_the_user() -> None:
    told = chat(
        user(
            {"type": "tool_result", "tool_use_id": "a", "content": [text("one"), text("two"), IMAGE]},
            {"type": "tool_result", "tool_use_id": "b", "is_error": True, "content": "broke", "cache_control": MARK},
            {"type": "tool_result", "tool_use_id": "c"},
            text("And?"),
        )
    )
    assert told["messages"] == [
        {"role": "tool", "tool_call_id": "a", "content": "one\ntwo"},
        {"role": "tool", "tool_call_id": "b", "content": [text("Error:"), text("broke", cache_control=MARK)]},
        {"role": "tool", "tool_call_id": "c", "content": ""},
        {"role": "user", "content": [text("From the tool's result a:"), SHOWN, text("And?")]},
    ]


def test_what_the_model_said_thought_and_called() -> None:
    signed = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    hidden = {"type": "redacted_thinking", "data": "xyz"}
    told = chat(
        {"role": "user", "content": "Hi"},
        assistant(
            signed,
            {"type": "thinking", "thinking": "Unsigned.", "signature": ""},
            hidden,
            text("A"),
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            text("B"),
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"n": 9007199254740993}},
            {"type": "tool_use", "id": "toolu_2", "name": "g", "input": {}},
        ),
        assistant({"type": "thinking", "thinking": "Alone.", "signature": "x"}),
    )
    assert told["messages"][1:] == [
        {
            "role": "assistant",
            "content": "AB",
            "reasoning_content": "Unsigned.",
            "thinking_blocks": [signed, hidden],
            "tool_calls": [
                {"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": '{"n":9007199254740993}'}},
                {"id": "toolu_2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        }
    ]


def test_tools_and_every_choice_of_them() -> None:
    told = chat(tools=[{**TOOL, "description": "F.", "strict": True, "type": "custom", "cache_control": MARK}])
    function = {"name": "f", "description": "F.", "parameters": TOOL["input_schema"], "strict": True}
    assert told["tools"] == [{"type": "function", "function": function, "cache_control": MARK}]
    for choice, like in (
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ):
        assert chat(tools=[TOOL], tool_choice=choice)["tool_choice"] == like
    single = chat(tools=[TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert single["parallel_tool_calls"] is False
    assert "tool_choice" not in chat(tools=[], tool_choice={"type": "auto"})


def test_how_it_is_to_answer() -> None:
    told = chat(
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        stop_sequences=["END"],
        metadata={"user_id": "ada"},
        output_config={"effort": "xhigh", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        context_management={"edits": []},
        service_tier="auto",
    )
    assert told.keys() == {
        "model",
        "messages",
        "temperature",
        "top_p",
        "top_k",
        "stop",
        "user",
        "reasoning_effort",
        "response_format",
    }
    assert (told["stop"], told["user"], told["reasoning_effort"]) == (["END"], "ada", "xhigh")
    assert told["response_format"]["json_schema"] == {"name": "answer", "schema": {"type": "object"}}
    assert len(chat(metadata={"user_id": "x" * 200})["user"]) == 64


@pytest.mark.parametrize(
    ("thinking", "effort"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, "low"),
        ({"type": "enabled", "budget_tokens": 8000}, "medium"),
        ({"type": "enabled", "budget_tokens": 32_000}, "high"),
        ({"type": "adaptive"}, None),
        ({"type": "disabled"}, None),
    ],
)
def test_a_budget_is_an_effort(thinking: dict[str, Any], effort: str | None) -> None:
    assert chat(thinking=thinking).get("reasoning_effort") == effort


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": {}}, None),
        ({"tools": "x"}, "tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "maybe"}}, "tool_choice"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"output_config": {"format": {"type": "grammar"}}}, "output_config.format"),
        ({"output_config": 7}, "output_config"),
        ({"metadata": "x"}, "metadata"),
        ({"system": [IMAGE]}, "system[0].type"),
        ({"system": 7}, "system"),
    ],
)
def test_what_chat_has_no_like_of_or_makes_no_sense_is_said(members: dict[str, Any], param: str | None) -> None:
    if param is None:
        assert "tools" not in chat(**members)
    else:
        assert refused(**members).param == param


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": 7}, "messages[0].content"),
        (7, "messages[0]"),
        (user(7), "messages[0].content[0]"),
        (user({"type": "text"}), "messages[0].content[0].text"),
        (user({"type": "hologram"}), "messages[0].content[0].type"),
        (user({"type": "container_upload", "file_id": "f"}), "messages[0].content[0].type"),
        (user({"type": "image", "source": {"type": "file", "file_id": "f"}}), "messages[0].content[0].source"),
        (user({"type": "document", "source": {"type": "file", "file_id": "f"}}), "messages[0].content[0].source"),
        (user({"type": "tool_result", "content": "x"}), "messages[0].content[0].tool_use_id"),
        (user({"type": "tool_result", "tool_use_id": "a", "content": [7]}), "messages[0].content[0].content[0]"),
        (assistant({"type": "tool_use", "name": "f"}), "messages[0].content[0]"),
        (assistant({"type": "tool_use", "id": "a", "name": "f", "input": [1]}), "messages[0].content[0].input"),
        (assistant(IMAGE), "messages[0].content[0].type"),
    ],
)
def test_messages_that_make_no_sense_are_refused_by_name(message: Any, param: str) -> None:
    assert refused(message).param == param


def test_depth_without_end_is_refused() -> None:
    deep = b'{"type":"document","source":{"type":"content","content":[' * 400 + b"]}}" * 400
    body = b'{"model":"m","max_tokens":5,"messages":[{"role":"user","content":[' + deep + b"]}]}"
    with pytest.raises(GatewayError) as caught:
        ENDPOINT.translation.request(a_call(body, endpoint=ENDPOINT))  # type: ignore[union-attr]  it has one
    assert caught.value.status == 400

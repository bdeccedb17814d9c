"""A chat completion as Anthropic is asked for it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from gateway.core.call import Demand
from gateway.core.deployment import Target
from gateway.core.errors import GatewayError
from gateway.core.headers import first
from providers.anthropic import PROVIDER
from tests.providers.calls import KEY, a_call, a_target

SONNET = "claude-sonnet-4-6"
HAIKU = "claude-haiku-4-5-20251001"
OPUS = "claude-opus-5-5"
OLD = "claude-3-5-haiku-20241022"

PIXEL = base64.b64encode(b"pixel").decode()
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "time"}}
SCHEMA: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "age",
        "strict": True,
        "schema": {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}, "required": ["age"]},
    },
}


def claude(model: str = SONNET, **changes: Any) -> Target:
    return a_target(dialect="anthropic", base_url="https://api.anthropic.com", upstream_model=model, **changes)


def said(*messages: dict[str, Any], model: str = SONNET, demand: Demand | None = None, **members: Any) -> Any:
    """The body that goes upstream."""
    told = list(messages) or [{"role": "user", "content": "Hello"}]
    body = {"model": "gpt-x", "messages": told, **members}
    return json.loads(PROVIDER.request(a_call(body, demand=demand), claude(model)).body)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def called(*calls: tuple[str, str, str], content: str | None = None, **more: Any) -> dict[str, Any]:
    functions = [{"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in calls]
    return {"role": "assistant", "content": content, "tool_calls": functions, **more}


def result(identity: str, content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": content}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def refused(*messages: dict[str, Any], **members: Any) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        said(*messages, **members)
    assert caught.value.status == 400
    return caught.value


def test_the_whole_request_of_a_plain_question() -> None:
    target = claude(headers={"X-Team": "one"})
    call = a_call(
        {"model": "gpt-x", "messages": [user("Hello")], "stream": True},
        headers=[(b"anthropic-beta", b"a,b"), (b"cookie", b"secret"), (b"anthropic-version", b"2099-01-01")],
    )
    request = PROVIDER.request(call, target)
    assert (request.method, request.target) == (b"POST", b"/v1/messages")
    assert (request.origin.host, request.origin.port) == ("api.anthropic.com", 443)
    headers = dict(request.headers)
    assert headers[b"x-api-key"] == KEY.encode()
    assert headers[b"anthropic-version"] == b"2023-06-01"
    assert headers[b"anthropic-beta"] == b"a,b"
    assert headers[b"x-team"] == b"one"
    assert headers[b"accept"] == b"text/event-stream"
    assert b"authorization" not in headers
    assert b"cookie" not in headers
    assert json.loads(request.body) == {
        "model": SONNET,
        "max_tokens": 32_000,
        "messages": [{"role": "user", "content": [text("Hello")]}],
        "stream": True,
    }


@pytest.mark.parametrize(
    ("base_url", "path"),
    [
        ("https://api.anthropic.com", b"/v1/messages"),
        ("https://api.anthropic.com/v1", b"/v1/messages"),
        ("https://llm.corp.example/anthropic/", b"/anthropic/v1/messages"),
    ],
)
def test_an_address_may_have_the_version_or_not(base_url: str, path: bytes) -> None:
    target = a_target(dialect="anthropic", base_url=base_url, upstream_model=SONNET)
    assert PROVIDER.request(a_call({"messages": [user("Hi")]}), target).target == path


@pytest.mark.parametrize(
    ("model", "version"),
    [
        ("claude-3-haiku-20240307", b"2023-06-01"),
        ("claude-opus-4-20250514", b"2023-06-01"),
        (SONNET, b"2023-06-01"),
        ("claude-opus-4-7", b"2026-10-21"),
        ("anthropic.claude-opus-5-v1:0", b"2026-10-21"),
        ("claude-sonnet-5@20260630", b"2026-10-21"),
        ("claude-mythos-5-1", b"2026-10-21"),
        ("kimi-k2", b"2023-06-01"),
    ],
)
def test_the_version_is_the_one_that_takes_what_the_model_takes(model: str, version: bytes) -> None:
    request = PROVIDER.request(a_call({"messages": [user("Hi")]}), claude(model))
    assert first(request.headers, b"anthropic-version") == version


def test_what_the_operator_configured_wins() -> None:
    target = claude(headers={"anthropic-version": "2024-01-01", "anthropic-beta": "ours"})
    call = a_call({"messages": [user("Hi")]}, headers=[(b"anthropic-beta", b"theirs")])
    headers = [pair for pair in PROVIDER.request(call, target).headers if pair[0].startswith(b"anthropic-")]
    assert sorted(headers) == [(b"anthropic-beta", b"ours"), (b"anthropic-version", b"2024-01-01")]


def test_a_token_goes_as_one() -> None:
    for target in (claude(key="sk-ant-oat01-abc"), claude(quirks={"auth": "bearer"})):
        headers = dict(PROVIDER.request(a_call({"messages": [user("Hi")]}), target).headers)
        assert headers[b"authorization"].startswith(b"Bearer sk-")
        assert b"x-api-key" not in headers


# The conversation


def test_system_and_developer_messages_are_the_system_in_their_order() -> None:
    told = said(
        {"role": "system", "content": "One."},
        user("Hello"),
        {"role": "developer", "content": [{**text("Two."), "cache_control": {"type": "ephemeral"}}]},
    )
    assert told["system"] == [text("One."), {**text("Two."), "cache_control": {"type": "ephemeral"}}]
    assert told["messages"] == [{"role": "user", "content": [text("Hello")]}]


def test_neighbours_of_one_role_are_one_message_and_blank_text_is_left_out() -> None:
    told = said(
        user("One"),
        user([text("Two"), text("  ")]),
        {"role": "assistant", "content": ""},
        user("Three"),
        {"role": "assistant", "content": "Four"},
        {"role": "assistant", "content": "Five \n"},
    )
    assert told["messages"] == [
        {"role": "user", "content": [text("One"), text("Two"), text("Three")]},
        {"role": "assistant", "content": [text("Four"), text("Five")]},
    ]


@pytest.mark.parametrize(
    ("messages", "first_content"),
    [
        ([{"role": "assistant", "content": "Hi"}, user("Hello")], [text(".")]),
        ([{"role": "system", "content": "Be."}], [text("Be.")]),
        ([user("")], [text(".")]),
    ],
)
def test_a_conversation_begins_with_the_user(messages: list[dict[str, Any]], first_content: Any) -> None:
    told = said(*messages)
    assert told["messages"][0] == {"role": "user", "content": first_content}


def test_images_and_documents_keep_their_marks() -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    note = base64.b64encode("Grüße".encode()).decode()
    told = said(
        user(
            [
                {"type": "image_url", "image_url": {"url": f"data:image/jpg;base64,{PIXEL}", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}, "cache_control": mark},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PIXEL}"}},
                {"type": "file", "file": {"filename": "a.txt", "file_data": f"data:text/plain;base64,{note}"}},
                {"type": "file", "file": {"file_data": "https://x.example/b.pdf"}},
                {"type": "file", "file": {"file_id": "file_1"}},
            ]
        )
    )
    assert told["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": PIXEL}},
        {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}, "cache_control": mark},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": PIXEL},
            "title": "a.pdf",
        },
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "Grüße"},
            "title": "a.txt",
        },
        {"type": "document", "source": {"type": "url", "url": "https://x.example/b.pdf"}},
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
    ]


def test_calls_are_blocks_and_their_results_begin_the_next_message() -> None:
    told = said(
        user("Weather and time?"),
        called(
            ("call_1", "weather", '{"city":"Ulm","id":9007199254740993,"n":1.50}'), ("functions.time:0", "time", "")
        ),
        user("Quick!"),
        result(
            "functions.time:0", [text("noon"), {"type": "image_url", "image_url": f"data:image/png;base64,{PIXEL}"}]
        ),
        result("call_1", [{**text("rain"), "cache_control": {"type": "ephemeral"}}]),
        tools=[WEATHER, TIME],
    )
    _, asked, answered = told["messages"]
    renamed = asked["content"][1]["id"]
    assert renamed.startswith("call")
    assert renamed.isalnum()
    assert asked["content"] == [
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Ulm", "id": 2**53 + 1, "n": 1.5}},
        {"type": "tool_use", "id": renamed, "name": "time", "input": {}},
    ]
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    assert answered["role"] == "user"
    assert answered["content"] == [
        {"type": "tool_result", "tool_use_id": renamed, "content": [text("noon"), image]},
        {
            "type": "tool_result",
            "tool_use_id": "call_1",
            "content": [text("rain")],
            "cache_control": {"type": "ephemeral"},
        },
        text("Quick!"),
    ]


def test_numbers_in_arguments_stay_as_the_model_wrote_them() -> None:
    call = a_call({"messages": [user("Hi"), called(("a", "f", '{"n":1.50,"big":123456789012345678901234567890}'))]})
    assert b'"input":{"n":1.50,"big":123456789012345678901234567890}' in PROVIDER.request(call, claude()).body


def test_signed_thoughts_go_back_first_and_others_do_not() -> None:
    signed = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    hidden = {"type": "redacted_thinking", "data": "xyz"}
    unsigned = {"type": "thinking", "thinking": "Other.", "signature": ""}
    thought = called(
        ("a", "time", "{}"), content="Wait.", reasoning_content="Hm.", thinking_blocks=[signed, hidden, unsigned]
    )
    told = said(user("Hi"), thought, result("a", "noon"), tools=[TIME])
    assert told["messages"][1]["content"] == [
        signed,
        hidden,
        text("Wait."),
        {"type": "tool_use", "id": "a", "name": "time", "input": {}},
    ]


def test_a_history_with_calls_states_their_tools() -> None:
    told = said(user("Hi"), called(("a", "time", "{}")), result("a", "noon"))
    assert told["tools"] == [{"name": "time", "input_schema": {"type": "object", "properties": {}}}]
    assert told["tool_choice"] == {"type": "none"}


# Tools


def test_tools_have_a_schema_that_is_an_objects() -> None:
    marked = {**WEATHER, "cache_control": {"type": "ephemeral"}}
    told = said(tools=[marked, TIME])
    assert told["tools"] == [
        {
            "name": "weather",
            "description": "Tells the weather.",
            "input_schema": WEATHER["function"]["parameters"],
            "cache_control": {"type": "ephemeral"},
        },
        {"name": "time", "input_schema": {"type": "object", "properties": {}}},
    ]
    assert "tool_choice" not in told


def test_a_strict_tool_is_strict_where_the_model_can_be() -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    (new,), (old,) = said(tools=[strict])["tools"], said(tools=[strict], model=OLD)["tools"]
    assert new["strict"] is True
    assert new["input_schema"]["additionalProperties"] is False
    assert "strict" not in old
    assert "additionalProperties" not in old["input_schema"]


@pytest.mark.parametrize(
    ("choice", "told_choice"),
    [
        ("auto", {"type": "auto"}),
        ("required", {"type": "any"}),
        ("none", {"type": "none"}),
        ({"type": "function", "function": {"name": "time"}}, {"type": "tool", "name": "time"}),
    ],
)
def test_every_tool_choice_has_its_like(choice: Any, told_choice: Any) -> None:
    assert said(tools=[WEATHER, TIME], tool_choice=choice)["tool_choice"] == told_choice


def test_allowed_tools_are_the_only_ones_shown() -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "time"}}]}
    told = said(tools=[WEATHER, TIME], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert [tool["name"] for tool in told["tools"]] == ["time"]
    assert told["tool_choice"] == {"type": "any"}


def test_no_parallel_calls() -> None:
    assert said(tools=[TIME], parallel_tool_calls=False)["tool_choice"] == {
        "type": "auto",
        "disable_parallel_tool_use": True,
    }
    assert said(tools=[TIME], tool_choice="none", parallel_tool_calls=False)["tool_choice"] == {"type": "none"}
    assert "tool_choice" not in said(parallel_tool_calls=False)


def test_a_choice_without_its_tool_is_refused() -> None:
    assert refused(tools=[TIME], tool_choice={"type": "function", "function": {"name": "nope"}}).param == "tool_choice"
    assert refused(tool_choice="required").param == "tool_choice"
    assert "tools" not in said(tool_choice="auto")


@pytest.mark.parametrize("model", [OPUS, "claude-sonnet-5-5", "claude-fable-5-1"])
def test_a_model_that_always_thinks_cannot_be_made_to_call(model: str) -> None:
    error = refused(tools=[TIME], tool_choice="required", model=model)
    assert (error.param, error.code) == ("tool_choice", "unsupported_parameter")


def test_web_search_is_anthropics_own_tool() -> None:
    place = {"type": "approximate", "approximate": {"city": "Ulm", "country": "DE"}}
    told = said(web_search_options={"user_location": place})
    assert told["tools"] == [
        {
            "type": "web_search_20250305",
            "name": "web_search",
            "user_location": {"type": "approximate", "city": "Ulm", "country": "DE"},
        }
    ]


# How it answers


def test_the_cap_in_force_is_told() -> None:
    assert said(max_tokens=50, demand=Demand(requested_cap=50, output_cap=50))["max_tokens"] == 50
    assert said(max_completion_tokens=50, demand=Demand(requested_cap=50, output_cap=20))["max_tokens"] == 20
    assert said(model=OLD)["max_tokens"] == 8192


def test_sampling_is_told_where_the_model_takes_it() -> None:
    assert said(temperature=1.7, top_p=0.5, top_k=5)["temperature"] == 1
    warm = said(temperature=0.3, top_p=0.5, top_k=5)
    assert (warm["temperature"], warm["top_k"]) == (0.3, 5)
    assert "top_p" not in warm
    assert said(top_p=0.5)["top_p"] == 0.5
    assert not {"temperature", "top_p", "top_k"} & said(temperature=0.3, top_p=0.5, top_k=5, model=OPUS).keys()
    assert "temperature" not in said(temperature=0.3, reasoning_effort="high")


def test_stops_and_the_user_are_told() -> None:
    told = said(stop=["END", "\n"], user="ada")
    assert (told["stop_sequences"], told["metadata"]) == (["END"], {"user_id": "ada"})
    assert len(said(user="x" * 300)["metadata"]["user_id"]) == 64


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        (SONNET, "high", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
        (SONNET, "xhigh", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
        (
            OPUS,
            "xhigh",
            {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "xhigh"}},
        ),
        (OPUS, "none", {"output_config": {"effort": "low"}}),
        ("claude-opus-5", "none", {"thinking": {"type": "disabled"}}),
        ("claude-sonnet-5-5", "none", {"thinking": {"type": "between_tools"}}),
        (SONNET, "none", {}),
        (HAIKU, "medium", {"thinking": {"type": "enabled", "budget_tokens": 8192}}),
        (OLD, "high", {}),
    ],
)
def test_an_effort_is_told_as_each_model_takes_it(model: str, effort: str, expected: dict[str, Any]) -> None:
    told = said(reasoning_effort=effort, model=model)
    assert {name: told[name] for name in ("thinking", "output_config") if name in told} == expected


def test_a_budget_leaves_room_for_an_answer() -> None:
    def budget(cap: int) -> Any:
        return said(reasoning_effort="high", model=HAIKU, demand=Demand(requested_cap=cap, output_cap=cap)).get(
            "thinking"
        )

    assert budget(4096) == {"type": "enabled", "budget_tokens": 2048}
    assert budget(2000) is None


def test_thinking_is_turned_off_where_a_tool_must_be_called() -> None:
    assert "thinking" not in said(tools=[TIME], tool_choice="required", reasoning_effort="high", model=HAIKU)
    told = said(tools=[TIME], tool_choice="required", reasoning_effort="max", model="claude-opus-5")
    assert (told["thinking"], told["output_config"]) == ({"type": "disabled"}, {"effort": "high"})
    assert said(tools=[TIME], tool_choice="required", model="claude-opus-5")["thinking"] == {"type": "disabled"}


def test_no_thinking_by_a_budget_where_the_client_lost_the_thoughts() -> None:
    lost = [user("Hi"), called(("a", "time", "{}")), result("a", "noon")]
    assert "thinking" not in said(*lost, tools=[TIME], reasoning_effort="high", model=HAIKU)
    kept = called(("a", "time", "{}"), thinking_blocks=[{"type": "thinking", "thinking": "", "signature": "s"}])
    assert "thinking" in said(user("Hi"), kept, result("a", "noon"), tools=[TIME], reasoning_effort="high", model=HAIKU)
    assert "thinking" in said(*lost, user("And?"), tools=[TIME], reasoning_effort="high", model=HAIKU)


def test_a_clients_own_words_for_thinking_win() -> None:
    own = {"type": "enabled", "budget_tokens": 5000}
    assert said(thinking=own, reasoning_effort="low", model=HAIKU)["thinking"] == own
    told = said(output_config={"task_budget": 1}, reasoning_effort="low", response_format=SCHEMA)
    assert told["output_config"].keys() == {"task_budget", "effort", "format"}


def test_a_schema_is_kept_to_by_models_that_can() -> None:
    told = said(response_format=SCHEMA)
    assert told["output_config"] == {
        "format": {
            "type": "json_schema",
            "schema": {
                "type": "object",
                "properties": {"age": {"type": "integer", "description": "(minimum: 0)"}},
                "required": ["age"],
                "additionalProperties": False,
            },
        }
    }
    assert "tools" not in told


def test_older_models_give_a_schema_by_a_tool() -> None:
    told = said(response_format=SCHEMA, model=OLD)
    (tool,) = told["tools"]
    assert (tool["name"], tool["input_schema"]) == ("aidock_answer", SCHEMA["json_schema"]["schema"])
    assert told["tool_choice"] == {"type": "tool", "name": "aidock_answer"}
    beside = said(response_format=SCHEMA, model=OLD, tools=[TIME])
    assert ([tool["name"] for tool in beside["tools"]], beside["tool_choice"]) == (
        ["time", "aidock_answer"],
        {"type": "any"},
    )
    forced = said(response_format=SCHEMA, model=OLD, tools=[TIME], tool_choice="required")
    assert [tool["name"] for tool in forced["tools"]] == ["time"]
    silent = said(response_format=SCHEMA, model=OLD, tools=[TIME], tool_choice="none")
    assert silent["tool_choice"] == {"type": "tool", "name": "aidock_answer"}


def test_any_json_is_asked_for_in_words() -> None:
    told = said({"role": "system", "content": "Be."}, user("Hi"), response_format={"type": "json_object"})
    assert told["system"][0] == text("Be.")
    assert "JSON object" in told["system"][1]["text"]


def test_anthropics_own_members_pass_and_hints_are_dropped() -> None:
    told = said(
        cache_control={"type": "ephemeral"},
        service_tier="standard_only",
        seed=1,
        logit_bias={"1": 2},
        store=True,
        metadata={"a": "b"},
        presence_penalty=0.1,
        verbosity="low",
    )
    assert told.keys() == {"model", "max_tokens", "messages", "cache_control", "service_tier"}
    assert "service_tier" not in said(service_tier="flex")


# What it has no like of


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "modalities"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
    ],
)
def test_what_claude_cannot_do_is_said(members: dict[str, Any], param: str) -> None:
    assert refused(**members).param == param


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": PIXEL, "format": "wav"}},
        {"type": "file", "file": {"filename": "a.bin", "file_data": f"data:application/zip;base64,{PIXEL}"}},
        {"type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,%%%"}},
        {"type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,/w=="}},
    ],
)
def test_parts_that_claude_cannot_read_are_refused(part: dict[str, Any]) -> None:
    assert refused(user([part])).param == "messages"


@pytest.mark.parametrize("arguments", ["[1]", "{", "1", '"\\ud800"', "nonsense"])
def test_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    assert refused(user("Hi"), called(("a", "time", arguments)), result("a", "noon")).param == "messages"


def test_absurd_depth_is_refused() -> None:
    schema = b'{"items":' * 900 + b"1" + b"}" * 900
    body = b'{"messages":[{"role":"user","content":"Hi"}],"response_format":{"type":"json_schema","json_schema":'
    body += b'{"name":"x","schema":' + schema + b"}}}"
    with pytest.raises(GatewayError) as caught:
        PROVIDER.request(a_call(body), claude())
    assert caught.value.status == 400

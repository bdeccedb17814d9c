"""What Ollama is asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.call import Demand
from gateway.core.errors import GatewayError
from gateway.core.headers import first
from providers.ollama import PROVIDER
from tests.providers.calls import EMBEDDINGS, a_call
from tests.providers.ollama import local

USER = {"role": "user", "content": "Hi"}
CLOCK = {"type": "function", "function": {"name": "clock"}}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells.", "strict": True, "parameters": {"type": "object"}},
}


def asked(demand: Demand | None = None, **members: Any) -> Any:
    call = a_call({"model": "m", "messages": [USER], **members}, demand=demand)
    return json.loads(PROVIDER.request(call, local()).body)


def called(identity: str, arguments: str = '{"city":"Oslo"}') -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": "weather", "arguments": arguments}}


def test_a_plain_question_is_asked_and_nothing_else() -> None:
    assert asked() == {"model": "qwen3:8b", "messages": [{"role": "user", "content": "Hi"}], "stream": False}
    assert asked(stream=True, stream_options={"include_usage": True})["stream"] is True


def test_the_path_is_ollamas_and_a_key_goes_along_where_there_is_one() -> None:
    request = PROVIDER.request(a_call({"model": "m", "messages": [USER]}), local())
    assert (request.origin.port, request.target) == (11434, b"/api/chat")
    assert first(request.headers, b"authorization") is None
    keyed = PROVIDER.request(a_call({"model": "m", "messages": [USER]}), local(key="secret"))
    assert first(keyed.headers, b"authorization") == b"Bearer secret"


def test_content_is_always_one_text_with_its_pictures_beside_it() -> None:
    parts = [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
        {"type": "input_audio", "input_audio": {"data": "REVG", "format": "wav"}},
        {"type": "text", "text": "here"},
    ]
    told = asked(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": parts},
            {"role": "developer", "content": "Be kind."},
        ]
    )
    assert told["messages"] == [
        {"role": "system", "content": "Be brief.\n\nBe kind."},
        {"role": "user", "content": "Look\nhere", "images": ["QUJD", "REVG"]},
    ]


def test_calls_have_objects_as_arguments_and_results_their_tools_name() -> None:
    told = asked(
        messages=[
            USER,
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "Hm.",
                "tool_calls": [called("a"), called("b", "")],
            },
            {"role": "tool", "tool_call_id": "a", "content": "rain"},
        ]
    )
    assert told["messages"][1:] == [
        {
            "role": "assistant",
            "content": "",
            "thinking": "Hm.",
            "tool_calls": [
                {"id": "a", "function": {"index": 0, "name": "weather", "arguments": {"city": "Oslo"}}},
                {"id": "b", "function": {"index": 1, "name": "weather", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "a", "tool_name": "weather"},
    ]


def test_numbers_in_arguments_stay_as_the_model_wrote_them() -> None:
    messages = [USER, {"role": "assistant", "tool_calls": [called("a", '{"n": 9007199254740993, "x": 1.50}')]}]
    body = PROVIDER.request(a_call({"model": "m", "messages": messages}), local()).body
    assert b"9007199254740993" in body
    assert b"1.50" in body


@pytest.mark.parametrize(
    ("choice", "shown"),
    [
        (None, ["weather", "clock"]),
        ("auto", ["weather", "clock"]),
        ("none", None),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CLOCK]}}, ["clock"]),
    ],
)
def test_it_is_shown_the_tools_that_it_may_call(choice: object, shown: list[str] | None) -> None:
    told = asked(tools=[WEATHER, CLOCK], tool_choice=choice).get("tools")
    assert (told and [tool["function"]["name"] for tool in told]) == shown


def test_a_tool_has_parameters_even_where_it_takes_none() -> None:
    weather, clock = asked(tools=[WEATHER, CLOCK])["tools"]
    assert weather == {
        "type": "function",
        "function": {"name": "weather", "description": "Tells.", "parameters": {"type": "object"}},
    }
    assert clock["function"]["parameters"] == {"type": "object", "properties": {}}


def test_settings_are_options() -> None:
    told = asked(
        Demand(requested_cap=90, output_cap=50),
        temperature=0.2,
        top_p=0.9,
        stop="x",
        seed=7,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        max_tokens=90,
        top_k=3,
        num_ctx=8192,
        keep_alive="10m",
        user="u",
        logit_bias={"1": 1},
        store=True,
        parallel_tool_calls=False,
    )
    assert told["options"] == {
        "num_ctx": 8192,
        "top_k": 3,
        "num_predict": 50,
        "temperature": 0.2,
        "top_p": 0.9,
        "stop": ["x"],
        "seed": 7,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
    }
    assert told["keep_alive"] == "10m"
    assert told.keys() == {"model", "messages", "stream", "options", "keep_alive"}


@pytest.mark.parametrize(
    ("own", "cap", "means"), [(-1, 50, 50), (10, 50, 10), (99, 50, 50), (True, 50, 50), ("x", 50, 50), (99, None, 99)]
)
def test_an_option_cannot_lift_the_cap(own: Any, cap: int | None, means: Any) -> None:
    assert asked(Demand(output_cap=cap), options={"num_predict": own, "mirostat": 1})["options"] == {
        "num_predict": means,
        "mirostat": 1,
    }


def test_a_format_is_a_word_or_the_schema_itself() -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert asked(response_format=wanted)["format"] == schema
    assert asked(response_format={"type": "json_object"})["format"] == "json"
    assert "format" not in asked(response_format={"type": "text"})


@pytest.mark.parametrize(
    ("effort", "think"), [("none", False), ("minimal", "low"), ("low", "low"), ("high", "high"), ("xhigh", "max")]
)
def test_effort_is_how_it_thinks(effort: str, think: object) -> None:
    assert asked(reasoning_effort=effort)["think"] == think


def test_its_own_word_on_thinking_outranks_the_effort() -> None:
    assert asked(think=True, reasoning_effort="low")["think"] is True


def test_probabilities_can_be_asked_for() -> None:
    told = asked(logprobs=True, top_logprobs=3)
    assert (told["logprobs"], told["top_logprobs"]) == (True, 3)
    assert "top_logprobs" not in asked(top_logprobs=3)


def part(**members: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [members]}]}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"tools": [CLOCK], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "clock"}}}, "tool_choice"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"reasoning_effort": "turbo"}, "reasoning_effort"),
        ({"options": [1]}, "options"),
        (part(type="image_url", image_url="https://example.com/a.png"), "messages"),
        (part(type="file", file={"file_data": "data:application/pdf;base64,QUJD"}), "messages"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [called("a", "[1]")]}]}, "messages"),
    ],
)
def test_what_cannot_be_asked_is_a_400_that_names_its_member(members: dict[str, Any], param: str) -> None:
    with pytest.raises(GatewayError) as caught:
        asked(**members)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_one_answer_is_all_there_is() -> None:
    with pytest.raises(GatewayError) as caught:
        asked(Demand(choices=2), n=2)
    assert (caught.value.status, caught.value.param) == (400, "n")


def test_nesting_without_end_is_a_400_and_never_worse() -> None:
    def status(depth: int) -> int:
        deep = '{"a":' * depth + "1" + "}" * depth
        raw = json.dumps({"model": "m", "messages": [USER]})[:-1] + f', "options": {deep}}}'
        try:
            PROVIDER.request(a_call(raw.encode()), local())
        except GatewayError as error:
            return error.status
        return 200

    assert {status(depth) for depth in (10, *range(800, 1000), 5000)} == {200, 400}


def test_embeddings_are_asked_for_all_at_once() -> None:
    body = {"model": "m", "input": "Hi", "dimensions": 3, "truncate": False, "encoding_format": "base64", "user": "u"}
    request = PROVIDER.request(a_call(body, endpoint=EMBEDDINGS), local("nomic-embed-text"))
    assert request.target == b"/api/embed"
    assert json.loads(request.body) == {
        "model": "nomic-embed-text",
        "input": ["Hi"],
        "dimensions": 3,
        "truncate": False,
    }


def test_tokens_cannot_be_embedded() -> None:
    with pytest.raises(GatewayError) as caught:
        PROVIDER.request(a_call({"model": "m", "input": [1, 2]}, endpoint=EMBEDDINGS), local())
    assert (caught.value.status, caught.value.param) == (400, "input")

"""How Gemini is told to answer, and what it cannot be asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.call import Demand
from gateway.core.errors import GatewayError
from providers._gemini_request import chat_body
from providers._gemini_signatures import Signatures
from tests.providers.calls import a_call
from tests.providers.gemini import CLOCK, USER, asked, called, studio


def test_settings_have_their_names() -> None:
    call = a_call(
        {
            "model": "m",
            "messages": [USER],
            "temperature": 0.2,
            "top_p": 0.9,
            "stop": ["a", "b"],
            "seed": 2**40 + 7,
            "n": 3,
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
            "logprobs": True,
            "top_logprobs": 4,
            "user": "u",
            "logit_bias": {"1": 2},
            "store": True,
            "parallel_tool_calls": False,
        },
        demand=Demand(choices=3, requested_cap=900, output_cap=50),
    )
    assert json.loads(chat_body(call, studio(), Signatures())) == {
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
        "generationConfig": {
            "maxOutputTokens": 50,
            "temperature": 0.2,
            "topP": 0.9,
            "stopSequences": ["a", "b"],
            "seed": 7,
            "candidateCount": 3,
            "presencePenalty": 0.5,
            "frequencyPenalty": -0.5,
            "responseLogprobs": True,
            "logprobs": 4,
        },
    }


def test_a_format_is_a_type_and_a_schema() -> None:
    schema = {"$schema": "x", "type": "object", "properties": {"kind": {"const": 1}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    assert asked(response_format=wanted)["generationConfig"] == {
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object", "properties": {"kind": {"enum": [1]}}},
    }
    assert asked(response_format={"type": "json_object"})["generationConfig"] == {
        "responseMimeType": "application/json"
    }


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-flash", "low", {"thinkingBudget": 1024, "includeThoughts": True}),
        ("gemini-2.5-flash", "max", {"thinkingBudget": 24576, "includeThoughts": True}),
        ("gemini-2.5-pro", "none", {"thinkingBudget": 128}),
        ("gemini-2.5-pro", "xhigh", {"thinkingBudget": 32768, "includeThoughts": True}),
        ("gemini-3.6-flash", "none", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.6-flash", "medium", {"thinkingLevel": "MEDIUM", "includeThoughts": True}),
        ("gemini-3.1-pro-preview", "minimal", {"thinkingLevel": "LOW", "includeThoughts": True}),
        ("publishers/google/models/gemini-3.5-flash", "max", {"thinkingLevel": "HIGH", "includeThoughts": True}),
    ],
)
def test_effort_is_a_budget_for_the_second_generation_and_a_level_for_the_third(
    model: str, effort: str, config: dict[str, Any]
) -> None:
    told = asked(studio(model), reasoning_effort=effort)
    assert told["generationConfig"]["thinkingConfig"] == config


@pytest.mark.parametrize("model", ["gemini-2.0-flash", "gemma-3-27b-it", "gemini-2.5-flash-image"])
def test_models_that_do_not_think_are_not_told_to(model: str) -> None:
    assert "generationConfig" not in asked(studio(model), reasoning_effort="high")


def test_geminis_own_members_pass_in_either_spelling_and_below_google() -> None:
    own = {"thinking_config": {"thinking_budget": 5, "include_thoughts": True}, "cached_content": "cachedContents/1"}
    safety = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    told = asked(extra_body={"google": own}, safetySettings=safety, top_k=3, reasoning_effort="low")
    assert told["cachedContent"] == "cachedContents/1"
    assert told["safetySettings"] == safety
    assert told["generationConfig"] == {"topK": 3, "thinkingConfig": own["thinking_config"]}


def test_pictures_can_be_asked_for() -> None:
    told = asked(modalities=["text", "image"])
    assert told["generationConfig"] == {"responseModalities": ["TEXT", "IMAGE"]}


DEEP = json.loads('{"items":' * 100 + "{}" + "}" * 100)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"stop": list("abcdef")}, "stop"),
        ({"n": 9}, "n"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"reasoning_effort": "turbo"}, "reasoning_effort"),
        ({"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "nope"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"messages": [{"role": "tool", "tool_call_id": "x", "content": "y"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "gs://b/x"}}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://[::1"}]}]}, "messages"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [called("a", arguments="[1]")]}]}, "messages"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [called("a", arguments="{oops")]}]}, "messages"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": DEEP}}]},
            "tools[0].function.parameters",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": DEEP}}},
            "response_format.json_schema.schema",
        ),
    ],
)
def test_what_cannot_be_asked_is_a_400_that_names_its_member(members: dict[str, Any], param: str) -> None:
    with pytest.raises(GatewayError) as caught:
        asked(**members)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_nesting_without_end_is_a_400_and_never_worse() -> None:
    def status(depth: int) -> int:
        deep = '{"a":' * depth + "1" + "}" * depth
        raw = json.dumps({"model": "m", "messages": [USER]})[:-1] + f', "safety_settings": {deep}}}'
        try:
            chat_body(a_call(raw.encode()), studio(), Signatures())
        except GatewayError as error:
            return error.status
        return 200

    assert {status(depth) for depth in (10, *range(800, 1000), 5000)} == {200, 400}

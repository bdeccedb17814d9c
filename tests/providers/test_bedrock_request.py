from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.call import Demand
from gateway.core.errors import GatewayError
from providers.bedrock import PROVIDER
from tests.providers.calls import EMBEDDINGS, KEY, a_call, a_target

BASE = "https://bedrock-runtime.eu-west-1.amazonaws.com"
OLD = "anthropic.claude-3-7-sonnet-20250219-v1:0"
NEW = "eu.anthropic.claude-opus-4-6-v1:0"
HI = [{"role": "user", "content": "Hi"}]
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Tells.", "strict": True}}
TIME = {"type": "function", "function": {"name": "time", "parameters": {"type": "object"}}}
CALL = {
    "id": "functions.weather:0",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
}


def a_model(name: str = "amazon.nova-pro-v1:0") -> Any:
    return a_target(dialect="bedrock", base_url=BASE, upstream_model=name)


def told(
    messages: list[dict[str, Any]] | None = None,
    *,
    model: str = "amazon.nova-pro-v1:0",
    cap: int | None = None,
    **members: Any,
) -> Any:
    demand = Demand(requested_cap=cap, output_cap=cap)
    call = a_call({"model": "m", "messages": messages or HI, **members}, demand=demand)
    return json.loads(PROVIDER.request(call, a_model(model)).body)


@pytest.mark.parametrize(("streamed", "verb"), [(False, b"converse"), (True, b"converse-stream")])
def test_the_model_is_one_segment_of_the_path(streamed: bool, verb: bytes) -> None:
    call = a_call({"model": "m", "messages": HI, "stream": streamed})
    request = PROVIDER.request(call, a_model("arn:aws:bedrock:eu:1:inference-profile/eu.x-v1:0"))
    assert request.target == b"/model/arn%3Aaws%3Abedrock%3Aeu%3A1%3Ainference-profile%2Feu.x-v1%3A0/" + verb
    assert (b"authorization", b"Bearer " + KEY.encode()) in request.headers
    assert json.loads(request.body) == {"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}


def test_turns_alternate_and_results_come_first() -> None:
    body = told(
        [
            {"role": "system", "content": "Be brief."},
            {
                "role": "developer",
                "content": [{"type": "text", "text": "Kind.", "cache_control": {"type": "ephemeral"}}],
            },
            {"role": "user", "content": "Weather?"},
            {"role": "user", "content": " "},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "user", "content": "And?"},
            {"role": "tool", "tool_call_id": "functions.weather:0", "content": "rain"},
        ],
        tools=[WEATHER],
    )
    assert body["system"] == [{"text": "Be brief."}, {"text": "Kind."}, {"cachePoint": {"type": "default"}}]
    identity = body["messages"][1]["content"][0]["toolUse"]["toolUseId"]
    assert identity.isalnum()
    assert len(identity) <= 64
    assert body["messages"] == [
        {"role": "user", "content": [{"text": "Weather?"}]},
        {
            "role": "assistant",
            "content": [{"toolUse": {"toolUseId": identity, "name": "weather", "input": {"city": "Oslo"}}}],
        },
        {
            "role": "user",
            "content": [{"toolResult": {"toolUseId": identity, "content": [{"text": "rain"}]}}, {"text": "And?"}],
        },
    ]


def test_a_conversation_begins_with_a_user_who_says_something() -> None:
    assert told([{"role": "system", "content": "Be brief."}]) == {
        "messages": [{"role": "user", "content": [{"text": "Be brief."}]}]
    }
    assert told([{"role": "user", "content": ""}])["messages"][0]["content"] == [{"text": "."}]
    assert [m["role"] for m in told([{"role": "assistant", "content": "Hi"}, *HI])["messages"]] == [
        "user",
        "assistant",
        "user",
    ]


def test_images_documents_and_audio_go_inline() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,QUJD"}},
        {"type": "file", "file": {"filename": "my_report (1).pdf", "file_data": "data:application/pdf;base64,QUJD"}},
        {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "mp3"}},
    ]
    assert told([{"role": "user", "content": parts}])["messages"][0]["content"] == [
        {"image": {"format": "jpeg", "source": {"bytes": "QUJD"}}},
        {"document": {"format": "pdf", "name": "my-report (1)", "source": {"bytes": "QUJD"}}},
        {"audio": {"format": "mp3", "source": {"bytes": "QUJD"}}},
    ]


def test_signed_thoughts_go_back_and_unsigned_ones_do_not() -> None:
    blocks = [
        {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
        {"type": "redacted_thinking", "data": "xyz"},
    ]
    echoed = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm.", "thinking_blocks": blocks}
    assert told([*HI, echoed])["messages"][1]["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "sig"}}},
        {"reasoningContent": {"redactedContent": "xyz"}},
        {"text": "Yes."},
    ]


@pytest.mark.parametrize(
    ("choice", "names", "means"),
    [
        ("auto", ["weather", "time"], None),
        ("required", ["weather", "time"], {"any": {}}),
        ({"type": "function", "function": {"name": "time"}}, ["weather", "time"], {"tool": {"name": "time"}}),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TIME]}}, ["time"], None),
    ],
)
def test_every_tool_choice_has_its_like(choice: Any, names: list[str], means: Any) -> None:
    config = told(tools=[WEATHER, TIME], tool_choice=choice)["toolConfig"]
    assert [tool["toolSpec"]["name"] for tool in config["tools"]] == names
    assert config.get("toolChoice") == means


def test_tools_that_must_not_be_called_are_left_out_unless_the_history_needs_them() -> None:
    assert "toolConfig" not in told(tools=[WEATHER], tool_choice="none")
    history = [
        *HI,
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": CALL["id"], "content": "x"},
    ]
    assert [tool["toolSpec"]["name"] for tool in told(history)["toolConfig"]["tools"]] == ["weather"]


def test_a_tool_is_told_with_its_schema_and_its_strictness() -> None:
    assert told(tools=[WEATHER])["toolConfig"]["tools"] == [
        {
            "toolSpec": {
                "name": "weather",
                "description": "Tells.",
                "inputSchema": {"json": {"type": "object"}},
                "strict": True,
            }
        }
    ]


def test_settings_have_their_own_names_and_ranges() -> None:
    body = told(cap=20, stop=["END", " "], temperature=1.7, top_p=0.9, seed=1, user="ada")
    assert body["inferenceConfig"] == {"maxTokens": 20, "temperature": 1.0, "topP": 0.9, "stopSequences": ["END"]}
    assert body.keys() == {"messages", "inferenceConfig"}


def test_a_schema_for_the_answer_is_text_there() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    assert told(response_format=wanted)["outputConfig"] == {
        "textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": '{"type":"object"}', "name": "a"}}}
    }


def test_older_claudes_think_within_a_budget_and_newer_ones_with_an_effort() -> None:
    old = told(model=OLD, cap=9000, reasoning_effort="medium", temperature=0.5)
    assert old["additionalModelRequestFields"] == {"thinking": {"type": "enabled", "budget_tokens": 4096}}
    assert old["inferenceConfig"] == {"maxTokens": 9000}
    new = told(model=NEW, reasoning_effort="xhigh")
    assert new["additionalModelRequestFields"] == {"thinking": {"type": "adaptive"}}
    assert new["outputConfig"] == {"effort": "high"}
    assert "additionalModelRequestFields" not in told(model=NEW, reasoning_effort="none")


def test_a_budget_stays_below_the_cap_or_is_a_400() -> None:
    body = told(model=OLD, cap=2000, reasoning_effort="high")
    assert body["additionalModelRequestFields"]["thinking"]["budget_tokens"] == 1999
    with pytest.raises(GatewayError, match="above 1024"):
        told(model=OLD, cap=1000, reasoning_effort="high")


def test_what_a_claude_takes_past_converse_is_passed_to_it() -> None:
    body = told(model=OLD, tools=[WEATHER], parallel_tool_calls=False, top_k=5)
    assert body["additionalModelRequestFields"] == {
        "top_k": 5,
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    }
    named = told(
        model=OLD,
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
    )
    assert named["additionalModelRequestFields"]["tool_choice"] == {
        "type": "tool",
        "name": "weather",
        "disable_parallel_tool_use": True,
    }
    assert told(model="openai.gpt-oss-120b-1:0", reasoning_effort="low")["additionalModelRequestFields"] == {
        "reasoning_effort": "low"
    }


def test_converses_own_members_pass() -> None:
    guard = {"guardrailIdentifier": "g", "guardrailVersion": "1"}
    assert told(guardrailConfig=guard)["guardrailConfig"] == guard


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}, "messages"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.example/a"}}]}
                ]
            },
            "messages",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "data:image/tiff;base64,QQ"}}],
                    }
                ]
            },
            "messages",
        ),
    ],
)
def test_what_it_cannot_do_is_a_400(members: dict[str, Any], param: str) -> None:
    with pytest.raises(GatewayError) as caught:
        told(**members)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "unsupported_parameter", param)


@pytest.mark.parametrize("members", [{"modalities": 5}, {"modalities": ["text"]}, {"top_k": []}, {"thinking": 1}])
def test_members_that_make_no_sense_are_no_defect_of_ours(members: dict[str, Any]) -> None:
    assert told(**members)


@pytest.mark.parametrize("fields", [{"max_tokens": 9}, {"inferenceConfig": {"maxTokens": 9}}])
def test_fields_for_the_model_cannot_lift_the_cap(fields: dict[str, Any]) -> None:
    with pytest.raises(GatewayError, match="must not cap"):
        told(additionalModelRequestFields=fields)


def test_a_clients_own_budget_of_thought_leaves_room_for_an_answer() -> None:
    thinking = {"type": "enabled", "budget_tokens": 50_000}
    body = told(model=OLD, cap=2481, thinking=thinking)
    assert body["additionalModelRequestFields"]["thinking"] == {"type": "enabled", "budget_tokens": 2480}
    body = told(model=OLD, cap=500, thinking=thinking)
    assert "additionalModelRequestFields" not in body


def test_fields_for_the_model_must_be_an_object() -> None:
    with pytest.raises(GatewayError, match="must be an object"):
        told(additionalModelRequestFields=[1])


def test_embeddings_are_each_makers_own() -> None:
    def asked(model: str, given: Any, **members: Any) -> Any:
        call = a_call({"model": "m", "input": given, **members}, endpoint=EMBEDDINGS)
        request = PROVIDER.request(call, a_model(model))
        assert request.target.endswith(b"/invoke")
        return json.loads(request.body)

    assert asked("amazon.titan-embed-text-v2:0", "a", dimensions=256) == {"inputText": "a", "dimensions": 256}
    assert asked("cohere.embed-english-v3", ["a", "b"])["texts"] == ["a", "b"]
    for model, given in (("amazon.titan-embed-text-v2:0", ["a", "b"]), ("amazon.nova-pro-v1:0", "a")):
        with pytest.raises(GatewayError):
            asked(model, given)

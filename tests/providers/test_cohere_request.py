from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.call import Demand
from gateway.core.errors import GatewayError
from gateway.endpoints import rerank
from providers.cohere import PROVIDER
from tests.providers.calls import EMBEDDINGS, KEY, a_call, a_target

TARGET = a_target(dialect="cohere", base_url="https://api.cohere.com", upstream_model="command-x")
HI = [{"role": "user", "content": "Hi"}]
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Tells.", "strict": True}}
TIME = {"type": "function", "function": {"name": "time", "parameters": {"type": "object"}}}


def told(messages: list[dict[str, Any]] | None = None, *, demand: Demand | None = None, **members: Any) -> Any:
    call = a_call({"model": "m", "messages": messages or HI, **members}, demand=demand or Demand())
    return json.loads(PROVIDER.request(call, TARGET).body)


def test_a_plain_question_goes_to_v2_chat_with_the_key() -> None:
    request = PROVIDER.request(a_call({"model": "m", "messages": HI}), TARGET)
    assert (request.method, request.target) == (b"POST", b"/v2/chat")
    assert (b"authorization", b"Bearer " + KEY.encode()) in request.headers
    assert json.loads(request.body) == {
        "model": "command-x",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": False,
    }


def test_every_role_is_told() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather"}, {"type": "text", "text": "?"}]},
        {"role": "assistant", "content": "I will look.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "assistant", "content": "Rain.", "reasoning_content": "Hm."},
        {"role": "assistant", "content": "Bye."},
    ]
    assert told(messages)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "tool_calls": [call], "tool_plan": "I will look."},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Rain."}],
        },
        {"role": "assistant", "content": "Bye."},
    ]


def test_images_are_sent_by_address_and_inline() -> None:
    parts = [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": "https://pictures.example.com/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
    ]
    content = told([{"role": "user", "content": parts}])["messages"][0]["content"]
    assert [part.get("image_url", {}).get("url") for part in content] == [
        None,
        "https://pictures.example.com/a.png",
        "data:image/png;base64,QUJD",
    ]


@pytest.mark.parametrize(
    ("choice", "names", "means"),
    [
        ("auto", ["weather", "time"], None),
        ("none", ["weather", "time"], "NONE"),
        ("required", ["weather", "time"], "REQUIRED"),
        ({"type": "function", "function": {"name": "time"}}, ["time"], "REQUIRED"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [WEATHER]}},
            ["weather"],
            None,
        ),
    ],
)
def test_every_tool_choice_has_its_like(choice: Any, names: list[str], means: str | None) -> None:
    body = told(tools=[WEATHER, TIME], tool_choice=choice)
    assert [tool["function"]["name"] for tool in body["tools"]] == names
    assert body.get("tool_choice") == means
    assert body["strict_tools"] is True


def test_what_has_another_name_or_range_is_told_under_its_own() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    body = told(
        demand=Demand(requested_cap=50, output_cap=20),
        max_tokens=50,
        stop="END",
        temperature=1.7,
        top_p=0.9,
        top_k=5,
        seed=7,
        frequency_penalty=-1,
        presence_penalty=0.5,
        reasoning_effort="low",
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    )
    assert body | {"messages": 0} == {
        "model": "command-x",
        "messages": 0,
        "stream": False,
        "max_tokens": 20,
        "stop_sequences": ["END"],
        "temperature": 1.0,
        "p": 0.9,
        "k": 5,
        "seed": 7,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.5,
        "thinking": {"type": "enabled", "token_budget": 1024},
        "response_format": {"type": "json_object", "json_schema": schema},
    }


def test_no_thoughts_and_no_bound_on_thoughts_can_be_said() -> None:
    assert told(reasoning_effort="none")["thinking"] == {"type": "disabled"}
    assert told(reasoning_effort="high")["thinking"] == {"type": "enabled"}


def test_its_own_members_pass_and_hints_it_has_no_like_of_are_dropped() -> None:
    body = told(documents=[{"data": {"t": "x"}}], safety_mode="NONE", user="ada", store=True, verbosity="low")
    assert (body["documents"], body["safety_mode"]) == ([{"data": {"t": "x"}}], "NONE")
    assert not {"user", "store", "verbosity"} & body.keys()


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}, "messages"),
    ],
)
def test_what_it_cannot_do_is_a_400(members: dict[str, Any], param: str) -> None:
    with pytest.raises(GatewayError) as caught:
        told(**members)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "unsupported_parameter", param)


def test_several_answers_are_a_400() -> None:
    with pytest.raises(GatewayError, match="'n'"):
        told(demand=Demand(choices=2), n=2)


@pytest.mark.parametrize("members", [{"modalities": 5}, {"modalities": ["text"]}, {"top_k": []}, {"thinking": 1}])
def test_members_that_make_no_sense_are_no_defect_of_ours(members: dict[str, Any]) -> None:
    assert told(**members)


def test_embeddings_are_asked_for_as_floats() -> None:
    call = a_call(
        {"model": "m", "input": ["a", "b"], "dimensions": 256, "input_type": "search_query"}, endpoint=EMBEDDINGS
    )
    request = PROVIDER.request(call, TARGET)
    assert request.target == b"/v2/embed"
    assert json.loads(request.body) == {
        "model": "command-x",
        "texts": ["a", "b"],
        "input_type": "search_query",
        "embedding_types": ["float"],
        "output_dimension": 256,
    }


def test_documents_to_rerank_are_texts() -> None:
    body = {"model": "m", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1, "return_documents": True}
    request = PROVIDER.request(a_call(body, endpoint=rerank.ENDPOINT), TARGET)
    assert request.target == b"/v2/rerank"
    told = {"model": "command-x", "query": "q", "documents": ["a", "b"], "top_n": 1}
    assert json.loads(request.body) == told


def test_it_serves_chat_embeddings_and_reranking_and_nothing_else() -> None:
    for operation in ("chat/completions", "embeddings", "rerank"):
        assert PROVIDER.serves(operation, TARGET)
    assert not PROVIDER.serves("completions", TARGET)
